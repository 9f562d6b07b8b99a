"""HTTP clients with total time limits, and without redirects to another origin: one per process and event loop.

They are the SDK's own default clients with our rules.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Generic, NoReturn, TypeVar, cast

import anyio
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from vllm_adapters._compat import http, httpcore
from vllm_adapters._response import error_mapping
from vllm_adapters._transport.credentials import RedactedURL
from vllm_adapters.timeouts import Timeouts

C = TypeVar("C")

_MAX_REDIRECTS = 5


class TotalTimeout(Exception):
    """The total time limit of a call expired."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass(frozen=True)
class Deadline:
    """When a call must be over.

    Args:
        limits: The call's time limits.
        at: ``time.monotonic()`` at its end; ``None`` for no limit.
    """

    limits: Timeouts
    at: float | None

    @classmethod
    def start(cls, limits: Timeouts, outer: Deadline | None = None) -> Deadline:
        """Return a deadline that starts now, and ends no later than ``outer``."""
        at = None if limits.total is None else time.monotonic() + limits.total
        if outer is not None and outer.at is not None and (at is None or outer.at < at):
            return cls(replace(limits, total=outer.limits.total), outer.at)
        return cls(limits, at)

    def left(self) -> float | None:
        """Return the seconds left, or ``None`` without a limit.

        Raises:
            ServerTimeout: None are left.
        """
        if self.at is None:
            return None
        left = self.at - time.monotonic()
        if left <= 0:
            self.expire()
        return left

    def expire(self, cause: Exception | None = None, request: http.Request | None = None) -> NoReturn:
        """Raise for the total limit.

        Raises:
            ServerTimeout: Always. The SDK does not retry it.
        """
        raise error_mapping.from_transport(TotalTimeout(self.limits.total), request) from cause

    def reraise(self, timeout: http.TimeoutException, request: http.Request) -> NoReturn:
        """Raise the transport's timeout with its limit in seconds, or the total limit if that expired.

        Raises:
            ServerTimeout: The total limit expired.
        """
        if self.at is not None and time.monotonic() >= self.at:
            self.expire(timeout, request)
        limit = self.limits.connect if "Connect" in type(timeout).__name__ else self.limits.idle
        timeout.seconds = limit  # type: ignore[attr-defined]
        raise timeout


DEADLINE: ContextVar[Deadline | None] = ContextVar("vllm_adapters_deadline", default=None)
"""The deadline of the call that is being sent."""
CALL: ContextVar[Any] = ContextVar("vllm_adapters_call", default=None)
"""The call that is being sent, if it is recorded: a ``_client.telemetry.Call``."""


class _Limit(float):
    """A limit in seconds for one read or write, which ends no later than the call.

    The transport hands its limits unchanged to each read and write of a connection, which learns of the call's
    deadline in this way.
    """

    deadline: Deadline


def _shortened(timeout: float | None) -> float | None:
    """Return ``timeout``, or what is left of the call if that is less."""
    if not isinstance(timeout, _Limit) or (at := timeout.deadline.at) is None:
        return timeout
    left = at - time.monotonic()
    if left <= 0:
        timeout.deadline.expire()
    return min(timeout, left)


def _shorten_option(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "timeout": _shortened(options.get("timeout"))}


class ReplyStream(http.SyncByteStream, http.AsyncByteStream):
    """The bytes of a response: held to the call's deadline, and reported to whoever must know of their end.

    Args:
        stream: The transport's, sync or async.
        deadline: The call's.
        request: The request, for errors.
        on_close: Called once when the stream is closed. It may return a transport that must be closed as well.
        map_errors: A context in which the bytes are read, to map the transport's errors.
    """

    def __init__(
        self,
        stream: Any,
        *,
        deadline: Deadline | None = None,
        request: http.Request | None = None,
        on_close: Callable[[], Any] | None = None,
        map_errors: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        self._stream, self._deadline, self._request = stream, deadline, request
        self._on_close, self._map_errors = on_close, map_errors

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream) if self._is_passive else self._pieces()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream) if self._is_passive else self._apieces()

    @property
    def elapsed(self) -> Any:
        """The time from the request to the end of the response, which httpx2 keeps here."""
        return getattr(self._stream, "elapsed", None)

    @property
    def _is_passive(self) -> bool:
        return self._deadline is None and self._map_errors is None

    def _pieces(self) -> Iterator[bytes]:
        deadline = self._deadline
        with self._errors():
            for piece in self._stream:
                if deadline is not None and deadline.at is not None and time.monotonic() >= deadline.at:
                    deadline.expire(request=self._request)
                yield piece

    async def _apieces(self) -> AsyncIterator[bytes]:
        deadline = self._deadline
        with self._errors():
            async for piece in self._stream:
                if deadline is not None and deadline.at is not None and time.monotonic() >= deadline.at:
                    deadline.expire(request=self._request)
                yield piece

    @contextmanager
    def _errors(self) -> Iterator[None]:
        if self._map_errors is not None:
            with self._map_errors():
                yield
            return
        try:
            yield
        except http.TimeoutException as timeout:
            if self._deadline is None or self._request is None:
                raise
            self._deadline.reraise(timeout, self._request)

    def close(self) -> None:
        """Close the connection, or return it to its pool."""
        try:
            self._stream.close()
        finally:
            if unused := self._closed():
                unused.close()

    async def aclose(self) -> None:
        """Async version of ``close``."""
        try:
            await self._stream.aclose()
        finally:
            if unused := self._closed():
                await close_shielded(unused)

    def _closed(self) -> Any:
        on_close, self._on_close = self._on_close, None
        return on_close() if on_close is not None else None


