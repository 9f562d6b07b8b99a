"""How a healthy server answers: single replies, event streams, and vLLM 0.32's routes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vllm_adapters.testing import payloads
from vllm_adapters.testing.exchange import Behaviour, Cut, Exchange, Framing

__all__ = ["ROUTES", "chat", "completion", "deltas", "error", "healthy", "json_reply", "reply", "sse"]

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
        answers = [prompt if text is None else text for prompt in texts(asked.get("prompt"))]
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
            rows = [payloads.vector(text, asked.get("dimensions") or served.dims) for text in texts(asked["input"])]
            return payloads.embeddings(encoded(rows, asked), model=model)
        case "/tokenize":
            return payloads.tokenized(asked.get("prompt") or _last_user_text(asked), max_model_len=served.max_model_len)
        case "/classify":
            return payloads.classification(["LABEL_0" for _ in texts(asked["input"])], model=model)
        case "/score" | "/v1/score":
            return payloads.score([relevance(text) for text in texts(asked["text_2"])], model=model)
        case _:
            return payloads.rerank(asked["documents"], ranked(asked), model=model)


def _dump(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _wants_usage(asked: dict[str, Any]) -> bool:
    return bool((asked.get("stream_options") or {}).get("include_usage"))


def texts(given: Any) -> list[str]:
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


def encoded(rows: Sequence[list[float] | None], asked: dict[str, Any]) -> list[Any]:
    if asked.get("encoding_format") != "base64":
        return list(rows)
    return [None if row is None else payloads.base64_vector(row) for row in rows]


def relevance(text: str) -> float:
    """The score that a healthy server gives a document."""
    return payloads.vector(text, 1)[0] + 0.5


def ranked(asked: dict[str, Any]) -> list[tuple[int, float]]:
    scored = [(index, relevance(document)) for index, document in enumerate(asked["documents"])]
    ranking = sorted(scored, key=lambda pair: -pair[1])
    return ranking[: asked["top_n"]] if asked.get("top_n") else ranking
