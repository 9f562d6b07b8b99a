"""How requests travel: time limits and redirects.

The HTTP clients here are the SDK's own default clients, given our rules.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from vllm_adapters._compat import http, httpcore
from vllm_adapters._response import error_mapping
from vllm_adapters._response.error_mapping import RequestContext
from vllm_adapters.timeouts import Timeouts


@dataclass(frozen=True)
class Deadline:
    """When a call must be over, and what to say when it is not."""

    limits: Timeouts
    call: RequestContext
    at: float | None

    @classmethod
    def start(cls, limits: Timeouts, call: RequestContext, around: Deadline | None = None) -> Deadline:
        """A deadline that begins now, and is over no later than one ``around`` it."""
        at = None if limits.total is None else time.monotonic() + limits.total
        if around is not None and around.at is not None and (at is None or around.at < at):
            return cls(replace(limits, total=around.limits.total), call, around.at)
        return cls(limits, call, at)

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
            raise error_mapping.from_transport(total, call=self.call, request=request) from failure
        limit = self.limits.connect if "Connect" in type(failure).__name__ else self.limits.idle
        failure.seconds = limit  # type: ignore[attr-defined]
        raise failure


class TotalTimeout(Exception):
    """The total time limit of a call passed."""

    seconds: float | None = None


DEADLINE: ContextVar[Deadline | None] = ContextVar("vllm_adapters_deadline", default=None)
"""The deadline of the call that is being sent."""


class _TimedStream(http.SyncByteStream):
    def __init__(self, stream: Any, deadline: Deadline, request: http.Request) -> None:
        self._stream, self._deadline, self._request = stream, deadline, request

    def __iter__(self) -> Iterator[bytes]:
        pieces = iter(self._stream)
        try:
            while (piece := self._next(pieces)) is not None:
                self._deadline.left()
                yield piece
        except http.TimeoutException as failure:
            self._deadline.blame(failure, self._request)

    def _next(self, pieces: Iterator[bytes]) -> bytes | None:
        token = DEADLINE.set(self._deadline)  # the call is over when its stream is read; its connection must know
        try:
            return next(pieces, None)
        finally:
            DEADLINE.reset(token)

    def close(self) -> None:
        self._stream.close()


class _AsyncTimedStream(http.AsyncByteStream):
    def __init__(self, stream: Any, deadline: Deadline, request: http.Request) -> None:
        self._stream, self._deadline, self._request = stream, deadline, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = aiter(self._stream)
        try:
            while (piece := await self._next(pieces)) is not None:
                self._deadline.left()
                yield piece
        except http.TimeoutException as failure:
            self._deadline.blame(failure, self._request)

    async def _next(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        before = DEADLINE.get()
        DEADLINE.set(self._deadline)
        try:
            return await anext(pieces, None)
        finally:
            DEADLINE.set(before)  # a token would not do: what is collected ends in another context

    async def aclose(self) -> None:
        await self._stream.aclose()


def _sooner(timeout: float | None) -> float | None:
    """``timeout``, or what is left of the call that is being sent or read."""
    deadline = DEADLINE.get()
    left = deadline.left() if deadline else None
    return min((limit for limit in (timeout, left) if limit is not None), default=None)


def _bounded(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "timeout": _sooner(options.get("timeout"))}


class _TimedNetwork(httpcore.NetworkStream):
    """A connection that waits no longer than the call: headers that dribble in would else never time out."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _sooner(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _sooner(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *given: Any, **options: Any) -> httpcore.NetworkStream:
        return _TimedNetwork(self._stream.start_tls(*given, **_bounded(options)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _AsyncTimedNetwork(httpcore.AsyncNetworkStream):
    """``_TimedNetwork`` for the async client; a timer of our own around each read would cost more than the read."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, _sooner(timeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, _sooner(timeout))

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(self, *given: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _AsyncTimedNetwork(await self._stream.start_tls(*given, **_bounded(options)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _TimedBackend(httpcore.NetworkBackend):
    def __init__(self, backend: httpcore.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(self, *given: Any, **options: Any) -> httpcore.NetworkStream:
        return _TimedNetwork(self._backend.connect_tcp(*given, **_bounded(options)))

    def connect_unix_socket(self, *given: Any, **options: Any) -> httpcore.NetworkStream:
        return _TimedNetwork(self._backend.connect_unix_socket(*given, **_bounded(options)))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _AsyncTimedBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(self, *given: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _AsyncTimedNetwork(await self._backend.connect_tcp(*given, **_bounded(options)))

    async def connect_unix_socket(self, *given: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _AsyncTimedNetwork(await self._backend.connect_unix_socket(*given, **_bounded(options)))

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


def timed(transport: Any) -> Any:
    """``transport``, whose connections keep to the deadline of the call that is being sent or read."""
    # httpx has no public way to its connections; a test says when this one moves.
    pool: Any = getattr(transport, "_pool", None)
    match getattr(pool, "_network_backend", None):
        case httpcore.NetworkBackend() as backend:
            pool._network_backend = _TimedBackend(backend)
        case httpcore.AsyncNetworkBackend() as backend:
            pool._network_backend = _AsyncTimedBackend(backend)
    return transport


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

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for transport in (self._transport, *self._mounts.values()):
            timed(transport)

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
        if "_mounts" in vars(self) and not self.is_closed:  # not one that Ctrl-C left half made
            self.close()


class AsyncHTTP(DefaultAsyncHttpxClient):
    """``SyncHTTP`` for the async client."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for transport in (self._transport, *self._mounts.values()):
            timed(transport)

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
