"""``ChatVLLM``, ``VLLMEmbeddings`` and ``VLLMRerank``."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from soak.ways import ASKED, BATCH, QUERY, Left, Line, Way, cancelled
from vllm_adapters.langchain import ChatVLLM, VLLMEmbeddings, VLLMRerank


def _scores(documents: Sequence[Document]) -> list[tuple[str, float]]:
    return [(document.page_content, document.metadata["relevance_score"]) for document in documents]


def ways(line: Line) -> list[Way]:
    """LangChain's own methods of each."""
    llm = ChatVLLM(base_url=line.talks, **line.options, **ASKED)
    embeddings = VLLMEmbeddings(base_url=line.embeds, batch_size=BATCH, **line.options)
    reranker = VLLMRerank(base_url=line.embeds, **line.options)

    def invoke(prompt: str) -> str:
        return str(llm.invoke(prompt).text)

    async def ainvoke(prompt: str) -> str:
        return str((await llm.ainvoke(prompt)).text)

    def stream(prompt: str) -> str:
        return "".join(str(chunk.text) for chunk in llm.stream(prompt))

    async def astream(prompt: str) -> str:
        return "".join([str(chunk.text) async for chunk in llm.astream(prompt)])

    def leave(prompt: str) -> str:
        for chunk in llm.stream(prompt):
            if chunk.text:
                return Left(chunk.text)
        return ""

    async def aleave(prompt: str) -> str:
        async for chunk in llm.astream(prompt):
            if chunk.text:
                return Left(chunk.text)
        return ""

    def rank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(reranker.compress_documents([Document(text) for text in texts], QUERY))

    async def arank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(await reranker.acompress_documents([Document(text) for text in texts], QUERY))

    return [
        Way("LangChain invoke", "say", invoke),
        Way("LangChain ainvoke", "say", ainvoke),
        Way("LangChain ainvoke, cancelled", "say", cancelled(ainvoke)),
        Way("LangChain stream", "say", stream),
        Way("LangChain astream", "say", astream),
        Way("LangChain stream, left", "say", leave),
        Way("LangChain astream, left", "say", aleave),
        Way("LangChain embed_documents", "embed", embeddings.embed_documents),
        Way("LangChain aembed_documents", "embed", embeddings.aembed_documents),
        Way("LangChain rerank", "rank", rank),
        Way("LangChain rerank, async", "rank", arank),
    ]
