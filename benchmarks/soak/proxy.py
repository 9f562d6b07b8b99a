"""The line that breaks: passes requests on to a server, and spoils a share of the replies.

A process of its own: ``Proxy`` in a ``with`` statement starts it, and counts at the end what it did.
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
    """The proxy before one server, for as long as the ``with`` block lasts.

    Args:
        server: the server's address; None: a healthy stand-in, in the proxy's process.
        share: how many of the replies are spoilt, from 0 to 1.
        seed: of the faults, which are the same for the same order of requests.

    Attributes:
        server: the server's own address.
        url: the proxy's address.
        faults: how often each fault was struck, known at the end.
    """

    def __init__(self, server: str | None, share: float, seed: int) -> None:
        self._command = [sys.executable, __file__, str(share), str(seed), *([server] if server else [])]
        self.faults: dict[str, int] = {}

    def __enter__(self) -> Proxy:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.server, self.url = self._process.stdout.readline().split()
        return self

    def spoil(self, share: float) -> None:
        """Spoil another share of the replies from now on."""
        assert self._process.stdin is not None
        print(share, file=self._process.stdin, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.faults = json.loads(self._process.communicate()[0])


@dataclass
class _Reply:
    """A server's reply, and the client that waits for it."""

    head: bytes
    upstream: asyncio.StreamReader
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    chance: random.Random

    def client_left(self) -> bool:
        return self.reader.at_eof() or self.writer.is_closing()

    async def send(self, data: bytes) -> None:
        if self.client_left():
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()

    async def body(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """The body in pieces: as they travel, and as they read."""
        if length := re.search(rb"content-length: *(\d+)", self.head, re.IGNORECASE):
            left = int(length[1])
            while left:
                data = await self.upstream.readexactly(min(left, 65536))
                left -= len(data)
                yield data, data
            return
        size = b""
        while size.strip() != b"0":
            size = await self.upstream.readline()
            data = await self.upstream.readexactly(int(size, 16) + 2)
            yield size + data, data[:-2]

    async def wire(self) -> AsyncIterator[bytes]:
        yield self.head
        async for piece, _ in self.body():
            yield piece


async def whole(reply: _Reply) -> bool:
    """As it is. Each of these tells whether the connection is good for another request."""
    async for piece in reply.wire():
        await reply.send(piece)
    return True


async def close(reply: _Reply) -> bool:
    """Not a byte."""
    return False


async def reset(reply: _Reply) -> bool:
    """Not a byte, and an RST."""
    # Linger zero turns the close into an RST, which is what a killed process or a firewall sends.
    reply.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reply.writer.transport.abort()
    return False


async def hang(reply: _Reply) -> bool:
    """Silence, until the client gives up."""
    while not reply.client_left():
        await asyncio.sleep(0.05)
    return False


async def html(reply: _Reply) -> bool:
    """A gateway's page."""
    page = b"<html><h1>502 Bad Gateway</h1></html>"
    await reply.send(b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\n")
    await reply.send(b"content-length: %d\r\n\r\n%b" % (len(page), page))
    return True


async def cut(reply: _Reply) -> bool:
    """It ends anywhere, in the head too: closed, reset or silent from there on."""
    left = int(2 ** reply.chance.uniform(5, 13))
    async for piece in reply.wire():
        await reply.send(piece[:left])
        left -= len(piece)
        if left <= 0:
            return await reply.chance.choice((close, reset, hang))(reply)
    return True


async def truncate(reply: _Reply) -> bool:
    """It ends anywhere in the body, in good form: nothing of HTTP tells that there was more."""
    head = re.sub(rb"(?i)(content-length|transfer-encoding|connection):[^\r]*\r\n", b"", reply.head)
    await reply.send(head.removesuffix(b"\r\n") + b"connection: close\r\n\r\n")
    left = int(2 ** reply.chance.uniform(3, 13))
    async for _, data in reply.body():
        await reply.send(data[:left])
        left -= len(data)
        if left <= 0:
            break
    return False


async def drip(reply: _Reply) -> bool:
    """Few bytes at a time, never long silent: small replies arrive, large ones pass the total time limit."""
    size, pause = reply.chance.choice((1, 16, 64)), reply.chance.uniform(0.001, 0.2)
    async for piece in reply.wire():
        for start in range(0, len(piece), size):
            await reply.send(piece[start : start + size])
            await asyncio.sleep(pause)
    return True


async def delay(reply: _Reply) -> bool:
    """Late, but whole."""
    await asyncio.sleep(reply.chance.uniform(0.1, 2))
    return await whole(reply)


FAULTS: tuple[Callable[[_Reply], Coroutine[Any, Any, bool]], ...] = (
    close,
    reset,
    hang,
    html,
    cut,
    truncate,
    drip,
    delay,
)


class _Serving:
    def __init__(self, server: str, share: float, seed: int) -> None:
        self._place, self.share, self._seed = urlsplit(server), share, seed
        self.struck: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begin a client's connection."""
        # asyncio forgets the task when the client leaves, although it may wait for the server.
        task = asyncio.ensure_future(self._converse(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Either side has left, or the soak is over.
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._pass_on(reader, writer):
                pass
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        request = head + await reader.readexactly(int(length[1]) if length else 0)
        chance = random.Random(f"{self._seed} {self.struck.total()}")
        deal = chance.choice(FAULTS) if chance.random() < self.share else whole
        self.struck[deal.__name__] += 1
        upstream, back = await asyncio.open_connection(self._place.hostname, self._place.port or 80)
        try:
            back.write(request)
            await back.drain()
            return await deal(_Reply(await upstream.readuntil(b"\r\n\r\n"), upstream, reader, writer, chance))
        finally:
            back.close()  # with its connection the server also gives up a reply that nobody reads


async def _main(share: float, seed: int, server: str) -> None:
    serving = _Serving(server, share, seed)
    listening = await asyncio.start_server(serving.accept, "127.0.0.1", 0, backlog=1024)
    port = listening.sockets[0].getsockname()[1]
    print(server, f"http://127.0.0.1:{port}{urlsplit(server).path}", flush=True)
    while told := await asyncio.to_thread(sys.stdin.readline):  # until the soak is over, however it ends
        serving.share = float(told)
    listening.close()
    print(json.dumps(serving.struck), flush=True)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("share", type=float)
    arguments.add_argument("seed", type=int)
    arguments.add_argument("server", nargs="?")
    given = arguments.parse_args()
    asyncio.run(_main(given.share, given.seed, given.server or FaultServer(dims=32).start().root))
