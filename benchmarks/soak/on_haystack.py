"""``VLLMChatGenerator``, ``VLLMDocumentEmbedder`` and ``VLLMRanker``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from haystack import Document
from haystack.dataclasses import StreamingChunk

from soak.ways import ASKED, BATCH, QUERY, Left, Line, Way, cancelled
from vllm_adapters.haystack import VLLMChatGenerator, VLLMDocumentEmbedder, VLLMRanker


class _Enough(Exception):
    """Raised by a callback, with the text that it has seen."""


def _stop(chunk: StreamingChunk) -> None:
    if chunk.content:
        raise _Enough(chunk.content)


async def _astop(chunk: StreamingChunk) -> None:
    _stop(chunk)


def _same(text: str, pieces: Sequence[str]) -> str:
    return text if text == "".join(pieces) else f"{text!r}, but the callback got {pieces!r}"


def _documents(texts: Sequence[str]) -> list[Document]:
    return [Document(content=text) for text in texts]


def _vectors(found: dict[str, Any]) -> list[list[float]]:
    return [document.embedding for document in found["documents"]]


def _scores(found: dict[str, Any]) -> list[tuple[str, float]]:
    return [(document.content, document.score) for document in found["documents"]]


def ways(line: Line) -> list[Way]:
    """``run`` and ``run_async`` of each."""
    options: dict[str, Any] = {"timeout": asdict(line.limits), "max_retries": line.retries}
    generator = VLLMChatGenerator(api_base_url=line.talks, generation_kwargs=ASKED, **options)
    # All of a call's requests at once: its time limit is that of one request.
    together: dict[str, Any] = {"batch_size": BATCH, "max_concurrency": 8, "progress_bar": False}
    embedder = VLLMDocumentEmbedder(api_base_url=line.embeds, raise_on_failure=True, **together, **options)
    ranker = VLLMRanker(api_base_url=line.embeds, **options)

    def run(prompt: str) -> str:
        return generator.run(prompt)["replies"][0].text or ""

    async def arun(prompt: str) -> str:
        return (await generator.run_async(prompt))["replies"][0].text or ""

    def stream(prompt: str) -> str:
        pieces: list[str] = []
        found = generator.run(prompt, streaming_callback=lambda chunk: pieces.append(chunk.content))
        return _same(found["replies"][0].text or "", pieces)

    async def astream(prompt: str) -> str:
        pieces: list[str] = []

        async def collect(chunk: StreamingChunk) -> None:
            pieces.append(chunk.content)

        found = await generator.run_async(prompt, streaming_callback=collect)
        return _same(found["replies"][0].text or "", pieces)

    def leave(prompt: str) -> str:
        try:
            generator.run(prompt, streaming_callback=_stop)
        except _Enough as seen:
            return Left(seen)
        return ""

    async def aleave(prompt: str) -> str:
        try:
            await generator.run_async(prompt, streaming_callback=_astop)
        except _Enough as seen:
            return Left(seen)
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
        Way("Haystack run", "say", run),
        Way("Haystack run_async", "say", arun),
        Way("Haystack run_async, cancelled", "say", cancelled(arun)),
        Way("Haystack run, streamed", "say", stream),
        Way("Haystack run_async, streamed", "say", astream),
        Way("Haystack run, callback raises", "say", leave),
        Way("Haystack run_async, callback raises", "say", aleave),
        Way("Haystack embedder", "embed", embed),
        Way("Haystack embedder, async", "embed", aembed),
        Way("Haystack ranker", "rank", rank),
        Way("Haystack ranker, async", "rank", arank),
    ]
