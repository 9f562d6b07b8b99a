"""Behaviours of a `FaultServer`: healthy ones, and every way seen so far to let a client down.

A behaviour is an async function of one `Exchange`; the functions here make them, and those that take a
behaviour change how it is delivered: ``slow(2, chat("hi"))``, ``truncate(chat("hi"), after=40)``.
"""

from __future__ import annotations

import asyncio
import math
from typing import Literal

from vllm_adapters.testing import payloads
from vllm_adapters.testing.exchange import Behaviour, Cut, Exchange
from vllm_adapters.testing.replies import (
    chat,
    completion,
    deltas,
    encoded,
    error,
    json_reply,
    ranked,
    reply,
    sse,
    texts,
)

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
        rows: list[list[float] | None] = [payloads.vector(t, exchange.served.dims) for t in texts(asked["input"])]
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
        await json_reply(payloads.embeddings(encoded(rows, asked), indices=indices))(exchange)

    return run


def wrong_rerank(fault: Literal["short", "bad-index", "negative-index", "duplicate", "nan"]) -> Behaviour:
    """A ranking with one defect in its first place, or with its last place missing (``short``)."""

    async def run(exchange: Exchange) -> None:
        documents = exchange.request.json["documents"]
        ranking = ranked(exchange.request.json)
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
