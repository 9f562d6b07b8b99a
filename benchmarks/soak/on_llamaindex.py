"""``VLLM``, ``VLLMEmbedding`` and ``VLLMRerank``."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.schema import NodeWithScore, TextNode

from soak.ways import ASKED, BATCH, QUERY, Left, Line, Way, cancelled
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank


def _messages(prompt: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=prompt)]


def _nodes(texts: Sequence[str]) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text)) for text in texts]


def _scores(nodes: Sequence[NodeWithScore]) -> list[tuple[str, float]]:
    return [(node.text, node.score or 0.0) for node in nodes]


def ways(line: Line) -> list[Way]:
    """LlamaIndex's own methods of each."""
    llm = VLLM(api_base=line.talks, **line.options, **ASKED)
    embedding = VLLMEmbedding(api_base=line.embeds, embed_batch_size=BATCH, **line.options)
    reranker = VLLMRerank(api_base=line.embeds, **line.options)

    def chat(prompt: str) -> str:
        return llm.chat(_messages(prompt)).message.content or ""

    async def achat(prompt: str) -> str:
        return (await llm.achat(_messages(prompt))).message.content or ""

    def stream(prompt: str) -> str:
        return "".join(response.delta or "" for response in llm.stream_chat(_messages(prompt)))

    async def astream(prompt: str) -> str:
        return "".join([response.delta or "" async for response in await llm.astream_chat(_messages(prompt))])

    def leave(prompt: str) -> str:
        for response in llm.stream_chat(_messages(prompt)):
            if response.delta:
                return Left(response.message.content)
        return ""

    async def aleave(prompt: str) -> str:
        async for response in await llm.astream_chat(_messages(prompt)):
            if response.delta:
                return Left(response.message.content)
        return ""

    def rank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(reranker.postprocess_nodes(_nodes(texts), query_str=QUERY))

    async def arank(texts: list[str]) -> list[tuple[str, float]]:
        return _scores(await reranker.apostprocess_nodes(_nodes(texts), query_str=QUERY))

    return [
        Way("LlamaIndex chat", "say", chat),
        Way("LlamaIndex achat", "say", achat),
        Way("LlamaIndex achat, cancelled", "say", cancelled(achat)),
        Way("LlamaIndex stream_chat", "say", stream),
        Way("LlamaIndex astream_chat", "say", astream),
        Way("LlamaIndex stream_chat, left", "say", leave),
        Way("LlamaIndex astream_chat, left", "say", aleave),
        Way("LlamaIndex embedding", "embed", embedding.get_text_embedding_batch),
        Way("LlamaIndex embedding, async", "embed", embedding.aget_text_embedding_batch),
        Way("LlamaIndex rerank", "rank", rank),
        Way("LlamaIndex rerank, async", "rank", arank),
    ]
