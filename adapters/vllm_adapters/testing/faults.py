"""Behaviours of a `FaultServer`: healthy ones, and every way seen so far to let a client down.

A behaviour is an async function of one `Exchange`; the functions here make them, and those that take a
behaviour change how it is delivered: ``slow(2, chat("hi"))``, ``truncate(chat("hi"), after=40)``.
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
"""Path to method, for everything a healthy server answers."""

ErrorShape = Literal["vllm", "flat", "detail", "string"]
End = Literal["done", "clean"] | Cut
DONE = "data: [DONE]"


def reply(
    body: bytes | str,
    status: int = 200,
    content_type: str | None = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Behaviour:
    """These bytes, complete, whatever the content type claims them to be."""
    data = body.encode() if isinstance(body, str) else body
    return lambda exchange: exchange.whole(data, status, content_type, headers)


def json_reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Behaviour:
    """A JSON body; ``float("nan")`` goes out as ``NaN``, as Python servers write it."""
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
    """An error status, in one of vLLM's four body shapes.

    Args:
        status: the HTTP status.
        message: the text.
        shape: ``vllm`` (``{"error": {...}}``), ``flat`` (0.10.0 and older), ``detail`` (the router's 404 and
            405), ``string`` (``{"error": "Unauthorized"}``).
        type: the ``type`` of the first two shapes.
        param: their ``param``.
        retry_after: seconds, as a ``Retry-After`` header.
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
    """An event stream.

    Args:
        events: dicts become ``data: {json}``; strings are sent as they are, as one block (``": comment"``,
            ``"retry: 10"``, ``"data: line\\ndata: line"``).
        end: ``done`` (``[DONE]``, then a proper end), ``clean`` (a proper end without it), ``close`` (without
            the end that the framing promised), ``reset`` or ``hang``.
        framing: ``chunked``, or ``close`` for a body that lasts until the connection closes: there ``clean``
            and ``close`` cannot be told apart.
        newline: ``"\\r\\n"`` for servers that end lines so.
        pause: seconds before each event after the first.
    """

    async def run(exchange: Exchange) -> None:
        await exchange.head(content_type="text/event-stream; charset=utf-8", framing=framing)
        for place, event in enumerate([*events, DONE] if end == "done" else events):
            if pause and place:
                await asyncio.sleep(pause)
            block = event if isinstance(event, str) else f"data: {_dump(event).decode()}"
            await exchange.data((block + "\n\n").replace("\n", newline).encode())
        if end == "done" or end == "clean":
            await exchange.finish()
        else:
            await exchange.end(end)

    return run


def deltas(*deltas: dict[str, Any], finish_reason: str | None = "stop", end: End = "done") -> Behaviour:
    """A chat stream of exactly these deltas, one chunk each: several kinds in one, several tool calls, ..."""
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
    """A healthy chat completion, streamed when the request asks for it; see `wire.chat` for the arguments.

    Without ``content`` it answers with the last user message. ``pause`` lies between the events of a stream.
    """

    async def run(exchange: Exchange) -> None:
        asked = exchange.request.json
        text = _last_user_text(asked) if content is None and not tool_calls else content
        given: dict[str, Any] = {
            "reasoning": reasoning,
            "tool_calls": tool_calls,
            "finish_reason": finish_reason,
            "legacy_reasoning": legacy_reasoning,
            "model": exchange.served.model,
        }
        if asked.get("stream"):
            chunks = payloads.chat_chunks(text, usage=_wants_usage(asked), **given)
            await sse(*chunks, pause=pause)(exchange)
        else:
            await json_reply(payloads.chat(text, **given))(exchange)

    return run


def completion(text: str | None = None, *, finish_reason: str | None = "stop", pause: float = 0.0) -> Behaviour:
    """A healthy text completion, one choice per prompt; without ``text`` it answers with the prompt."""

    async def run(exchange: Exchange) -> None:
        asked = exchange.request.json
        answers = [prompt if text is None else text for prompt in _texts(asked.get("prompt"))]
        model = exchange.served.model
        if asked.get("stream"):
            chunks = payloads.completion_chunks(
                *answers, finish_reason=finish_reason, usage=_wants_usage(asked), model=model
            )
            await sse(*chunks, pause=pause)(exchange)
        else:
            await json_reply(payloads.completion(*answers, finish_reason=finish_reason, model=model))(exchange)

    return run


async def healthy(exchange: Exchange) -> None:
    """What vLLM 0.32 answers, for every path in `ROUTES`; chat and completions echo what they were asked."""
    request, served = exchange.request, exchange.served
    method = served.routes.get(request.route)
    if method is None or method != request.method:
        status, detail = (404, "Not Found") if method is None else (405, "Method Not Allowed")
        return await error(status, detail, shape="detail")(exchange)
    key = f"Bearer {served.api_key}"
    if served.api_key is not None and request.route.startswith("/v1") and request.headers.get("authorization") != key:
        return await error(401, "Unauthorized", shape="string")(exchange)
    try:
        _ = request.json
    except ValueError:
        return await error(400, "JSON decode error", type="Bad Request", param="body.0")(exchange)
    if request.route == "/v1/chat/completions":
        return await chat()(exchange)
    if request.route == "/v1/completions":
        return await completion()(exchange)
    if request.route == "/version" and served.version is None:
        return await error(404, "Not Found", shape="detail")(exchange)
    if request.route == "/health":
        return await reply(b"", content_type=None)(exchange)
    return await json_reply(_healthy_json(exchange))(exchange)


