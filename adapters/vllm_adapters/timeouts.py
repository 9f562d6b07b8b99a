"""Time limits of a call."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_adapters._compat import http

__all__ = ["Timeouts"]

_UNLIMITED = 1e9
"""Seconds from which on a limit counts as none: locks and sockets do not take infinity."""


@dataclass(frozen=True)
class Timeouts:
    """Time limits of a call, in seconds; ``None`` switches one off.

    >>> from vllm_adapters import Timeouts
    >>> Timeouts(idle=60).total
    3600.0

    Args:
        connect: Until the connection is made. A client short of CPU needs more than the SDK's 5 s.
        idle: Between two pieces of the response; keep-alive comments in a stream do not count. A response that is
            not streamed comes in one piece, so this must cover its whole generation, and the wait in the server's
            queue.
        total: From the call to the last byte, over all attempts.

    Raises:
        TypeError: A limit is not a number.
        ValueError: A limit is not positive.
    """

    connect: float | None = 30.0
    idle: float | None = 600.0
    total: float | None = 3600.0

    def __post_init__(self) -> None:
        for name in ("connect", "idle", "total"):
            limit = getattr(self, name)
            if limit is None:
                continue
            if isinstance(limit, bool) or not isinstance(limit, int | float):
                raise TypeError(f"`{name}` must be a number of seconds or None, not {type(limit).__name__}.")
            if not limit > 0:
                raise ValueError(f"`{name}` must be a positive number of seconds, not {limit}. Pass None for no limit.")
            if limit > _UNLIMITED:
                object.__setattr__(self, name, None)

    @classmethod
    def of(cls, limit: object) -> Timeouts:
        """Return ``Timeouts`` from any form: ``Timeouts``, an httpx timeout, one number for all, (connect, idle).

        Raises:
            TypeError: It is none of these.
            ValueError: A limit is not positive.
        """
        if isinstance(limit, Timeouts):
            return limit
        if limit is None:
            return cls(None, None, None)
        if hasattr(limit, "connect") and hasattr(limit, "read"):  # httpx's or httpx2's
            return cls(connect=limit.connect, idle=limit.read)
        if isinstance(limit, int | float) and not isinstance(limit, bool):
            if not limit > 0:
                raise ValueError(
                    f"`timeout` must be a positive number of seconds, not {limit}. Pass None for no limit."
                )
            return cls(min(float(limit), 30.0), float(limit), float(limit))
        if isinstance(limit, tuple) and len(limit) in (2, 4):  # as httpx and LangChain take it
            return cls(*limit[:2])
        raise TypeError(
            f"`timeout` must be a number or Timeouts, not {type(limit).__name__}. "
            "Pass seconds, or Timeouts(connect=..., idle=..., total=...)."
        )

    def transport(self) -> http.Timeout:
        """Return the limits as the HTTP client takes them; waiting for a free connection counts as idle."""
        return http.Timeout(connect=self.connect, read=self.idle, write=self.idle, pool=self.idle)
