"""Sharded connection pools, without the environment's proxies for loopback."""

from __future__ import annotations

import functools
import ipaddress
import threading
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast
from urllib.request import getproxies

from vllm_adapters._compat import http
from vllm_adapters._transport.credentials import RedactedURL, normalize_headers
from vllm_adapters._transport.http import AsyncHTTP, HTTPClients, ReplyStream, close_shielded, with_deadlines

C = TypeVar("C")

_SHARD_SIZE = 32
"""Connections of one shard, at most."""


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is this machine, which no proxy of the environment can reach for us."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@functools.cache
def _ssl_context() -> Any:
    return http.create_ssl_context()  # loading the certificates takes longer than a short reply


class _Shard(Generic[C]):
    """A small pool, and the number of requests in use of it."""

    def __init__(self, pool: C) -> None:
        self.pool, self.in_use, self.tainted = pool, 0, False


class _Shards(Generic[C]):
    """Chooses one of several small pools for a request: the first that is not full, so that connections are reused.

    One pool of a thousand connections looks at all of them for every request, which costs more than the request.
    A pool in which a call was cancelled before its response is replaced: httpcore keeps the connection that was
    being made for it, and never uses, closes or discounts it (measured with httpcore 1.0 and httpcore2 2.16).
    """

    def __init__(self, make: Callable[[int], C], max_connections: int) -> None:
        self._make = make
        count = -(-max_connections // _SHARD_SIZE)
        self._sizes = [(max_connections + n) // count for n in range(count)]  # they differ by one at most
        self._lock = threading.Lock()
        self._in_use: list[int] = []  # by position, with requests that are still in a pool that was replaced
        self.shards: list[_Shard[C]] = []

    def acquire(self) -> tuple[_Shard[C], Callable[..., C | None]]:
        """Return a shard, and what to call when its request is over, which may return a pool to close."""
        with self._lock:
            free = (n for n, used in enumerate(self._in_use) if used < self._sizes[n])
            position = next(free, len(self._in_use))
            if position == len(self._sizes):
                position = self._in_use.index(min(self._in_use))
            if position == len(self._in_use):
                self.shards.append(_Shard(self._make(self._sizes[position])))
                self._in_use.append(0)
            shard = self.shards[position]
            self._in_use[position] += 1
            shard.in_use += 1
        return shard, functools.partial(self._release, position, shard)

    def _release(self, position: int, shard: _Shard[C], *, cancelled: bool = False) -> C | None:
        with self._lock:
            self._in_use[position] -= 1
            shard.in_use -= 1
            if cancelled and not shard.tainted:
                shard.tainted = True
                self.shards[position] = _Shard(self._make(self._sizes[position]))
            return shard.pool if shard.tainted and not shard.in_use else None


class _SyncShards(http.BaseTransport):
    def __init__(self, make: Callable[[int], http.HTTPTransport], max_connections: int) -> None:
        self._pools = _Shards(make, max_connections)

    def handle_request(self, request: http.Request) -> http.Response:
        shard, release = self._pools.acquire()
        url = request.url
        try:
            if isinstance(url, RedactedURL):
                request.url = http.URL(url)  # its text is complete: recorders of tests compare it
            response = shard.pool.handle_request(request)
        except BaseException as failure:
            if unused := release(cancelled=not isinstance(failure, Exception)):
                unused.close()
            raise
        finally:
            request.url = url
        response.stream = ReplyStream(response.stream, on_close=release)
        return response

    def close(self) -> None:
        for shard in self._pools.shards:
            shard.pool.close()


class _AsyncShards(http.AsyncBaseTransport):
    def __init__(self, make: Callable[[int], http.AsyncHTTPTransport], max_connections: int) -> None:
        self._pools = _Shards(make, max_connections)

    async def handle_async_request(self, request: http.Request) -> http.Response:
        shard, release = self._pools.acquire()
        url = request.url
        try:
            if isinstance(url, RedactedURL):
                request.url = http.URL(url)  # its text is complete: recorders of tests compare it
            response = await shard.pool.handle_async_request(request)
        except BaseException as failure:
            if unused := release(cancelled=not isinstance(failure, Exception)):
                await close_shielded(unused)
            raise
        finally:
            request.url = url
        response.stream = ReplyStream(response.stream, on_close=release)
        return response

    async def aclose(self) -> None:
        for shard in self._pools.shards:
            await shard.pool.aclose()


def make_http_clients(
    cls: type[C], host: str, max_connections: int, options: Mapping[str, Any] | None = None
) -> HTTPClients[C]:
    """Return the HTTP clients for a server at ``host``.

    Args:
        cls: ``SyncHTTP`` or ``AsyncHTTP``.
        host: The server's host name; the environment's proxies are not used for this machine.
        max_connections: Connections at once; all may be kept alive, as closing and reopening costs more.
        options: The user's arguments for ``cls``; limits may be a dict.

    Raises:
        ValueError: ``max_connections`` is not a positive integer.
    """
    if isinstance(max_connections, bool) or not isinstance(max_connections, int) or max_connections < 1:
        raise ValueError(f"`max_connections` must be a positive integer, not {max_connections!r}.")
    per_loop = issubclass(cls, AsyncHTTP)
    given = dict(options or {})
    if isinstance(given.get("limits"), Mapping):
        given["limits"] = http.Limits(**given["limits"])
    if isinstance(given.get("headers"), Mapping):
        given["headers"] = normalize_headers(given["headers"])

    def make() -> C:
        http_client = cast(Any, cls)
        if given:
            limits = http.Limits(max_connections=max_connections)
            return cast(C, http_client(**{"limits": limits, "trust_env": not is_loopback(host), **given}))
        if not is_loopback(host) and getproxies():
            # Only the HTTP client itself can use the environment's proxies.
            limits = http.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
            return cast(C, http_client(limits=limits, verify=_ssl_context()))
        transport: Any = http.AsyncHTTPTransport if per_loop else http.HTTPTransport
        shards: Any = _AsyncShards if per_loop else _SyncShards

        def pool(size: int) -> Any:
            limits = http.Limits(max_connections=size, max_keepalive_connections=size)
            return with_deadlines(transport(verify=_ssl_context(), limits=limits))

        return cast(C, http_client(transport=shards(pool, max_connections), verify=_ssl_context(), trust_env=False))

    return HTTPClients(make, per_loop=per_loop)
