"""How requests travel: time limits, connection pools, proxies, redirects; one pool per event loop and process.

The HTTP clients here are the SDK's own default clients, given our rules.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar, cast

from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from vllm_adapters import failures
from vllm_adapters._compat import http
from vllm_adapters.failures import Call

C = TypeVar("C")


@dataclass(frozen=True)
class Timeouts:
    """Time limits of a call, in seconds; ``None`` switches one off.

    >>> from vllm_adapters.transport import Timeouts
    >>> Timeouts(idle=60).total
    3600.0

    Args:
        connect: Until the connection stands. A starved client needs more than the SDK's 5 s.
        idle: Between two pieces of the reply. A reply that is not streamed comes in one piece, so this
            must cover its whole generation, and the wait in the server's queue.
        total: From the call to the last byte, over all attempts.
    """

    connect: float | None = 30.0
    idle: float | None = 600.0
    total: float | None = 3600.0

    @classmethod
    def of(cls, limit: object) -> Timeouts:
        """Any of the forms users give: ``Timeouts``, an httpx timeout, or one number that limits all three."""
        if isinstance(limit, Timeouts):
            return limit
        if limit is None:
            return cls(None, None, None)
        if isinstance(limit, int | float):
            return cls(min(float(limit), 30.0), float(limit), float(limit))
        return cls(connect=getattr(limit, "connect", None), idle=getattr(limit, "read", None))

    def transport(self) -> http.Timeout:
        """As the transport understands them; waiting for a free connection counts as idle."""
        return http.Timeout(connect=self.connect, read=self.idle, write=self.idle, pool=self.idle)


@dataclass(frozen=True)
class Deadline:
    """When a call must be over, and what to say when it is not."""

    limits: Timeouts
    call: Call
    at: float | None

    @classmethod
    def start(cls, limits: Timeouts, call: Call) -> Deadline:
        """A deadline that begins now."""
        return cls(limits, call, None if limits.total is None else time.monotonic() + limits.total)

    def left(self) -> float | None:
        """Seconds left, or ``None`` without a limit.

        Raises:
            ServerTimeout: None are left.
        """
        if self.at is None:
            return None
        left = self.at - time.monotonic()
        if left <= 0:
            self.blame(None, None)
        return left

    def blame(self, failure: Exception | None, request: http.Request | None) -> NoReturn:
        """Raise ``failure`` with the limit that passed, in seconds; or the total limit, if that is what passed.

        Raises:
            ServerTimeout: The total limit passed. (The SDK does not retry this one.)
        """
        if failure is None or (self.at is not None and time.monotonic() >= self.at):
            total = TotalTimeout()
            total.seconds = self.limits.total
            raise failures.from_transport(total, call=self.call, request=request) from failure
        limit = self.limits.connect if "Connect" in type(failure).__name__ else self.limits.idle
        failure.seconds = limit  # type: ignore[attr-defined]
        raise failure


class TotalTimeout(Exception):
    """The total time limit of a call passed."""

    seconds: float | None = None


DEADLINE: ContextVar[Deadline | None] = ContextVar("vllm_adapters_deadline", default=None)
"""The deadline of the call that is being sent."""


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine, which no proxy of the environment can reach for us."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class _TimedStream(http.SyncByteStream):
    def __init__(self, stream: Any, deadline: Deadline, request: http.Request) -> None:
        self._stream, self._deadline, self._request = stream, deadline, request

    def __iter__(self) -> Iterator[bytes]:
        try:
            for piece in self._stream:
                self._deadline.left()
                yield piece
        except http.TimeoutException as failure:
            self._deadline.blame(failure, self._request)

    def close(self) -> None:
        self._stream.close()


class _AsyncTimedStream(http.AsyncByteStream):
    def __init__(self, stream: Any, deadline: Deadline, request: http.Request) -> None:
        self._stream, self._deadline, self._request = stream, deadline, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._stream:
                self._deadline.left()
                yield piece
        except http.TimeoutException as failure:
            self._deadline.blame(failure, self._request)

    async def aclose(self) -> None:
        await self._stream.aclose()


def _limit(request: http.Request) -> Deadline | None:
    """Shorten the request's idle limit to what is left of the total one."""
    deadline = DEADLINE.get()
    if deadline is None:
        return None
    left = deadline.left()
    timeout = request.extensions.get("timeout")
    if left is not None and isinstance(timeout, dict):
        request.extensions["timeout"] = {
            kind: left if limit is None else min(limit, left) for kind, limit in timeout.items()
        }
    return deadline