async def close_shielded(transport: http.AsyncHTTPTransport) -> None:
    """Close an async transport, also in a call that was cancelled."""
    with anyio.CancelScope(shield=True):
        await transport.aclose()


class _TimedNetwork(httpcore.NetworkStream):
    """A connection that waits no longer than the call: headers that dribble in would otherwise never time out."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _shortened(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _shortened(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return _TimedNetwork(self._stream.start_tls(*args, **_shorten_option(options)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _AsyncTimedNetwork(httpcore.AsyncNetworkStream):
    """``_TimedNetwork`` of the async client; a timer of our own around each read would cost more than the read."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, _shortened(timeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, _shortened(timeout))

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _AsyncTimedNetwork(await self._stream.start_tls(*args, **_shorten_option(options)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _TimedBackend(httpcore.NetworkBackend):
    def __init__(self, backend: httpcore.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return _TimedNetwork(self._backend.connect_tcp(*args, **_shorten_option(options)))

    def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return _TimedNetwork(self._backend.connect_unix_socket(*args, **_shorten_option(options)))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _AsyncTimedBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _AsyncTimedNetwork(await self._backend.connect_tcp(*args, **_shorten_option(options)))

    async def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _AsyncTimedNetwork(await self._backend.connect_unix_socket(*args, **_shorten_option(options)))

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


def with_deadlines(transport: Any) -> Any:
    """Hold the connections of ``transport`` to the deadline of the call they carry, and return it."""
    # httpx has no public way to its connections; a test fails when this one moves.
    pool: Any = getattr(transport, "_pool", None)
    match getattr(pool, "_network_backend", None):
        case httpcore.NetworkBackend() as backend:
            pool._network_backend = _TimedBackend(backend)
        case httpcore.AsyncNetworkBackend() as backend:
            pool._network_backend = _AsyncTimedBackend(backend)
    return transport


def _apply_deadline(request: http.Request) -> Deadline | None:
    """Shorten the request's limits to what is left of the call."""
    deadline = DEADLINE.get()
    if deadline is None:
        return None
    left = deadline.left()
    timeouts = request.extensions.get("timeout")
    if left is not None and isinstance(timeouts, dict):
        limits = request.extensions["timeout"] = {}
        for kind, limit in timeouts.items():
            limits[kind] = _Limit(left if limit is None else min(limit, left))
            limits[kind].deadline = deadline
    return deadline


def _redirect(response: http.Response) -> http.Request | None:
    """Return the request that follows a redirect within the same origin; mark other redirects as refused."""
    following = response.next_request
    if following is None:
        return None
    here, there = response.request.url, following.url
    if (here.scheme, here.host, here.port) == (there.scheme, there.host, there.port):
        if there.query:
            following.url = RedactedURL(there)
        return following
    response.headers["x-refused-location"] = str(there.copy_with(userinfo=b"", query=None))
    return None


class SyncHTTP(DefaultHttpxClient):
    """The SDK's HTTP client with total time limits and without redirects to another origin."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for transport in (self._transport, *self._mounts.values()):
            with_deadlines(transport)

    def send(self, request: http.Request, *, stream: bool = False, **options: Any) -> http.Response:
        """Send a request; follow redirects within the origin only, and hold the response to the deadline."""
        options["follow_redirects"] = False
        deadline = _apply_deadline(request)
        try:
            response = super().send(request, stream=True, **options)
            for _ in range(_MAX_REDIRECTS):
                following = _redirect(response)
                if following is None:
                    break
                response.close()
                response = super().send(following, stream=True, **options)
        except http.TimeoutException as timeout:
            if deadline is None:
                raise
            deadline.reraise(timeout, request)
        if deadline is not None:
            response.stream = ReplyStream(response.stream, deadline=deadline, request=request)
        if not stream:
            try:
                response.read()
            except BaseException:
                response.close()
                raise
        return response

    def __del__(self) -> None:
        if "_mounts" in vars(self) and not self.is_closed:  # not if Ctrl-C interrupted the constructor
            self.close()


class AsyncHTTP(DefaultAsyncHttpxClient):
    """``SyncHTTP`` of the async client."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for transport in (self._transport, *self._mounts.values()):
            with_deadlines(transport)

    async def send(self, request: http.Request, *, stream: bool = False, **options: Any) -> http.Response:
        """Send a request; follow redirects within the origin only, and hold the response to the deadline."""
        options["follow_redirects"] = False
        deadline = _apply_deadline(request)
        try:
            response = await super().send(request, stream=True, **options)
            for _ in range(_MAX_REDIRECTS):
                following = _redirect(response)
                if following is None:
                    break
                await response.aclose()
                response = await super().send(following, stream=True, **options)
        except http.TimeoutException as timeout:
            if deadline is None:
                raise
            deadline.reraise(timeout, request)
        if deadline is not None:
            response.stream = ReplyStream(response.stream, deadline=deadline, request=request)
        if not stream:
            try:
                await response.aread()
            except BaseException:
                await response.aclose()
                raise
        return response


_INHERITED: list[Any] = []  # kept alive: collecting them in a forked child would touch the parent's sockets


class HTTPClients(Generic[C]):
    """The HTTP clients of one SDK client: one per process, and per event loop for the async one.

    Args:
        make: Makes an HTTP client.
        per_loop: Keep one for each running event loop, since a connection belongs to the loop that opened it.
    """

    def __init__(self, make: Callable[[], C], *, per_loop: bool) -> None:
        self._make = make
        self._per_loop = per_loop
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._without_loop: C | None = None
        self._by_loop: weakref.WeakKeyDictionary[Any, C] = weakref.WeakKeyDictionary()
        self._discovery = threading.Lock()
        self._discovery_by_loop: weakref.WeakKeyDictionary[Any, asyncio.Lock] = weakref.WeakKeyDictionary()

    @contextmanager
    def discovery_lock(self, deadline: Deadline) -> Iterator[None]:
        """Hold a lock during discovery, so that only the first of several calls sends its requests.

        Raises:
            ServerTimeout: The deadline expired while other calls held it.
        """
        self.current()
        lock, left = self._discovery, deadline.left()
        if not lock.acquire(timeout=-1 if left is None else left):
            deadline.expire()
        try:
            yield
        finally:
            lock.release()

    @asynccontextmanager
    async def adiscovery_lock(self, deadline: Deadline) -> AsyncIterator[None]:
        """Async version of ``discovery_lock``, for the running event loop."""
        self.current()
        loop = _running_loop()
        if loop is None:  # trio: then several calls may send them
            yield
            return
        with self._lock:
            lock = self._discovery_by_loop.setdefault(loop, asyncio.Lock())
        try:
            async with asyncio.timeout(deadline.left()):
                await lock.acquire()
        except TimeoutError:
            deadline.expire()
        try:
            yield
        finally:
            lock.release()

    def current(self) -> C:
        """Return the HTTP client of this process and event loop."""
        if not self._per_loop and self._pid == os.getpid():  # the usual case; the SDK asks four times a request
            found: Any = self._without_loop
            if found is not None and not found.is_closed:
                return cast(C, found)
        if self._pid != os.getpid():
            _INHERITED.extend([self._without_loop, *self._by_loop.values()])
            self._reset()
        loop = _running_loop() if self._per_loop else None
        with self._lock:
            client = self._without_loop if loop is None else self._by_loop.get(loop)
            if client is None or cast(Any, client).is_closed:  # closed and used again: it connects anew
                self._drop_closed_loops()
                client = self._make()
                if loop is None:
                    self._without_loop = client
                else:
                    self._by_loop[loop] = client
        return client

    def is_closed(self) -> bool:
        """Return whether the HTTP client of this process and event loop was closed, and not used since."""
        if self._pid != os.getpid():
            return False
        loop = _running_loop() if self._per_loop else None
        with self._lock:
            client: Any = self._without_loop if loop is None else self._by_loop.get(loop)
            return client is not None and bool(client.is_closed)

    def _drop_closed_loops(self) -> None:
        # Weak keys do not suffice: a client's connections refer to the loop that they were opened in.
        for loop in [loop for loop in self._by_loop if loop.is_closed()]:
            del self._by_loop[loop]


def _running_loop() -> Any:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None  # outside a loop, or under trio
