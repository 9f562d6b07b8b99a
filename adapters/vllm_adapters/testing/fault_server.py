"""A fault-injection server: vLLM 0.32's HTTP API on loopback, with failures chosen by the test.

One thread with its own event loop serves a thousand connections at once, so the server suits concurrency tests as
well as single faults::

    with FaultServer() as server:
        server.script("/v1/chat/completions", [faults.error(429, retry_after=1), faults.chat("hi")])
        ...
        assert len(server.posts("/v1/chat/completions")) == 2

By default it is healthy. Chat and text completions echo their prompt, so a response that reaches the wrong caller is
noticed; embeddings depend on their text only.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vllm_adapters.testing._exchange import Behaviour, ConnectionEnded, Exchange, Received, ServerConfig, read_request
from vllm_adapters.testing.faults import ROUTES, healthy, slow

__all__ = ["FaultServer"]

_BACKLOG = 1024
_LINE_LIMIT = 1 << 20


class _Connection(asyncio.StreamReaderProtocol):
    """A connection that notices at once when its client disconnects, even while a response is being written."""

    def __init__(
        self, reader: asyncio.StreamReader, serve: Callable[..., Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(reader, serve, loop=loop)
        self.closed: asyncio.Future[None] = loop.create_future()

    def eof_received(self) -> bool | None:
        self._mark_closed()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._mark_closed()
        super().connection_lost(exc)

    def _mark_closed(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


class FaultServer:
    """A fault-injection server that stands in for vLLM.

    >>> from vllm_adapters import VLLMServer
    >>> from vllm_adapters.testing import FaultServer, faults
    >>> with FaultServer() as server:
    ...     server.script("/v1/models", [faults.error(503)])  # the first request only
    ...     [card.id for card in VLLMServer(server.url, max_retries=1).models()]
    ['stub']

    Args:
        version: The version at ``/version``; ``None`` responds with 404, as gateways do.
        models: Names, or whole model cards, of ``/v1/models``.
        api_key: Require this key below ``/v1``, as ``vllm serve --api-key`` does.
        delay: Seconds before each healthy response.
        max_model_len: Context length in the model cards, in tokens.
        dims: Length of the embedding vectors, unless a request asks for another.
        routes: Serve only these paths; the others respond with vLLM's 404 for a missing route. Default: all of them.

    Attributes:
        config: What the healthy server serves.
        requests: Every request received so far, oldest first.
        connections: Number of connections accepted so far.
        peak: Largest number of requests handled at the same time.
    """

    def __init__(
        self,
        *,
        version: str | None = "0.32.0",
        models: Sequence[str | dict[str, Any]] = ("stub",),
        api_key: str | None = None,
        delay: float = 0.0,
        max_model_len: int = 4096,
        dims: int = 8,
        routes: Iterable[str] | None = None,
    ) -> None:
        mounted = ROUTES if routes is None else {path: ROUTES[path] for path in routes}
        self.config = ServerConfig(version, tuple(models), api_key, max_model_len, dims, mounted)
        self.delay = delay
        self.requests: list[Received] = []
        self.connections = 0
        self.peak = 0
        self._in_use = 0
        self._always: dict[str | None, Behaviour] = {}
        self._scripts: dict[str, deque[Behaviour]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._port = 0
        self._listening: socket.socket | None = None
        self._stopping: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def root(self) -> str:
        """``http://127.0.0.1:PORT``.

        Raises:
            RuntimeError: The server is not running.
        """
        if not self._port:
            raise RuntimeError("The server is not running. Use it as a context manager, or call start().")
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """The base URL for an OpenAI client: ``root`` with ``/v1``."""
        return f"{self.root}/v1"

    def script(self, path: str, behaviours: Iterable[Behaviour]) -> None:
        """Answer the next requests to ``path`` with ``behaviours``, one each, in order; then as before."""
        self._scripts.setdefault(path, deque()).extend(behaviours)

    def reply(self, behaviour: Behaviour, path: str | None = None) -> None:
        """Answer every request to ``path``, or every POST request, with ``behaviour`` from now on."""
        self._always[path] = behaviour

    def heal(self) -> None:
        """Make the server healthy again: forget all behaviours, keep the received requests."""
        self._always.clear()
        self._scripts.clear()

    def posts(self, path: str | None = None) -> list[Received]:
        """Return the POST requests received so far, to ``path`` or to all paths."""
        return [r for r in list(self.requests) if r.method == "POST" and path in (None, r.route)]

    def wait_for(self, condition: Callable[[], bool], timeout: float = 5.0) -> bool:
        """Wait until ``condition()`` is true; return ``False`` if it is not within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not (met := condition()) and time.monotonic() < deadline:
            time.sleep(0.005)
        return met

    def start(self) -> FaultServer:
        """Start the server; return when its port is open.

        Raises:
            RuntimeError: The server is already running.
        """
        if self._thread is not None:
            raise RuntimeError("The server is already running.")
        self._thread = threading.Thread(target=self._run, name="fault-server", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self

    def stop(self) -> None:
        """Close every connection and the port. A second call does nothing.

        Raises:
            Exception: Any exception that a behaviour raised: a mistake in the test, not an injected fault.
        """
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        self._shut_down()

    def restart(self) -> None:
        """Close every connection and start again on the same port, as a server that was replaced.

        Behaviours and received requests stay. A client that connects in between waits; it is not refused.
        """
        self._shut_down()
        self.start()

    def __enter__(self) -> FaultServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _shut_down(self) -> None:
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None
        self._port = 0
        self._ready.clear()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # raised again by start(), in the caller's thread
            self._error = error
            self._ready.set()

    async def _main(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        stopping = self._stopping = asyncio.Event()

        def connect() -> _Connection:
            reader = asyncio.StreamReader(limit=_LINE_LIMIT, loop=loop)
            connection = _Connection(reader, lambda r, w: self._accept(connection, r, w), loop)
            return connection

        if self._listening is None:
            # An explicit protocol: otherwise asyncio leaves Nagle's delay on, and a reset overtakes what was written.
            self._listening = socket.socket(proto=socket.IPPROTO_TCP)
            self._listening.bind(("127.0.0.1", 0))
            self._listening.listen(_BACKLOG)
        # A duplicate socket: a port that is released between stop and start could be taken by another connection.
        server = await loop.create_server(connect, sock=self._listening.dup(), backlog=_BACKLOG)
        self._port = self._listening.getsockname()[1]
        self._ready.set()
        await stopping.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # lets every connection close before the loop ends

    def _accept(self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._serve(connection, self.connections, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, connection: _Connection, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while (request := await read_request(reader, number)) is not None:
                self.requests.append(request)
                exchange = Exchange(request, self.config, writer)
                if not await self._answer(exchange, connection) or not exchange.keep_alive:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client disconnected in the middle of a request
        except asyncio.CancelledError:
            writer.transport.abort()  # a client that does not read would block a graceful close
            raise
        except Exception as error:  # raised again by stop(), in the test's thread
            self._error = self._error or error
        finally:
            writer.close()

    async def _answer(self, exchange: Exchange, connection: _Connection) -> bool:
        """Run the next behaviour; return ``False`` if the connection has ended."""
        self._in_use += 1
        self.peak = max(self.peak, self._in_use)
        work = asyncio.ensure_future(self._next_behaviour(exchange.request)(exchange))
        try:
            await asyncio.wait({work, connection.closed}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                exchange.request.mark_disconnected()
                return False
            work.result()
        except ConnectionEnded:
            return False
        except ConnectionError:
            exchange.request.mark_disconnected()
            return False
        finally:
            work.cancel()
            self._in_use -= 1
        return True

    def _next_behaviour(self, request: Received) -> Behaviour:
        script = self._scripts.get(request.route)
        if script:
            return script.popleft()
        if request.route in self._always:
            return self._always[request.route]
        if request.method == "POST" and None in self._always:
            return self._always[None]
        return slow(self.delay, healthy) if self.delay else healthy
