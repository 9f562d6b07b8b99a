"""``ChatVLLM``, ``VLLMEmbeddings`` and ``VLLMRerank``."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from soak.paths import BATCH, PARAMETERS, QUERY, Cancelled, Connection, Path, cancelled
from vllm_adapters.langchain import ChatVLLM, VLLMEmbeddings, VLLMRerank


def _scores(documents: Sequence[Document]) -> list[tuple[str, float]]:
    return [(document.page_content, document.metadata["relevance_score"]) for document in documents]


def paths(connection: Connection) -> list[Path]:
    """Return LangChain's methods of each class."""
    llm = ChatVLLM(base_url=connection.chat_url, **connection.options, **PARAMETERS)
    embeddings = VLLMEmbeddings(base_url=connection.pooling_url, batch_size=BATCH, **connection.options)
    reranker = VLLMRerank(base_url=connection.pooling_url, **connection.options)

    def invoke(prompt: str) -> str:
        return str(llm.invoke(prompt).text)

    async def ainvoke(prompt: str) -> str:
        return str((await llm.ainvoke(prompt)).text)

    def stream(prompt: str) -> str:
        return "".join(str(chunk.text) for chunk in llm.stream(prompt))

    async def astream(prompt: str) -> str:
        return "".join([str(chunk.text) async for chunk in llm.astream(prompt)])

    def stop(prompt: str) -> str:
        for chunk in llm.stream(prompt):
            if chunk.text:
                return Cancelled(chunk.text)
        return ""

    async def astop(prompt: str) -> str:
        async for chunk in llm.astream(prompt):
            if chunk.text:
                return Cancelled(chunk.text)
        return ""

    def rank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(reranker.compress_documents([Document(text) for text in texts], QUERY))

    async def arank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(await reranker.acompress_documents([Document(text) for text in texts], QUERY))

    return [
        Path("LangChain invoke", "say", invoke),
        Path("LangChain ainvoke", "say", ainvoke),
        Path("LangChain ainvoke, cancelled", "say", cancelled(ainvoke)),
        Path("LangChain stream", "say", stream),
        Path("LangChain astream", "say", astream),
        Path("LangChain stream, stopped", "say", stop),
        Path("LangChain astream, stopped", "say", astop),
        Path("LangChain embed_documents", "embed", embeddings.embed_documents),
        Path("LangChain aembed_documents", "embed", embeddings.aembed_documents),
        Path("LangChain rerank", "rank", rank),
        Path("LangChain rerank, async", "rank", arank),
    ]
