"""A minimal HTTP/1.1 server side, written by hand so that a test server can break it at any byte."""

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

Framing = Literal["length", "chunked", "close"]
Cut = Literal["close", "reset", "hang"]


class ConnectionEnded(Exception):
    """Stops the running behaviour: the server closed the connection on purpose."""


@dataclass
class ServerConfig:
    """What a healthy server serves.

    Attributes:
        version: The version at ``/version``; ``None`` if the route is missing.
        models: Names or whole model cards of ``/v1/models``.
        api_key: The key that routes below ``/v1`` require; ``None`` for no authentication.
        max_model_len: Context length in the model cards, in tokens.
        dims: Length of the embedding vectors.
        routes: HTTP method by path.
    """

    version: str | None
    models: tuple[str | dict[str, Any], ...]
    api_key: str | None
    max_model_len: int
    dims: int
    routes: Mapping[str, str]

    @property
    def model(self) -> str:
        """Name in the ``model`` field of responses: the first served one."""
        first = self.models[0]
        return str(first["id"]) if isinstance(first, dict) else first


@dataclass
class Received:
    """One request as the server received it.

    Attributes:
        method: ``GET``, ``POST``, ...
        path: Path and query.
        headers: Headers, with names in lower case.
        body: The body as bytes.
        connection: Number of the connection; requests on a reused connection have the same number.
        at: ``time.monotonic()`` when the whole request had arrived, in seconds.
        disconnected_at: ``time.monotonic()`` when the client disconnected before the response was complete.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes
    connection: int
    at: float = field(default_factory=time.monotonic, repr=False)
    disconnected_at: float | None = field(default=None, repr=False)
    _disconnected: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def route(self) -> str:
        """The path without its query."""
        return self.path.partition("?")[0]

    @property
    def json(self) -> Any:
        """The parsed body; ``None`` if it is empty.

        Raises:
            ValueError: The body is not JSON.
        """
        return json.loads(self.body) if self.body else None

    def mark_disconnected(self) -> None:
        """Record that the client disconnected; called by the server."""
        self.disconnected_at = time.monotonic()
        self._disconnected.set()

    def wait_disconnected(self, timeout: float = 5.0) -> bool:
        """Wait until the client disconnects before its response is complete.

        Args:
            timeout: Seconds to wait.

        Returns:
            ``False`` if the client is still connected after ``timeout`` seconds.
        """
        return self._disconnected.wait(timeout)


class Exchange:
    """One request, and the methods to send its response.

    A behaviour calls ``head``, then ``data`` any number of times, then ``finish``; or ``whole``, which does all
    three. The attributes ``pace``, ``cut`` and ``keep`` change how later bytes are sent, so that one behaviour can
    wrap another.

    Attributes:
        request: The request to answer.
        config: What a healthy server would serve.
        pace: ``(size, seconds)``: send pieces of ``size`` bytes, with a pause of ``seconds`` after each.
        cut: ``(size, how)``: end the connection after ``size`` bytes of the body.
        keep: Truncate the body of a ``whole`` response to this many bytes; its ``Content-Length`` agrees.
        keep_alive: Whether the connection stays open after the response.
    """

    def __init__(self, request: Received, config: ServerConfig, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.config = config
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
        """Send the status line and the headers.

        Args:
            status: The HTTP status.
            content_type: Value of ``Content-Type``; ``None`` leaves the header out.
            headers: Further headers.
            framing: How the end of the body is announced: ``length``, ``chunked``, or ``close`` for a body that
                lasts until the connection closes.
            length: Value of ``Content-Length``, for the framing ``length``.
        """
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
            ConnectionEnded: ``cut`` ends the connection here.
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
        """End the body as its framing requires."""
        if self._framing == "chunked":
            await self._write(b"0\r\n\r\n")

    async def whole(
        self,
        body: bytes,
        status: int = 200,
        content_type: str | None = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a complete response with a ``Content-Length``."""
        body = body[: self.keep]
        await self.head(status, content_type, headers=headers, framing="length", length=len(body))
        await self.data(body)

    async def end(self, how: Cut) -> None:
        """End the connection now: ``close`` (FIN), ``reset`` (RST) or ``hang`` (keep it open and send nothing).

        Raises:
            ConnectionEnded: Always, except for ``hang``, which waits until the client disconnects.
        """
        if how == "hang":
            await asyncio.Event().wait()
        if how == "reset":
            # Linger zero turns the close into an RST, which is what a killed process or a firewall sends.
            option = struct.pack("ii", 1, 0)
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            self._writer.transport.abort()
        raise ConnectionEnded

    async def _write(self, data: bytes) -> None:
        size, pause = self.pace or (len(data) or 1, 0.0)
        for start in range(0, len(data), size):
            self._writer.write(data[start : start + size])
            await self._writer.drain()
            if pause:
                await asyncio.sleep(pause)


Behaviour = Callable[[Exchange], Awaitable[None]]
"""An async function that answers one request."""


async def read_request(reader: asyncio.StreamReader, connection: int) -> Received | None:
    """Read one request; return ``None`` if the client closed the connection instead of sending one."""
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
