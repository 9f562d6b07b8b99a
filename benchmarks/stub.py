"""A minimal server that sends prepared responses of vLLM 0.32, so that only the client is measured.

It is a process of its own (``Stub``), so that its CPU time does not count. The name of the model selects the response:
``burst`` sends everything at once, ``paced`` event by event and ``slow`` after a second. ``reasoning`` and ``tools``
stream reasoning and the arguments of a tool call, and ``long-N`` N times as many chunks.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any

CHUNKS = 600
"""Events with text in a streamed reply, besides the first (role) and the last (usage)."""
DIMENSIONS = 384
SLOW_SECONDS = 1.0
PACE_SECONDS = 0.0005

_ID = {"id": "chatcmpl-8f6d1c2b3a495867", "created": 1795311587, "model": "stub"}
_USAGE = {
    "prompt_tokens": 24,
    "total_tokens": 24 + CHUNKS,
    "completion_tokens": CHUNKS,
    "prompt_tokens_details": {"cached_tokens": 0, "created_cache_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
_FINGERPRINT = "vllm-0.32.0-44994631"
_WORDS = [" Paris", " is", " the", " capital", " of", " France", ",", " and", " of", " nothing", " else", "."]


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    event = {"id": _ID["id"], "object": "chat.completion.chunk", **_ID, "choices": choices, **more}
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def _delta(kind: str, index: int) -> dict[str, Any]:
    word = _WORDS[index % len(_WORDS)]
    if kind == "tools":
        call = {
            "id": "call-1",
            "type": "function",
            "index": 0,
            "function": {"name": "weather", "arguments": '{"city": "'},
        }
        if index:
            end = '"}' if index == CHUNKS - 1 else word
            call = {"index": 0, "function": {"arguments": end}}
        return {"tool_calls": [call]}
    return {"reasoning" if kind == "reasoning" else "content": word}


def _stream(kind: str = "content", times: int = 1) -> Iterator[bytes]:
    chunks = CHUNKS * times
    start = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    yield _event([start], prompt_token_ids=None, prompt_text=None)
    for index in range(chunks):
        choice = {"index": 0, "delta": _delta(kind, index), "logprobs": None, "finish_reason": None, "token_ids": None}
        if index == chunks - 1:
            choice = {**choice, "finish_reason": "tool_calls" if kind == "tools" else "stop", "stop_reason": None}
        yield _event([choice])
    yield _event([], usage=_USAGE, system_fingerprint=_FINGERPRINT)
    yield b"data: [DONE]\n\n"


def _whole() -> bytes:
    message = {
        "role": "assistant",
        "content": "".join(_WORDS) * 8,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning": None,
    }
    nothing = dict.fromkeys(
        ("prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params", "ec_transfer_params")
    )
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
        "token_ids": None,
        "routed_experts": None,
    }
    reply = {
        **_ID,
        "object": "chat.completion",
        "choices": [choice],
        "service_tier": None,
        "system_fingerprint": _FINGERPRINT,
        "usage": _USAGE,
        **nothing,
        "metrics": None,
    }
    return json.dumps(reply, separators=(",", ":")).encode()


def _vectors(count: int, encoding: str | None) -> bytes:
    numbers = [0.0123456789 * (index % 7 - 3) for index in range(DIMENSIONS)]
    block = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *numbers)).decode()
    vector = block if encoding == "base64" else numbers
    data = [{"index": index, "object": "embedding", "embedding": vector} for index in range(count)]
    usage = {"prompt_tokens": count * 8, "total_tokens": count * 8, "completion_tokens": 0}
    return json.dumps({"id": "embd-8f6d", "object": "list", **_ID, "data": data, "usage": usage}).encode()


def _http_chunks(events: Iterator[bytes]) -> list[bytes]:
    """Return one HTTP chunk per event, as vLLM sends them."""
    return [b"%x\r\n%b\r\n" % (len(event), event) for event in events]


_EVENTS = _http_chunks(_stream())
_BURSTS = {kind: b"".join(_http_chunks(_stream(kind))) + b"0\r\n\r\n" for kind in ("content", "reasoning", "tools")}
_WHOLE = _whole()
_HEAD = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\n"
_SSE = _HEAD + b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def _json(body: bytes) -> bytes:
    return b"%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (_HEAD, len(body), body)


async def _answer(path: str, request: dict[str, Any]) -> AsyncIterator[bytes]:
    if path.endswith("/version"):
        yield _json(b'{"version":"0.32.0"}')
    elif path.endswith("/embeddings"):
        yield _json(_vectors(len(request["input"]), request.get("encoding_format")))
    elif not request.get("stream"):
        if request["model"] == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        yield _json(_WHOLE)
    elif request["model"] == "paced":
        yield _SSE
        for event in _EVENTS:
            await asyncio.sleep(PACE_SECONDS)
            yield event
        yield b"0\r\n\r\n"
    elif request["model"].startswith("long-"):
        yield _SSE
        for event in _http_chunks(_stream(times=int(request["model"].removeprefix("long-")))):
            yield event
        yield b"0\r\n\r\n"
    else:
        yield _SSE + _BURSTS.get(request["model"], _BURSTS["content"])


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")
            lengths = [line.split(":")[1] for line in lines if line.lower().startswith("content-length:")]
            body = await reader.readexactly(int(lengths[0])) if lengths else b"{}"
            async for piece in _answer(lines[0].split(" ")[1], json.loads(body)):
                writer.write(piece)
                await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has disconnected
    finally:
        writer.close()


async def _main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


class Stub:
    """The server in its own process, within a ``with`` block."""

    def __enter__(self) -> str:
        self._process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        return f"http://127.0.0.1:{int(self._process.stdout.readline())}/v1"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


if __name__ == "__main__":
    asyncio.run(_main())
