"""``VLLM``, ``VLLMEmbedding`` and ``VLLMRerank``."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.schema import NodeWithScore, TextNode

from soak.paths import BATCH, PARAMETERS, QUERY, Cancelled, Connection, Path, cancelled
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank


def _messages(prompt: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=prompt)]


def _nodes(texts: Sequence[str]) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text)) for text in texts]


def _scores(nodes: Sequence[NodeWithScore]) -> list[tuple[str, float]]:
    return [(node.text, node.score or 0.0) for node in nodes]


def paths(connection: Connection) -> list[Path]:
    """Return LlamaIndex's methods of each class."""
    llm = VLLM(api_base=connection.chat_url, **connection.options, **PARAMETERS)
    embedding = VLLMEmbedding(api_base=connection.pooling_url, embed_batch_size=BATCH, **connection.options)
    reranker = VLLMRerank(api_base=connection.pooling_url, **connection.options)

    def chat(prompt: str) -> str:
        return llm.chat(_messages(prompt)).message.content or ""

    async def achat(prompt: str) -> str:
        return (await llm.achat(_messages(prompt))).message.content or ""

    def stream(prompt: str) -> str:
        return "".join(response.delta or "" for response in llm.stream_chat(_messages(prompt)))

    async def astream(prompt: str) -> str:
        return "".join([response.delta or "" async for response in await llm.astream_chat(_messages(prompt))])

    def stop(prompt: str) -> str:
        for response in llm.stream_chat(_messages(prompt)):
            if response.delta:
                return Cancelled(response.message.content)
        return ""

    async def astop(prompt: str) -> str:
        async for response in await llm.astream_chat(_messages(prompt)):
            if response.delta:
                return Cancelled(response.message.content)
        return ""

    def rank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(reranker.postprocess_nodes(_nodes(texts), query_str=QUERY))

    async def arank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(await reranker.apostprocess_nodes(_nodes(texts), query_str=QUERY))

    return [
        Path("LlamaIndex chat", "say", chat),
        Path("LlamaIndex achat", "say", achat),
        Path("LlamaIndex achat, cancelled", "say", cancelled(achat)),
        Path("LlamaIndex stream_chat", "say", stream),
        Path("LlamaIndex astream_chat", "say", astream),
        Path("LlamaIndex stream_chat, stopped", "say", stop),
        Path("LlamaIndex astream_chat, stopped", "say", astop),
        Path("LlamaIndex embedding", "embed", embedding.get_text_embedding_batch),
        Path("LlamaIndex embedding, async", "embed", embedding.aget_text_embedding_batch),
        Path("LlamaIndex rerank", "rank", rank),
        Path("LlamaIndex rerank, async", "rank", arank),
    ]
