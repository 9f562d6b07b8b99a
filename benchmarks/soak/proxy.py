"""A proxy that forwards requests to a server and injects faults into a share of the responses.

It is a process of its own, which ``Proxy`` starts in a ``with`` statement.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from vllm_adapters.testing import FaultServer


class Proxy:
    """The proxy of one server, within a ``with`` block.

    Args:
        server: Address of the server; ``None`` starts a healthy ``FaultServer`` in the proxy's process.
        share: Share of the responses with a fault, from 0 to 1.
        seed: Seed of the faults; they are the same for the same order of requests.

    Attributes:
        server: Address of the server.
        url: Address of the proxy.
        faults: Number of responses by fault, set at the end of the block.
    """

    def __init__(self, server: str | None, share: float, seed: int) -> None:
        self._command = [sys.executable, __file__, str(share), str(seed), *([server] if server else [])]
        self.faults: dict[str, int] = {}

    def __enter__(self) -> Proxy:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.server, self.url = self._process.stdout.readline().split()
        return self

    def set_share(self, share: float) -> None:
        """Inject faults into another share of the responses from now on."""
        assert self._process.stdin is not None
        print(share, file=self._process.stdin, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.faults = json.loads(self._process.communicate()[0])


@dataclass
class _Response:
    """A server's response, and the connection of its client."""

    head: bytes
    upstream: asyncio.StreamReader
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    chance: random.Random

    def client_disconnected(self) -> bool:
        return self.reader.at_eof() or self.writer.is_closing()

    async def send(self, data: bytes) -> None:
        if self.client_disconnected():
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()

    async def body(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """Yield the body in pieces: with their HTTP framing, and without it."""
        if length := re.search(rb"content-length: *(\d+)", self.head, re.IGNORECASE):
            remaining = int(length[1])
            while remaining:
                data = await self.upstream.readexactly(min(remaining, 65536))
                remaining -= len(data)
                yield data, data
            return
        size = b""
        while size.strip() != b"0":
            size = await self.upstream.readline()
            data = await self.upstream.readexactly(int(size, 16) + 2)
            yield size + data, data[:-2]

    async def raw(self) -> AsyncIterator[bytes]:
        yield self.head
        async for piece, _ in self.body():
            yield piece


async def forward(response: _Response) -> bool:
    """Forward the response. Like all functions here, return whether the connection can be reused."""
    async for piece in response.raw():
        await response.send(piece)
    return True


async def close(response: _Response) -> bool:
    """Close the connection without a response."""
    return False


async def reset(response: _Response) -> bool:
    """Reset the connection without a response."""
    # Linger zero turns the close into an RST, which is what a killed process or a firewall sends.
    response.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    response.writer.transport.abort()
    return False


async def hang(response: _Response) -> bool:
    """Send nothing until the client disconnects."""
    while not response.client_disconnected():
        await asyncio.sleep(0.05)
    return False


async def html(response: _Response) -> bool:
    """Send a gateway's HTML page."""
    page = b"<html><h1>502 Bad Gateway</h1></html>"
    await response.send(b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\n")
    await response.send(b"content-length: %d\r\n\r\n%b" % (len(page), page))
    return True


async def cut(response: _Response) -> bool:
    """Close, reset or hang at a random place, possibly in the headers."""
    remaining = int(2 ** response.chance.uniform(5, 13))
    async for piece in response.raw():
        await response.send(piece[:remaining])
        remaining -= len(piece)
        if remaining <= 0:
            return await response.chance.choice((close, reset, hang))(response)
    return True


async def truncate(response: _Response) -> bool:
    """End the body at a random place, but properly: HTTP does not reveal that there was more."""
    head = re.sub(rb"(?i)(content-length|transfer-encoding|connection):[^\r]*\r\n", b"", response.head)
    await response.send(head.removesuffix(b"\r\n") + b"connection: close\r\n\r\n")
    remaining = int(2 ** response.chance.uniform(3, 13))
    async for _, data in response.body():
        await response.send(data[:remaining])
        remaining -= len(data)
        if remaining <= 0:
            break
    return False


async def drip(response: _Response) -> bool:
    """Send a few bytes at a time: small responses arrive, large ones exceed the total time limit."""
    size, pause = response.chance.choice((1, 16, 64)), response.chance.uniform(0.001, 0.2)
    async for piece in response.raw():
        for start in range(0, len(piece), size):
            await response.send(piece[start : start + size])
            await asyncio.sleep(pause)
    return True


async def delay(response: _Response) -> bool:
    """Forward the response after a delay."""
    await asyncio.sleep(response.chance.uniform(0.1, 2))
    return await forward(response)


FAULTS: tuple[Callable[[_Response], Coroutine[Any, Any, bool]], ...] = (
    close,
    reset,
    hang,
    html,
    cut,
    truncate,
    drip,
    delay,
)


class _ProxyServer:
    def __init__(self, server: str, share: float, seed: int) -> None:
        self._target, self.share, self._seed = urlsplit(server), share, seed
        self.counts: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of a client."""
        # A reference, because asyncio drops the task when the client disconnects while it waits for the server.
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Either side has disconnected, or the soak has ended.
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._serve_request(reader, writer):
                pass
        writer.close()

    async def _serve_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        request = head + await reader.readexactly(int(length[1]) if length else 0)
        chance = random.Random(f"{self._seed} {self.counts.total()}")
        fault = chance.choice(FAULTS) if chance.random() < self.share else forward
        self.counts[fault.__name__] += 1
        upstream, back = await asyncio.open_connection(self._target.hostname, self._target.port or 80)
        try:
            back.write(request)
            await back.drain()
            return await fault(_Response(await upstream.readuntil(b"\r\n\r\n"), upstream, reader, writer, chance))
        finally:
            back.close()  # the server then aborts a response that is not read to its end


async def _main(share: float, seed: int, server: str) -> None:
    proxy = _ProxyServer(server, share, seed)
    listening = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, backlog=1024)
    port = listening.sockets[0].getsockname()[1]
    print(server, f"http://127.0.0.1:{port}{urlsplit(server).path}", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):  # until the soak ends, in whatever way
        proxy.share = float(line)
    listening.close()
    print(json.dumps(proxy.counts), flush=True)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("share", type=float)
    arguments.add_argument("seed", type=int)
    arguments.add_argument("server", nargs="?")
    args = arguments.parse_args()
    asyncio.run(_main(args.share, args.seed, args.server or FaultServer(dims=32).start().root))
