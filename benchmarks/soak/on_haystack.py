"""``VLLMChatGenerator``, ``VLLMDocumentEmbedder`` and ``VLLMRanker``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from haystack import Document
from haystack.dataclasses import StreamingChunk

from soak.paths import BATCH, PARAMETERS, QUERY, Cancelled, Connection, Path, cancelled
from vllm_adapters.haystack import VLLMChatGenerator, VLLMDocumentEmbedder, VLLMRanker


class _Stop(Exception):
    """Raised by a streaming callback, with the text of its chunk."""


def _raise(chunk: StreamingChunk) -> None:
    if chunk.content:
        raise _Stop(chunk.content)


async def _araise(chunk: StreamingChunk) -> None:
    _raise(chunk)


def _check_chunks(text: str, pieces: Sequence[str]) -> str:
    return text if text == "".join(pieces) else f"{text!r}, but the callback got {pieces!r}"


def _documents(texts: Sequence[str]) -> list[Document]:
    return [Document(content=text) for text in texts]


def _vectors(result: dict[str, Any]) -> list[list[float]]:
    return [document.embedding for document in result["documents"]]


def _scores(result: dict[str, Any]) -> list[tuple[str, float]]:
    return [(document.content, document.score) for document in result["documents"]]


def paths(connection: Connection) -> list[Path]:
    """Return ``run`` and ``run_async`` of each component."""
    options: dict[str, Any] = {"timeout": asdict(connection.timeouts), "max_retries": connection.retries}
    generator = VLLMChatGenerator(api_base_url=connection.chat_url, generation_kwargs=PARAMETERS, **options)
    # All requests of a call at the same time: its time limit is that of one request.
    concurrent: dict[str, Any] = {"batch_size": BATCH, "max_concurrency": 8, "progress_bar": False}
    embedder = VLLMDocumentEmbedder(api_base_url=connection.pooling_url, raise_on_failure=True, **concurrent, **options)
    ranker = VLLMRanker(api_base_url=connection.pooling_url, **options)

    def run(prompt: str) -> str:
        return generator.run(prompt)["replies"][0].text or ""

    async def arun(prompt: str) -> str:
        return (await generator.run_async(prompt))["replies"][0].text or ""

    def stream(prompt: str) -> str:
        pieces: list[str] = []
        result = generator.run(prompt, streaming_callback=lambda chunk: pieces.append(chunk.content))
        return _check_chunks(result["replies"][0].text or "", pieces)

    async def astream(prompt: str) -> str:
        pieces: list[str] = []

        async def collect(chunk: StreamingChunk) -> None:
            pieces.append(chunk.content)

        result = await generator.run_async(prompt, streaming_callback=collect)
        return _check_chunks(result["replies"][0].text or "", pieces)

    def stop(prompt: str) -> str:
        try:
            generator.run(prompt, streaming_callback=_raise)
        except _Stop as stop_:
            return Cancelled(stop_)
        return ""

    async def astop(prompt: str) -> str:
        try:
            await generator.run_async(prompt, streaming_callback=_araise)
        except _Stop as stop_:
            return Cancelled(stop_)
        return ""

    def embed(texts: list[str]) -> list[list[float]]:
        return _vectors(embedder.run(_documents(texts)))

    async def aembed(texts: list[str]) -> list[list[float]]:
        return _vectors(await embedder.run_async(_documents(texts)))

    def rank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(ranker.run(QUERY, _documents(texts)))

    async def arank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(await ranker.run_async(QUERY, _documents(texts)))

    return [
        Path("Haystack run", "say", run),
        Path("Haystack run_async", "say", arun),
        Path("Haystack run_async, cancelled", "say", cancelled(arun)),
        Path("Haystack run, streamed", "say", stream),
        Path("Haystack run_async, streamed", "say", astream),
        Path("Haystack run, callback raises", "say", stop),
        Path("Haystack run_async, callback raises", "say", astop),
        Path("Haystack embedder", "embed", embed),
        Path("Haystack embedder, async", "embed", aembed),
        Path("Haystack ranker", "rank", rank),
        Path("Haystack ranker, async", "rank", arank),
    ]
