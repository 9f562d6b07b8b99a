"""Time limits of a call."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_adapters._compat import http

__all__ = ["Timeouts"]

_FOREVER = 1e9
"""Seconds from which on a limit is none: locks and sockets know no infinity."""


@dataclass(frozen=True)
class Timeouts:
    """Time limits of a call, in seconds; ``None`` switches one off.

    >>> from vllm_adapters import Timeouts
    >>> Timeouts(idle=60).total
    3600.0

    Args:
        connect: Until the connection stands. A starved client needs more than the SDK's 5 s.
        idle: Between two pieces of the reply; keep-alive comments in a stream are none. A reply that is not
            streamed comes in one piece, so this must cover its whole generation, and the wait in the server's queue.
        total: From the call to the last byte, over all attempts.
    """

    connect: float | None = 30.0
    idle: float | None = 600.0
    total: float | None = 3600.0

    def __post_init__(self) -> None:
        for name in ("connect", "idle", "total"):
            limit = getattr(self, name)
            if limit is not None and limit > _FOREVER:
                object.__setattr__(self, name, None)

    @classmethod
    def of(cls, limit: object) -> Timeouts:
        """Any of the forms users give: ``Timeouts``, an httpx timeout, one number for all three, (connect, idle).

        Raises:
            TypeError: It is none of these.
        """
        if isinstance(limit, Timeouts):
            return limit
        if limit is None:
            return cls(None, None, None)
        if hasattr(limit, "connect") and hasattr(limit, "read"):  # httpx's or httpx2's
            return cls(connect=limit.connect, idle=limit.read)
        if isinstance(limit, int | float):
            return cls(min(float(limit), 30.0), float(limit), float(limit))
        if isinstance(limit, tuple) and len(limit) in (2, 4):  # as httpx and LangChain take it
            return cls(*limit[:2])
        raise TypeError(f"timeout is seconds, or Timeouts(connect=..., idle=..., total=...), not {limit!r}")

    def transport(self) -> http.Timeout:
        """As the transport understands them; waiting for a free connection counts as idle."""
        return http.Timeout(connect=self.connect, read=self.idle, write=self.idle, pool=self.idle)
