"""``VLLMClient``, ``AsyncVLLMClient`` and ``VLLMServer``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from soak.ways import ASKED, QUERY, Left, Line, Way, cancelled
from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters.types import Ranked


def _request(prompt: str) -> dict[str, Any]:
    return {"model": "", "messages": [{"role": "user", "content": prompt}], **ASKED}


def _text(reply: Any) -> str:
    return reply.choices[0].message.content or ""


def _piece(chunk: Any) -> str:
    return "".join(choice.delta.content or "" for choice in chunk.choices)


def _scores(ranking: Sequence[Ranked]) -> list[tuple[str, float]]:
    return [(ranked.text, ranked.score) for ranked in ranking]


def ways(line: Line) -> list[Way]:
    """The SDK's methods, and those of the server."""
    client, aclient = VLLMClient(line.talks, **line.options), AsyncVLLMClient(line.talks, **line.options)
    talks, embeds = VLLMServer(line.talks, **line.options), VLLMServer(line.embeds, **line.options)

    def chat(prompt: str) -> str:
        return _text(client.chat.completions.create(**_request(prompt)))

    async def achat(prompt: str) -> str:
        return _text(await aclient.chat.completions.create(**_request(prompt)))

    def stream(prompt: str) -> str:
        return "".join(map(_piece, client.chat.completions.create(**_request(prompt), stream=True)))

    async def astream(prompt: str) -> str:
        chunks = await aclient.chat.completions.create(**_request(prompt), stream=True)
        return "".join([_piece(chunk) async for chunk in chunks])

    def leave(prompt: str) -> str:
        text = ""
        for chunk in client.chat.completions.create(**_request(prompt), stream=True):
            text += _piece(chunk)
            if text:
                break
        return Left(text)

    async def aleave(prompt: str) -> str:
        text = ""
        async for chunk in await aclient.chat.completions.create(**_request(prompt), stream=True):
            text += _piece(chunk)
            if text:
                break
        return Left(text)

    def drop(prompt: str) -> str:  # a client that nobody closes
        return _text(VLLMClient(line.talks, **line.options).chat.completions.create(**_request(prompt)))

    async def aclose(prompt: str) -> str:
        async with AsyncVLLMClient(line.talks, **line.options) as own:
            return _text(await own.chat.completions.create(**_request(prompt)))

    def rank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(embeds.rerank(QUERY, texts))

    async def arank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(await embeds.arerank(QUERY, texts))

    return [
        Way("client chat", "say", chat),
        Way("client chat, async", "say", achat),
        Way("client stream", "say", stream),
        Way("client stream, async", "say", astream),
        Way("client stream, left", "say", leave),
        Way("client stream, async, left", "say", aleave),
        Way("client stream, async, cancelled", "say", cancelled(astream)),
        Way("client of one call, dropped", "say", drop),
        Way("client of one call, async, closed", "say", aclose),
        Way("server.embed", "embed", embeds.embed),
        Way("server.aembed", "embed", embeds.aembed),
        Way("server.rerank", "rank", rank),
        Way("server.arerank", "rank", arank),
        Way("server.count_tokens", "count", talks.count_tokens),
        Way("server.acount_tokens", "count", talks.acount_tokens),
    ]