def _next_hop(response: http.Response) -> http.Request | None:
    """The request that follows a redirect within the same origin; others are marked as refused."""
    hop = response.next_request
    if hop is None:
        return None
    here, there = response.request.url, hop.url
    if (here.scheme, here.host, here.port) == (there.scheme, there.host, there.port):
        return hop
    response.headers["x-refused-location"] = str(there.copy_with(userinfo=b"", query=None))
    return None


_MAX_HOPS = 5


class SyncHTTP(DefaultHttpxClient):
    """The SDK's HTTP client with total time limits and without redirects to another origin."""

    owner: Transports[Any]

    def send(self, request: http.Request, *, stream: bool = False, **options: Any) -> http.Response:
        """Send, following redirects within the origin only, and hold the reply to the call's deadline."""
        options["follow_redirects"] = False
        deadline = _limit(request)
        try:
            response = super().send(request, stream=True, **options)
            for _ in range(_MAX_HOPS):
                hop = _next_hop(response)
                if hop is None:
                    break
                response.close()
                response = super().send(hop, stream=True, **options)
        except http.TimeoutException as failure:
            if deadline is None:
                raise
            deadline.blame(failure, request)
        if deadline is not None:
            response.stream = _TimedStream(response.stream, deadline, request)
        if not stream:
            try:
                response.read()
            except BaseException:
                response.close()
                raise
        return response

    def __del__(self) -> None:
        if not self.is_closed:
            self.close()


class AsyncHTTP(DefaultAsyncHttpxClient):
    """``SyncHTTP`` for the async client."""

    owner: Transports[Any]

    async def send(self, request: http.Request, *, stream: bool = False, **options: Any) -> http.Response:
        """Send, following redirects within the origin only, and hold the reply to the call's deadline."""
        options["follow_redirects"] = False
        deadline = _limit(request)
        try:
            response = await super().send(request, stream=True, **options)
            for _ in range(_MAX_HOPS):
                hop = _next_hop(response)
                if hop is None:
                    break
                await response.aclose()
                response = await super().send(hop, stream=True, **options)
        except http.TimeoutException as failure:
            if deadline is None:
                raise
            deadline.blame(failure, request)
        if deadline is not None:
            response.stream = _AsyncTimedStream(response.stream, deadline, request)
        if not stream:
            try:
                await response.aread()
            except BaseException:
                await response.aclose()
                raise
        return response


_LEFT_BY_PARENT: list[Any] = []  # kept alive: collecting them in a forked child would touch the parent's sockets


class Transports(Generic[C]):
    """The HTTP clients of one SDK client: one per process, and per event loop for the async one.

    Args:
        make: Makes an HTTP client.
        per_loop: One for each running event loop, since a connection belongs to the loop that opened it.
    """

    def __init__(self, make: Callable[[], C], *, per_loop: bool) -> None:
        self._make = make
        self._per_loop = per_loop
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._loopless: C | None = None
        self._of_loop: weakref.WeakKeyDictionary[Any, C] = weakref.WeakKeyDictionary()

    def current(self) -> C:
        """The HTTP client for here and now: this process, this event loop."""
        if self._pid != os.getpid():
            _LEFT_BY_PARENT.extend([self._loopless, *self._of_loop.values()])
            self._begin()
        loop = _running_loop() if self._per_loop else None
        with self._lock:
            client = self._loopless if loop is None else self._of_loop.get(loop)
            if client is None:
                client = self._make()
                client.owner = self  # type: ignore[attr-defined]
                if loop is None:
                    self._loopless = client
                else:
                    self._of_loop[loop] = client
        return client


def _running_loop() -> Any:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None  # constructed outside a loop, or running under trio


@functools.cache
def _ssl_context() -> Any:
    return http.create_ssl_context()  # loading the certificates takes longer than a short reply


_KEPT_ALIVE = 100
"""Idle connections to keep. The pool polls each of them for every request that begins or ends, so that keeping
500 costs four times what opening them again does."""


def make_transports(cls: type[C], host: str, max_connections: int) -> Transports[C]:
    """Transports of ``cls`` (``SyncHTTP`` or ``AsyncHTTP``) for a server at ``host``.

    Args:
        cls: Which HTTP client to make.
        host: The server's host name; environment proxies are not asked for this machine's own.
        max_connections: Connections at once.
    """
    kept = min(max_connections, _KEPT_ALIVE)
    limits = http.Limits(max_connections=max_connections, max_keepalive_connections=kept)
    options = {"limits": limits, "trust_env": not is_loopback(host), "verify": _ssl_context()}
    return Transports(lambda: cast(Any, cls)(**options), per_loop=issubclass(cls, AsyncHTTP))
