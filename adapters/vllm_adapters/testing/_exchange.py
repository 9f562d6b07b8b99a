"""HTTP/1.1 by hand, so that a test server can break it at any byte."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

__all__ = ["Behaviour", "Exchange", "HungUp", "Received", "Served", "read_request"]

Framing = Literal["length", "chunked", "close"]
Cut = Literal["close", "reset", "hang"]


class HungUp(Exception):
    """The server ended the connection on purpose; it stops the behaviour that was running."""


@dataclass
class Served:
    """What a healthy server serves: its version (None: no ``/version``), model cards, routes and key."""

    version: str | None
    models: tuple[str | dict[str, Any], ...]
    api_key: str | None
    max_model_len: int
    dims: int
    routes: Mapping[str, str]

    @property
    def model(self) -> str:
        """The name that answers carry: the first served one."""
        first = self.models[0]
        return str(first["id"]) if isinstance(first, dict) else first


@dataclass
class Received:
    """One request as the server got it.

    Attributes:
        method: ``GET``, ``POST``, ...
        path: path and query.
        headers: names in lower case.
        body: the bytes of the body.
        connection: the number of the connection it came on; equal numbers mean a reused connection.
        at: ``time.monotonic()`` when it had arrived.
        disconnected_at: the same clock, when the client left before the answer was complete.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes
    connection: int
    at: float = field(default_factory=time.monotonic, repr=False)
    disconnected_at: float | None = field(default=None, repr=False)
    _left: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def route(self) -> str:
        """The path without its query."""
        return self.path.partition("?")[0]

    @property
    def json(self) -> Any:
        """The body, parsed; None when it is empty.

        Raises:
            ValueError: the body is not JSON.
        """
        return json.loads(self.body) if self.body else None

    def client_left(self) -> None:
        """Note that the client went away; called by the server."""
        self.disconnected_at = time.monotonic()
        self._left.set()

    def wait_disconnected(self, timeout: float = 5.0) -> bool:
        """Wait until the client left before its answer was complete; False when it stayed."""
        return self._left.wait(timeout)


class Exchange:
    """One request and the means to answer it, well or badly.

    A behaviour calls `head` and then `data` as often as it likes and `finish`, or `whole` for all three. The
    knobs ``pace``, ``cut`` and ``keep`` change how later bytes leave, so that one behaviour can wrap another.

    Attributes:
        request: what was asked.
        served: what a healthy server would serve.
        pace: (bytes, seconds): send in pieces of so many bytes with that pause after each.
        cut: (bytes, how): after so many body bytes close, reset or go silent.
        keep: of a `whole` answer send only so many bytes of the body, and say so in its length.
    """

    def __init__(self, request: Received, served: Served, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.served = served
        self.pace: tuple[int, float] | None = None
        self.cut: tuple[int, Cut] | None = None
        self.keep: int | None = None
        self.keep_alive = request.headers.get("connection", "").lower() != "close"
        self._writer = writer
        self._framing: Framing = "length"
        self._sent = 0

    async def head(
        self,
        status: int = 200,
        content_type: str | None = "application/json",
        *,
        headers: Mapping[str, str] | None = None,
        framing: Framing = "chunked",
        length: int = 0,
    ) -> None:
        """Send the status line and headers; ``framing`` says how the client will find the end of the body."""
        self._framing = framing
        lines = {"server": "uvicorn"}
        if content_type is not None:
            lines["content-type"] = content_type
        if framing == "chunked":
            lines["transfer-encoding"] = "chunked"
        elif framing == "length":
            lines["content-length"] = str(length)
        else:
            lines["connection"] = "close"
        lines |= {name.lower(): value for name, value in (headers or {}).items()}
        if lines.get("connection") == "close":
            self.keep_alive = False
        reason = HTTPStatus(status).phrase
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        await self._write(f"HTTP/1.1 {status} {reason}\r\n{text}\r\n".encode("latin-1"))

    async def data(self, data: bytes) -> None:
        """Send a piece of the body.

        Raises:
            HungUp: ``cut`` says that the connection ends here.
        """
        how: Cut | None = None
        if self.cut is not None and self._sent + len(data) >= self.cut[0]:
            data, how = data[: max(0, self.cut[0] - self._sent)], self.cut[1]
        self._sent += len(data)
        if data:
            framed = b"%x\r\n%b\r\n" % (len(data), data) if self._framing == "chunked" else data
            await self._write(framed)
        if how is not None:
            await self.end(how)

    async def finish(self) -> None:
        """End the body the way the framing promises."""
        if self._framing == "chunked":
            await self._write(b"0\r\n\r\n")

    async def whole(
        self,
        body: bytes,
        status: int = 200,
        content_type: str | None = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a complete answer with its length."""
        body = body[: self.keep]
        await self.head(status, content_type, headers=headers, framing="length", length=len(body))
        await self.data(body)

    async def end(self, how: Cut) -> None:
        """End the connection now: ``close`` (FIN), ``reset`` (RST) or ``hang`` (silence).

        Raises:
            HungUp: always, unless it hangs until the client leaves.
        """
        if how == "hang":
            await asyncio.Event().wait()
        if how == "reset":
            # Linger zero turns the close into an RST, which is what a killed process or a firewall sends.
            option = struct.pack("ii", 1, 0)
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            self._writer.transport.abort()
        raise HungUp

    async def _write(self, data: bytes) -> None:
        size, pause = self.pace or (len(data) or 1, 0.0)
        for start in range(0, len(data), size):
            self._writer.write(data[start : start + size])
            await self._writer.drain()
            if pause:
                await asyncio.sleep(pause)


Behaviour = Callable[[Exchange], Awaitable[None]]
"""How to answer one request."""


async def read_request(reader: asyncio.StreamReader, connection: int) -> Received | None:
    """Read one request; None when the client closed the connection instead of sending one."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, headers, body, connection)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return body