def _healthy_json(exchange: Exchange) -> dict[str, Any]:
    served, asked, model = exchange.served, exchange.request.json, exchange.served.model
    match exchange.request.route:
        case "/version":
            return {"version": served.version}
        case "/v1/models":
            return payloads.models(*served.models, max_model_len=served.max_model_len)
        case "/openapi.json":
            paths: dict[str, Any] = {path: {method.lower(): {}} for path, method in served.routes.items()}
            return {"openapi": "3.1.0", "info": {"title": "FastAPI", "version": "0.1.0"}, "paths": paths}
        case "/v1/embeddings":
            rows = [payloads.vector(text, asked.get("dimensions") or served.dims) for text in _texts(asked["input"])]
            return payloads.embeddings(_encoded(rows, asked), model=model)
        case "/tokenize":
            return payloads.tokenized(asked.get("prompt") or _last_user_text(asked), max_model_len=served.max_model_len)
        case "/classify":
            return payloads.classification(["LABEL_0" for _ in _texts(asked["input"])], model=model)
        case "/score" | "/v1/score":
            return payloads.score([payloads.relevance(text) for text in _texts(asked["text_2"])], model=model)
        case _:
            return payloads.rerank(asked["documents"], _ranking(asked), model=model)


def _dump(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _wants_usage(asked: dict[str, Any]) -> bool:
    return bool((asked.get("stream_options") or {}).get("include_usage"))


def _texts(given: Any) -> list[str]:
    """The texts of a ``prompt`` or ``input``: one or many, as text or as token ids."""
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [str(given)]
    return [item if isinstance(item, str) else str(item) for item in given]


def _last_user_text(asked: dict[str, Any]) -> str:
    content = next((m["content"] for m in reversed(asked["messages"]) if m["role"] == "user"), "")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def _encoded(rows: Sequence[list[float] | None], asked: dict[str, Any]) -> list[Any]:
    if asked.get("encoding_format") != "base64":
        return list(rows)
    return [None if row is None else payloads.base64_vector(row) for row in rows]


def _ranking(asked: dict[str, Any]) -> list[tuple[int, float]]:
    return payloads.ranking(asked["documents"], top_n=asked.get("top_n"))


def html(status: int = 200, text: str = "<html><body><h1>Gateway</h1></body></html>") -> Behaviour:
    """A page instead of an answer, as proxies and wrong ports give it."""
    return reply(text, status, "text/html; charset=utf-8")


def loading() -> Behaviour:
    """503 with vLLM's text for a server that is being scaled."""
    return error(503, "The model is currently scaling. Please try again later.", shape="string")


def empty_choices() -> Behaviour:
    """A chat completion without any choice."""
    return json_reply({**payloads.chat("x"), "choices": []})


def redirect(url: str, status: int = 307) -> Behaviour:
    """Send the client elsewhere."""
    return reply(b"", status, None, {"location": url})


def hang() -> Behaviour:
    """Take the request and stay silent until the client gives up."""
    return lambda exchange: exchange.end("hang")


def hang_up() -> Behaviour:
    """Close without a byte; on a reused connection, what a keep-alive timeout looks like to the client."""
    return lambda exchange: exchange.end("close")


def reset() -> Behaviour:
    """Reset the connection without a byte."""
    return lambda exchange: exchange.end("reset")


def slow(seconds: float, behaviour: Behaviour) -> Behaviour:
    """Wait before the first byte."""

    async def run(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await behaviour(exchange)

    return run


def split(behaviour: Behaviour, size: int = 1, pause: float = 0.0) -> Behaviour:
    """Send in packets of ``size`` bytes, through characters and lines, with a pause after each."""

    async def run(exchange: Exchange) -> None:
        exchange.pace = (size, pause)
        await behaviour(exchange)

    return run


def truncate(behaviour: Behaviour, after: int, how: Cut = "close") -> Behaviour:
    """Cut the body after so many bytes, although headers promised more: close, reset or fall silent."""

    async def run(exchange: Exchange) -> None:
        exchange.cut = (after, how)
        await behaviour(exchange)

    return run


def shorten(behaviour: Behaviour, to: int) -> Behaviour:
    """Send only so many bytes of the body, and headers that agree: what a proxy stores of an answer cut short."""

    async def run(exchange: Exchange) -> None:
        exchange.keep = to
        await behaviour(exchange)

    return run


def stale(behaviour: Behaviour) -> Behaviour:
    """Answer as if the connection stayed open, then close it while it lies idle in the client's pool."""

    async def run(exchange: Exchange) -> None:
        await behaviour(exchange)
        exchange.keep_alive = False

    return run


def drip(every: float = 0.05, *, sse: bool = True) -> Behaviour:
    """Bytes that never come to anything, for ever: SSE comments, or spaces before a JSON body."""

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
    """A 200 stream whose event number ``after`` is an error, then ``[DONE]``, as vLLM does."""
    found = payloads.error(message, code=code, type="InternalServerError") if shape == "object" else {"error": message}
    return sse(*payloads.chat_chunks("one two three four five")[:after], found)


def wrong_embeddings(fault: Literal["missing", "extra", "shuffled", "nan", "dims", "null"]) -> Behaviour:
    """Embeddings with one defect: a row missing or extra, shuffled, a NaN, a short vector, a null."""

    async def run(exchange: Exchange) -> None:
        asked = exchange.request.json
        rows: list[list[float] | None] = [payloads.vector(t, exchange.served.dims) for t in _texts(asked["input"])]
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
        await json_reply(payloads.embeddings(_encoded(rows, asked), indices=indices))(exchange)

    return run


def wrong_rerank(fault: Literal["short", "bad-index", "negative-index", "duplicate", "nan"]) -> Behaviour:
    """A ranking with one defect in its first place, or with its last place missing (``short``)."""

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
