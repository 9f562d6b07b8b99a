"""Behaviours of a ``FaultServer``: healthy responses, and every fault that clients must handle.

A behaviour is an async function that takes one ``Exchange``. The functions here return behaviours. Those that take a
behaviour change how it is sent: ``slow(2, chat("hi"))``, ``truncate(chat("hi"), after=40)``.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vllm_adapters.testing import payloads
from vllm_adapters.testing._exchange import Behaviour, Cut, Exchange, Framing

__all__ = [
    "chat",
    "completion",
    "deltas",
    "drip",
    "empty_choices",
    "error",
    "error_event",
    "hang",
    "hang_up",
    "healthy",
    "html",
    "json_reply",
    "loading",
    "redirect",
    "reply",
    "reset",
    "shorten",
    "slow",
    "split",
    "sse",
    "stale",
    "truncate",
    "wrong_embeddings",
    "wrong_rerank",
]

ROUTES: Mapping[str, str] = {
    **dict.fromkeys(("/version", "/health", "/openapi.json", "/v1/models"), "GET"),
    **dict.fromkeys(
        (
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/rerank",
            "/v1/rerank",
            "/v2/rerank",
            "/score",
            "/v1/score",
            "/classify",
            "/tokenize",
        ),
        "POST",
    ),
}
"""HTTP method by path, for every route of a healthy server."""

ErrorShape = Literal["vllm", "flat", "detail", "string"]
"""The form of an error's body: vLLM's nested and flat ones, FastAPI's ``detail``, and a bare string."""
End = Literal["done", "clean"] | Cut
"""How a stream ends: with ``[DONE]``, without it, or by a connection that breaks off."""
DONE = "data: [DONE]"
"""The last event of a stream."""


# Responses


