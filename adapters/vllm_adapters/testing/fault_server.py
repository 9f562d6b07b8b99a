"""A server on loopback that speaks vLLM 0.32's wire format, and fails exactly as it is told to.

One thread with its own event loop serves a thousand connections at once, so that it can stand behind
concurrency tests and benchmarks as well as behind single faults::

    with FaultServer() as server:
        server.script("/v1/chat/completions", [faults.error(429, retry_after=1), faults.chat("hi")])
        ...
        assert len(server.posts("/v1/chat/completions")) == 2

Without orders it is healthy: chat and completions answer with what they were asked, so that answers that went
to the wrong caller show; embeddings depend on their text only.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vllm_adapters.testing._exchange import Behaviour, Exchange, HungUp, Received, Served, read_request
from vllm_adapters.testing.faults import ROUTES, healthy, slow

__all__ = ["FaultServer", "Received"]

_BACKLOG = 1024
_LINE_LIMIT = 1 << 20


class _Connection(asyncio.StreamReaderProtocol):
    """A connection that tells at once when its client has gone, also while an answer is being written."""

    def __init__(
        self, reader: asyncio.StreamReader, serve: Callable[..., Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(reader, serve, loop=loop)
        self.gone: asyncio.Future[None] = loop.create_future()

    def eof_received(self) -> bool | None:
        self._leave()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def _leave(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)


class FaultServer:
    """A stand-in for vLLM that can be told how to fail.

    Args:
        version: what ``/version`` says; None gives 404, as gateways do.
        models: names, or whole model cards, of ``/v1/models``.
        api_key: ask for this key under ``/v1``, as ``vllm serve --api-key`` does.
        delay: seconds before each healthy answer.
        max_model_len: what the model cards say.
        dims: length of the embedding vectors, unless a request asks for another.
        routes: serve only these paths; the others give vLLM's 404 for a route that is not mounted.

    Attributes:
        requests: every request received, oldest first.
        connections: how many connections were accepted.
        peak: the largest number of requests in work at the same time.
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
        self.served = Served(version, tuple(models), api_key, max_model_len, dims, mounted)
        self.delay = delay
        self.requests: list[Received] = []
        self.connections = 0
        self.peak = 0
        self._busy = 0
        self._always: dict[str | None, Behaviour] = {}
        self._scripts: dict[str, deque[Behaviour]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._port = 0
        self._listening: socket.socket | None = None
        self._stopping: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def root(self) -> str:
        """``http://127.0.0.1:PORT``.

        Raises:
            RuntimeError: the server is not running.
        """
        if not self._port:
            raise RuntimeError("the server is not running: use it as a context manager, or call start()")
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """The base URL for an OpenAI client: `root` with ``/v1``."""
        return f"{self.root}/v1"

    def script(self, path: str, behaviours: Iterable[Behaviour]) -> None:
        """Answer the next requests to ``path`` with these, one each, in order; after that as before."""
        self._scripts.setdefault(path, deque()).extend(behaviours)

    def reply(self, behaviour: Behaviour, path: str | None = None) -> None:
        """From now on answer every request to ``path``, or every POST, with this."""
        self._always[path] = behaviour

    def heal(self) -> None:
        """Forget all orders: healthy again. What was received stays."""
        self._always.clear()
        self._scripts.clear()

    def posts(self, path: str | None = None) -> list[Received]:
        """The POST requests received so far, of one path or of all."""
        return [r for r in list(self.requests) if r.method == "POST" and path in (None, r.route)]

    def wait_for(self, condition: Callable[[], bool], timeout: float = 5.0) -> bool:
        """Wait until ``condition()`` holds, looking often; False when it did not in time."""
        deadline = time.monotonic() + timeout
        while not (held := condition()) and time.monotonic() < deadline:
            time.sleep(0.005)
        return held

    def start(self) -> FaultServer:
        """Start serving; returns when the port is open.

        Raises:
            RuntimeError: it runs already.
        """
        if self._thread is not None:
            raise RuntimeError("the server is running already")
        self._thread = threading.Thread(target=self._run, name="fault-server", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        """Close every connection and the port. Stopping twice is fine.

        Raises:
            Exception: whatever a behaviour raised on its own account: a mistake in the test, not a fault.
        """
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        self._halt()

    def restart(self) -> None:
        """Close every connection and start again on the same port, as a server that was replaced.

        Orders and requests stay. Who calls in between is not refused, but waits.
        """
        self._halt()
        self.start()

    def __enter__(self) -> FaultServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _halt(self) -> None:
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None
        self._port = 0
        self._ready.clear()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # handed to start(), which waits for it in the caller's thread
            self._failure = error
            self._ready.set()

    async def _main(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        stopping = self._stopping = asyncio.Event()

        def connect() -> _Connection:
            reader = asyncio.StreamReader(limit=_LINE_LIMIT, loop=loop)
            connection = _Connection(reader, lambda r, w: self._accept(connection, r, w), loop)
            return connection

        if self._listening is None:
            # the protocol by name: else asyncio leaves Nagle's delay on, and a reset overtakes what was written
            self._listening = socket.socket(proto=socket.IPPROTO_TCP)
            self._listening.bind(("127.0.0.1", 0))
            self._listening.listen(_BACKLOG)
        # a duplicate: were the port given back between two lives, any outgoing connection could take it
        server = await loop.create_server(connect, sock=self._listening.dup(), backlog=_BACKLOG)
        self._port = self._listening.getsockname()[1]
        self._ready.set()
        await stopping.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # so that no connection is left to the garbage collector

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
                exchange = Exchange(request, self.served, writer)
                if not await self._answer(exchange, connection) or not exchange.keep_alive:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client broke off in the middle of a request: there is nobody to answer
        except asyncio.CancelledError:
            writer.transport.abort()  # whoever does not read would keep a proper close waiting
            raise
        except Exception as error:  # raised again by stop(), in the thread of the test
            self._failure = self._failure or error
        finally:
            writer.close()

    async def _answer(self, exchange: Exchange, connection: _Connection) -> bool:
        """Run the behaviour that is due; False when the connection is over."""
        self._busy += 1
        self.peak = max(self.peak, self._busy)
        work = asyncio.ensure_future(self._due(exchange.request)(exchange))
        try:
            await asyncio.wait({work, connection.gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                exchange.request.client_left()
                return False
            work.result()
        except HungUp:
            return False
        except ConnectionError:
            exchange.request.client_left()
            return False
        finally:
            work.cancel()
            self._busy -= 1
        return True

    def _due(self, request: Received) -> Behaviour:
        script = self._scripts.get(request.route)
        if script:
            return script.popleft()
        if request.route in self._always:
            return self._always[request.route]
        if request.method == "POST" and None in self._always:
            return self._always[None]
        return slow(self.delay, healthy) if self.delay else healthy
