"""Connections: one set per process and event loop, in small pools, past the environment's proxies on loopback."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Generic, TypeVar, cast
from urllib.request import getproxies

import anyio

from vllm_adapters._compat import http
from vllm_adapters._transport.credentials import normalize_headers
from vllm_adapters._transport.http import AsyncHTTP, Deadline, timed

C = TypeVar("C")


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine, which no proxy of the environment can reach for us."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


_LEFT_BY_PARENT: list[Any] = []  # kept alive: collecting them in a forked child would touch the parent's sockets


class HTTPClients(Generic[C]):
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
        self._asking = threading.Lock()
        self._asking_in: weakref.WeakKeyDictionary[Any, asyncio.Lock] = weakref.WeakKeyDictionary()

    @contextmanager
    def asking(self, deadline: Deadline) -> Iterator[None]:
        """Held while the server is asked what all calls need to know, so that only the first of them asks.

        Raises:
            ServerTimeout: The deadline passed while others were asking, one after the other.
        """
        self.current()
        lock, left = self._asking, deadline.left()
        if not lock.acquire(timeout=-1 if left is None else left):
            deadline.blame(None, None)
        try:
            yield
        finally:
            lock.release()

    @asynccontextmanager
    async def asking_async(self, deadline: Deadline) -> AsyncIterator[None]:
        """``asking``, for coroutines of the running event loop."""
        self.current()
        loop = _running_loop()
        if loop is None:  # trio: then several calls may ask
            yield
            return
        with self._lock:
            lock = self._asking_in.setdefault(loop, asyncio.Lock())
        try:
            async with asyncio.timeout(deadline.left()):
                await lock.acquire()
        except TimeoutError:
            deadline.blame(None, None)
        try:
            yield
        finally:
            lock.release()

    def current(self) -> C:
        """The HTTP client for here and now: this process, this event loop."""
        if self._pid != os.getpid():
            _LEFT_BY_PARENT.extend([self._loopless, *self._of_loop.values()])
            self._begin()
        loop = _running_loop() if self._per_loop else None
        with self._lock:
            client = self._loopless if loop is None else self._of_loop.get(loop)
            if client is None or cast(Any, client).is_closed:  # who closes and then goes on, connects anew
                self._forget_closed_loops()
                client = self._make()
                if loop is None:
                    self._loopless = client
                else:
                    self._of_loop[loop] = client
        return client

    def _forget_closed_loops(self) -> None:
        # Weak keys do not do it: a client's connections hold on to the loop that they were opened in.
        for loop in [loop for loop in self._of_loop if loop.is_closed()]:
            del self._of_loop[loop]


def _running_loop() -> Any:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None  # constructed outside a loop, or running under trio


@functools.cache
def _ssl_context() -> Any:
    return http.create_ssl_context()  # loading the certificates takes longer than a short reply


_LANE = 32


class _Shard(Generic[C]):
    """A small pool, and how many requests are under way in it."""

    def __init__(self, pool: C) -> None:
        self.pool, self.busy, self.worn = pool, 0, False


class _Shards(Generic[C]):
    """Which of several small pools takes the next request: the first with room, so that connections are reused.

    One pool of a thousand connections looks at all of them for every request, which costs more than the request.
    A pool in which a call was cancelled before its answer is replaced: httpcore keeps the connection that was being
    made for it, never to be used, closed or counted out (as measured with 1.0 and httpcore2 2.16).
    """

    def __init__(self, make: Callable[[], C], max_connections: int) -> None:
        self._make = make
        self._most = -(-max_connections // _LANE)
        self._lock = threading.Lock()
        self._busy: list[int] = []  # by place, with those that are still in a pool that was replaced
        self.lanes: list[_Shard[C]] = []

    def enter(self) -> tuple[_Shard[C], Callable[..., C | None]]:
        """A pool, and what to call when its request is over, which may return a pool to close."""
        with self._lock:
            place = next((n for n, busy in enumerate(self._busy) if busy < _LANE), len(self._busy))
            if place == self._most:
                place = self._busy.index(min(self._busy))
            if place == len(self._busy):
                self.lanes.append(_Shard(self._make()))
                self._busy.append(0)
            lane = self.lanes[place]
            self._busy[place] += 1
            lane.busy += 1
        return lane, functools.partial(self._leave, place, lane)

    def _leave(self, place: int, lane: _Shard[C], *, cancelled: bool = False) -> C | None:
        with self._lock:
            self._busy[place] -= 1
            lane.busy -= 1
            if cancelled and not lane.worn:
                lane.worn = True
                self.lanes[place] = _Shard(self._make())
            return lane.pool if lane.worn and not lane.busy else None


class _LaneStream(http.SyncByteStream, http.AsyncByteStream):
    def __init__(self, stream: Any, leave: Callable[[], Any]) -> None:
        self._stream, self._leave = stream, leave

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return cast("AsyncIterator[bytes]", self._stream.__aiter__())

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            if unused := self._over():
                unused.close()

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            if unused := self._over():
                await _close(unused)

    def _over(self) -> Any:
        leave, self._leave = self._leave, lambda: None
        return leave()


async def _close(pool: http.AsyncHTTPTransport) -> None:
    with anyio.CancelScope(shield=True):  # in a call that was cancelled
        await pool.aclose()


class _SyncLanes(http.BaseTransport):
    def __init__(self, make: Callable[[], http.HTTPTransport], max_connections: int) -> None:
        self._pools = _Shards(make, max_connections)

    def handle_request(self, request: http.Request) -> http.Response:
        lane, leave = self._pools.enter()
        try:
            response = lane.pool.handle_request(request)
        except BaseException as failure:
            if unused := leave(cancelled=not isinstance(failure, Exception)):
                unused.close()
            raise
        response.stream = _LaneStream(response.stream, leave)
        return response

    def close(self) -> None:
        for lane in self._pools.lanes:
            lane.pool.close()


class _AsyncLanes(http.AsyncBaseTransport):
    def __init__(self, make: Callable[[], http.AsyncHTTPTransport], max_connections: int) -> None:
        self._pools = _Shards(make, max_connections)

    async def handle_async_request(self, request: http.Request) -> http.Response:
        lane, leave = self._pools.enter()
        try:
            response = await lane.pool.handle_async_request(request)
        except BaseException as failure:
            if unused := leave(cancelled=not isinstance(failure, Exception)):
                await _close(unused)
            raise
        response.stream = _LaneStream(response.stream, leave)
        return response

    async def aclose(self) -> None:
        for lane in self._pools.lanes:
            await lane.pool.aclose()


def make_http_clients(
    cls: type[C], host: str, max_connections: int, options: Mapping[str, Any] | None = None
) -> HTTPClients[C]:
    """Transports of ``cls`` (``SyncHTTP`` or ``AsyncHTTP``) for a server at ``host``.

    Args:
        cls: Which HTTP client to make.
        host: The server's host name; environment proxies are not asked for this machine's own.
        max_connections: Connections at once; all may be kept alive, as closing and reopening costs more.
        options: The user's own arguments for ``cls``; limits may be a dict.
    """
    per_loop = issubclass(cls, AsyncHTTP)
    given = dict(options or {})
    if isinstance(given.get("limits"), Mapping):
        given["limits"] = http.Limits(**given["limits"])
    if isinstance(given.get("headers"), Mapping):
        given["headers"] = normalize_headers(given["headers"])

    def make() -> C:
        own = cast(Any, cls)
        if given:
            limits = http.Limits(max_connections=max_connections)
            return cast(C, own(**{"limits": limits, "trust_env": not is_loopback(host), **given}))
        if not is_loopback(host) and getproxies():
            # Only the HTTP client itself knows how to go through the environment's proxies.
            limits = http.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
            return cast(C, own(limits=limits, verify=_ssl_context()))
        few = http.Limits(max_connections=_LANE, max_keepalive_connections=_LANE)
        transport: Any = http.AsyncHTTPTransport if per_loop else http.HTTPTransport
        lanes: Any = _AsyncLanes if per_loop else _SyncLanes

        def pool() -> Any:
            return timed(transport(verify=_ssl_context(), limits=few))

        return cast(C, own(transport=lanes(pool, max_connections), verify=_ssl_context(), trust_env=False))

    return HTTPClients(make, per_loop=per_loop)