def reply(
    body: bytes | str,
    status: int = 200,
    content_type: str | None = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Behaviour:
    """Send a complete response with this body, whatever its content type says."""
    data = body.encode() if isinstance(body, str) else body
    return lambda exchange: exchange.whole(data, status, content_type, headers)


def json_reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Send a JSON body; ``float("nan")`` is written as ``NaN``, as Python servers do."""
    return reply(_dump(body), status, headers=headers)


def error(
    status: int,
    message: str = "went wrong",
    *,
    shape: ErrorShape = "vllm",
    type: str = "BadRequestError",
    param: str | None = None,
    retry_after: float | None = None,
) -> Behaviour:
    """Send an error status with a body in one of vLLM's four shapes.

    Args:
        status: The HTTP status.
        message: The error message.
        shape: ``vllm`` (``{"error": {...}}``), ``flat`` (vLLM 0.10.0 and older), ``detail`` (404 and 405 of the
            router), or ``string`` (``{"error": "Unauthorized"}``).
        type: The ``type`` of the shapes ``vllm`` and ``flat``.
        param: The ``param`` of the shapes ``vllm`` and ``flat``.
        retry_after: Seconds, sent as a ``Retry-After`` header.
    """
    nested = payloads.error(message, code=status, type=type, param=param)
    bodies: dict[ErrorShape, dict[str, Any]] = {
        "vllm": nested,
        "flat": {"object": "error", **nested["error"]},
        "detail": {"detail": message},
        "string": {"error": message},
    }
    return json_reply(bodies[shape], status, {"retry-after": f"{retry_after:g}"} if retry_after is not None else None)


def sse(
    *events: Any,
    end: End = "done",
    framing: Framing = "chunked",
    newline: str = "\n",
    pause: float = 0.0,
) -> Behaviour:
    """Send an event stream.

    Args:
        events: Dicts are sent as ``data: {json}``. Strings are sent unchanged, as one block each (``": comment"``,
            ``"retry: 10"``, ``"data: line\\ndata: line"``).
        end: ``done`` sends ``[DONE]`` and ends the body properly; ``clean`` ends it properly without ``[DONE]``;
            ``close`` and ``reset`` end the connection in the middle of the body; ``hang`` keeps it open in silence.
        framing: ``chunked``, or ``close`` for a body that lasts until the connection closes. With ``close``, the ends
            ``clean`` and ``close`` look the same to the client.
        newline: Line ending; ``"\\r\\n"`` for servers that send CRLF.
        pause: Seconds before each event after the first.
    """

    async def run(exchange: Exchange) -> None:
        await exchange.head(content_type="text/event-stream; charset=utf-8", framing=framing)
        for index, event in enumerate([*events, DONE] if end == "done" else events):
            if pause and index:
                await asyncio.sleep(pause)
            block = event if isinstance(event, str) else f"data: {_dump(event).decode()}"
            await exchange.data((block + "\n\n").replace("\n", newline).encode())
        if end == "done" or end == "clean":
            await exchange.finish()
        else:
            await exchange.end(end)

    return run


def deltas(*deltas: dict[str, Any], finish_reason: str | None = "stop", end: End = "done") -> Behaviour:
    """Stream a chat completion of exactly these deltas, one chunk each.

    Args:
        deltas: The deltas; one may hold several kinds, or several tool calls.
        finish_reason: Finish reason of a last, empty delta; ``None`` sends no such chunk.
        end: How the stream ends; see ``sse``.
    """
    chunks = [payloads.chunk(delta) for delta in deltas]
    if finish_reason is not None:
        chunks.append(payloads.chunk({}, finish_reason=finish_reason))
    return sse(*chunks, end=end)


def chat(
    content: str | None = None,
    *,
    reasoning: str | None = None,
    tool_calls: Sequence[dict[str, Any]] = (),
    finish_reason: str | None = "stop",
    legacy_reasoning: bool = False,
    pause: float = 0.0,
) -> Behaviour:
    """Send a healthy chat completion, streamed if the request asks for it.

    Args:
        content: The answer. Default: the text of the last user message.
        reasoning: The reasoning; see ``payloads.chat``.
        tool_calls: The tool calls; see ``payloads.tool_call``.
        finish_reason: The finish reason.
        legacy_reasoning: Name the reasoning ``reasoning_content``, as vLLM 0.15 and older.
        pause: Seconds between the events of a stream.
    """

    async def run(exchange: Exchange) -> None:
        request = exchange.request.json
        text = _last_user_text(request) if content is None and not tool_calls else content
        fields: dict[str, Any] = {
            "reasoning": reasoning,
            "tool_calls": tool_calls,
            "finish_reason": finish_reason,
            "legacy_reasoning": legacy_reasoning,
            "model": exchange.config.model,
        }
        if request.get("stream"):
            chunks = payloads.chat_chunks(text, usage=_wants_usage(request), **fields)
            await sse(*chunks, pause=pause)(exchange)
        else:
            await json_reply(payloads.chat(text, **fields))(exchange)

    return run


def completion(text: str | None = None, *, finish_reason: str | None = "stop", pause: float = 0.0) -> Behaviour:
    """Send a healthy text completion, one choice per prompt, streamed if the request asks for it.

    Args:
        text: The text of each choice. Default: its prompt.
        finish_reason: The finish reason.
        pause: Seconds between the events of a stream.
    """

    async def run(exchange: Exchange) -> None:
        request = exchange.request.json
        answers = [prompt if text is None else text for prompt in _texts(request.get("prompt"))]
        model = exchange.config.model
        if request.get("stream"):
            chunks = payloads.completion_chunks(
                *answers, finish_reason=finish_reason, usage=_wants_usage(request), model=model
            )
            await sse(*chunks, pause=pause)(exchange)
        else:
            await json_reply(payloads.completion(*answers, finish_reason=finish_reason, model=model))(exchange)

    return run


async def healthy(exchange: Exchange) -> None:
    """Respond as vLLM 0.32 does, on every route; chat and text completions echo their prompt."""
    request, config = exchange.request, exchange.config
    method = config.routes.get(request.route)
    if method is None or method != request.method:
        status, detail = (404, "Not Found") if method is None else (405, "Method Not Allowed")
        return await error(status, detail, shape="detail")(exchange)
    key = f"Bearer {config.api_key}"
    if config.api_key is not None and request.route.startswith("/v1") and request.headers.get("authorization") != key:
        return await error(401, "Unauthorized", shape="string")(exchange)
    try:
        _ = request.json
    except ValueError:
        return await error(400, "JSON decode error", type="Bad Request", param="body.0")(exchange)
    if request.route == "/v1/chat/completions":
        return await chat()(exchange)
    if request.route == "/v1/completions":
        return await completion()(exchange)
    if request.route == "/version" and config.version is None:
        return await error(404, "Not Found", shape="detail")(exchange)
    if request.route == "/health":
        return await reply(b"", content_type=None)(exchange)
    return await json_reply(_healthy_json(exchange))(exchange)


def _healthy_json(exchange: Exchange) -> dict[str, Any]:
    config, request, model = exchange.config, exchange.request.json, exchange.config.model
    match exchange.request.route:
        case "/version":
            return {"version": config.version}
        case "/v1/models":
            return payloads.models(*config.models, max_model_len=config.max_model_len)
        case "/openapi.json":
            paths: dict[str, Any] = {path: {method.lower(): {}} for path, method in config.routes.items()}
            return {"openapi": "3.1.0", "info": {"title": "FastAPI", "version": "0.1.0"}, "paths": paths}
        case "/v1/embeddings":
            dims = request.get("dimensions") or config.dims
            rows = [payloads.vector(text, dims) for text in _texts(request["input"])]
            return payloads.embeddings(_encode(rows, request), model=model)
        case "/tokenize":
            text = request.get("prompt") or _last_user_text(request)
            return payloads.tokenized(text, max_model_len=config.max_model_len)
        case "/classify":
            return payloads.classification(["LABEL_0" for _ in _texts(request["input"])], model=model)
        case "/score" | "/v1/score":
            return payloads.score([payloads.relevance(text) for text in _texts(request["text_2"])], model=model)
        case _:
            return payloads.rerank(request["documents"], _ranking(request), model=model)


# Faults


def html(status: int = 200, text: str = "<html><body><h1>Gateway</h1></body></html>") -> Behaviour:
    """Send an HTML page, as proxies and servers on a wrong port do."""
    return reply(text, status, "text/html; charset=utf-8")


def loading() -> Behaviour:
    """Send 503 with vLLM's message for a server that is scaling."""
    return error(503, "The model is currently scaling. Please try again later.", shape="string")


def empty_choices() -> Behaviour:
    """Send a chat completion without choices."""
    return json_reply({**payloads.chat("x"), "choices": []})


def redirect(url: str, status: int = 307) -> Behaviour:
    """Redirect the client to ``url``."""
    return reply(b"", status, None, {"location": url})


def hang() -> Behaviour:
    """Accept the request and send nothing until the client disconnects."""
    return lambda exchange: exchange.end("hang")


def hang_up() -> Behaviour:
    """Close the connection without a response; on a reused connection this looks like a keep-alive timeout."""
    return lambda exchange: exchange.end("close")


def reset() -> Behaviour:
    """Reset the connection without a response."""
    return lambda exchange: exchange.end("reset")


def slow(seconds: float, behaviour: Behaviour) -> Behaviour:
    """Wait before the first byte of the response."""

    async def run(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await behaviour(exchange)

    return run


def split(behaviour: Behaviour, size: int = 1, pause: float = 0.0) -> Behaviour:
    """Send the response in packets of ``size`` bytes, also inside characters and lines.

    Args:
        behaviour: The response to send.
        size: Bytes per packet.
        pause: Seconds after each packet.
    """

    async def run(exchange: Exchange) -> None:
        exchange.pace = (size, pause)
        await behaviour(exchange)

    return run


def truncate(behaviour: Behaviour, after: int, how: Cut = "close") -> Behaviour:
    """End the connection in the middle of the body, although the headers announced more.

    Args:
        behaviour: The response to truncate.
        after: Bytes of the body to send.
        how: ``close`` or ``reset`` the connection, or ``hang``: keep it open in silence.
    """

    async def run(exchange: Exchange) -> None:
        exchange.cut = (after, how)
        await behaviour(exchange)

    return run


def shorten(behaviour: Behaviour, to: int) -> Behaviour:
    """Send only the first ``to`` bytes of the body with a matching ``Content-Length``, as from a proxy's cache."""

    async def run(exchange: Exchange) -> None:
        exchange.keep = to
        await behaviour(exchange)

    return run


def stale(behaviour: Behaviour) -> Behaviour:
    """Respond as if the connection stayed open, then close it while it is idle in the client's pool."""

    async def run(exchange: Exchange) -> None:
        await behaviour(exchange)
        exchange.keep_alive = False

    return run


def drip(every: float = 0.05, *, sse: bool = True) -> Behaviour:
    """Send meaningless bytes forever.

    Args:
        every: Seconds between two pieces.
        sse: Send comments in an event stream; otherwise spaces before a JSON body.
    """

    async def run(exchange: Exchange) -> None:
        await exchange.head(content_type="text/event-stream" if sse else "application/json")
        while True:
            await exchange.data(b": ping\n\n" if sse else b" ")
            await asyncio.sleep(every)

    return run


def error_event(
    message: str = "the engine died",
    *,
    after: int = 0,
    code: int = 500,
    shape: Literal["object", "string"] = "object",
) -> Behaviour:
    """Stream with status 200 and send an error event, followed by ``[DONE]``, as vLLM does.

    Args:
        message: The error message.
        after: Number of healthy chunks before the error event.
        code: The ``code`` of the error object.
        shape: ``object`` for vLLM's error object, ``string`` for ``{"error": message}``.
    """
    event = payloads.error(message, code=code, type="InternalServerError") if shape == "object" else {"error": message}
    return sse(*payloads.chat_chunks("one two three four five")[:after], event)


def wrong_embeddings(fault: Literal["missing", "extra", "shuffled", "nan", "dims", "null"]) -> Behaviour:
    """Send embeddings with one defect.

    Args:
        fault: A ``missing`` or ``extra`` vector, ``shuffled`` order, or a last vector with a ``nan``, with a missing
            dimension (``dims``), or ``null`` instead of it.
    """

    async def run(exchange: Exchange) -> None:
        request = exchange.request.json
        rows: list[list[float] | None] = [payloads.vector(t, exchange.config.dims) for t in _texts(request["input"])]
        indices = list(range(len(rows)))
        last = rows[-1] or []
        if fault == "missing":
            rows, indices = rows[:-1], indices[:-1]
        elif fault == "extra":
            rows, indices = [*rows, last], [*indices, len(rows)]
        elif fault == "shuffled":
            rows, indices = rows[::-1], indices[::-1]
        elif fault == "nan":
            rows[-1] = [math.nan, *last[1:]]
        elif fault == "dims":
            rows[-1] = last[:-1]
        else:
            rows[-1] = None
        await json_reply(payloads.embeddings(_encode(rows, request), indices=indices))(exchange)

    return run


def wrong_rerank(fault: Literal["short", "bad-index", "negative-index", "duplicate", "nan"]) -> Behaviour:
    """Send a ranking with one defect.

    Args:
        fault: ``short`` leaves the last document out; the others are a defect of the first place.
    """

    async def run(exchange: Exchange) -> None:
        documents = exchange.request.json["documents"]
        ranking = _ranking(exchange.request.json)
        index, relevance = ranking[0]
        broken = {
            "short": ranking[:-1],
            "bad-index": [(len(documents), relevance), *ranking[1:]],
            "negative-index": [(-1, relevance), *ranking[1:]],
            "duplicate": [(ranking[-1][0], relevance), *ranking[1:]],
            "nan": [(index, math.nan), *ranking[1:]],
        }
        await json_reply(payloads.rerank(documents, broken[fault]))(exchange)

    return run


# Requests


def _dump(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _wants_usage(request: dict[str, Any]) -> bool:
    return bool((request.get("stream_options") or {}).get("include_usage"))


def _texts(value: Any) -> list[str]:
    """Return the texts of a ``prompt`` or ``input``: one or many, as text or as token ids."""
    if isinstance(value, str):
        return [value]
    if value and isinstance(value[0], int):
        return [str(value)]
    return [item if isinstance(item, str) else str(item) for item in value]


def _last_user_text(request: dict[str, Any]) -> str:
    content = next((m["content"] for m in reversed(request["messages"]) if m["role"] == "user"), "")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def _encode(rows: Sequence[list[float] | None], request: dict[str, Any]) -> list[Any]:
    if request.get("encoding_format") != "base64":
        return list(rows)
    return [None if row is None else payloads.base64_vector(row) for row in rows]


def _ranking(request: dict[str, Any]) -> list[tuple[int, float]]:
    return payloads.ranking(request["documents"], top_n=request.get("top_n"))
