"""``VLLMClient``, ``AsyncVLLMClient`` and ``VLLMServer``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from soak.paths import PARAMETERS, QUERY, Cancelled, Connection, Path, cancelled
from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters.types import Ranked


def _request(prompt: str) -> dict[str, Any]:
    return {"model": "", "messages": [{"role": "user", "content": prompt}], **PARAMETERS}


def _text(reply: Any) -> str:
    return reply.choices[0].message.content or ""


def _delta(chunk: Any) -> str:
    return "".join(choice.delta.content or "" for choice in chunk.choices)


def _scores(ranking: Sequence[Ranked]) -> list[tuple[str, float]]:
    return [(ranked.text, ranked.score) for ranked in ranking]


def paths(connection: Connection) -> list[Path]:
    """Return the SDK's methods of the client, and the methods of the server."""
    options = connection.options
    client, aclient = VLLMClient(connection.chat_url, **options), AsyncVLLMClient(connection.chat_url, **options)
    chat_server = VLLMServer(connection.chat_url, **options)
    pooling_server = VLLMServer(connection.pooling_url, **options)

    def chat(prompt: str) -> str:
        return _text(client.chat.completions.create(**_request(prompt)))

    async def achat(prompt: str) -> str:
        return _text(await aclient.chat.completions.create(**_request(prompt)))

    def stream(prompt: str) -> str:
        return "".join(map(_delta, client.chat.completions.create(**_request(prompt), stream=True)))

    async def astream(prompt: str) -> str:
        chunks = await aclient.chat.completions.create(**_request(prompt), stream=True)
        return "".join([_delta(chunk) async for chunk in chunks])

    def stop(prompt: str) -> str:
        text = ""
        for chunk in client.chat.completions.create(**_request(prompt), stream=True):
            text += _delta(chunk)
            if text:
                break
        return Cancelled(text)

    async def astop(prompt: str) -> str:
        text = ""
        async for chunk in await aclient.chat.completions.create(**_request(prompt), stream=True):
            text += _delta(chunk)
            if text:
                break
        return Cancelled(text)

    def drop(prompt: str) -> str:  # a client that is never closed
        return _text(VLLMClient(connection.chat_url, **options).chat.completions.create(**_request(prompt)))

    async def aclose(prompt: str) -> str:
        async with AsyncVLLMClient(connection.chat_url, **options) as client:
            return _text(await client.chat.completions.create(**_request(prompt)))

    def rank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(pooling_server.rerank(QUERY, texts))

    async def arank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(await pooling_server.arerank(QUERY, texts))

    return [
        Path("client chat", "say", chat),
        Path("client chat, async", "say", achat),
        Path("client stream", "say", stream),
        Path("client stream, async", "say", astream),
        Path("client stream, stopped", "say", stop),
        Path("client stream, async, stopped", "say", astop),
        Path("client stream, async, cancelled", "say", cancelled(astream)),
        Path("client of one call, dropped", "say", drop),
        Path("client of one call, async, closed", "say", aclose),
        Path("server.embed", "embed", pooling_server.embed),
        Path("server.aembed", "embed", pooling_server.aembed),
        Path("server.rerank", "rank", rank),
        Path("server.arerank", "rank", arank),
        Path("server.count_tokens", "count", chat_server.count_tokens),
        Path("server.acount_tokens", "count", chat_server.acount_tokens),
    ]
