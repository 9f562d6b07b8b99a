"""LlamaIndex's paths: ``VLLM``, ``VLLMEmbedding`` and ``VLLMRerank``."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool

from fault_matrix.grid import Path
from fault_matrix.scene import PROMPT, SETTINGS, TEXTS, Answer, City, Scene
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank


def delete_files(path: str) -> str:
    """Delete all files under a path."""
    return f"deleted {path}"


TOOLS = [FunctionTool.from_defaults(delete_files)]
TEMPLATE = PromptTemplate(PROMPT)


def _of_text(response: Any) -> Answer:
    return Answer(response.text, finish=response.additional_kwargs.get("finish_reason"))


def _of_message(response: Any) -> Answer:
    message, finish = response.message, response.additional_kwargs.get("finish_reason")
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    broken = tuple(call["arguments"] for call in message.additional_kwargs.get("invalid_tool_calls", ()))
    if not blocks and not broken:
        return Answer(message.content or "", finish=finish)
    return Answer(tuple((block.tool_name, block.tool_kwargs) for block in blocks), broken, finish)


def _of_object(found: Any) -> Answer:
    return Answer(found.model_dump())


# By default LlamaIndex keeps the first tool call only.
SEVERAL = {"allow_parallel_tool_calls": True}


def _path(
    name: str,
    task: str,
    streamed: bool,
    method: str,
    args: tuple[Any, ...],
    read: Any,
    kwargs: Any = None,
    **options: Any,
) -> Path:
    """A method of ``VLLM`` and its async version; of a stream, the last response is read."""
    kwargs = kwargs or {}

    def sync(url: str) -> Any:
        call = getattr(VLLM(api_base=url, model="stub", **SETTINGS, **options), method)
        return lambda: read(list(call(*args, **kwargs))[-1] if streamed else call(*args, **kwargs))

    def async_(url: str) -> Any:
        call = getattr(VLLM(api_base=url, model="stub", **SETTINGS, **options), f"a{method}")

        async def run() -> Answer:
            found = await call(*args, **kwargs)
            return read([response async for response in found][-1] if streamed else found)

        return run

    return Path(name, Scene(task, streamed), (sync, async_))


def _embed(url: str) -> Any:
    model = VLLMEmbedding(api_base=url, model_name="stub", **SETTINGS)
    return lambda: Answer(model.get_text_embedding_batch(list(TEXTS)))


def _aembed(url: str) -> Any:
    model = VLLMEmbedding(api_base=url, model_name="stub", **SETTINGS)

    async def run() -> Answer:
        return Answer(await model.aget_text_embedding_batch(list(TEXTS)))

    return run


NODES = [NodeWithScore(node=TextNode(text=text, id_=str(place))) for place, text in enumerate(TEXTS)]


def _ranked(nodes: Any) -> Answer:
    return Answer([(int(node.node_id), node.score) for node in nodes])


def _rerank(url: str) -> Any:
    rerank = VLLMRerank(api_base=url, model="stub", **SETTINGS)
    return lambda: _ranked(rerank.postprocess_nodes(NODES, query_str="two"))


def _arerank(url: str) -> Any:
    rerank = VLLMRerank(api_base=url, model="stub", **SETTINGS)

    async def run() -> Answer:
        return _ranked(await rerank.apostprocess_nodes(NODES, query_str="two"))

    return run


MESSAGES = [ChatMessage(role="user", content=PROMPT)]

PATHS = (
    _path("VLLM.chat", "say", False, "chat", (MESSAGES,), _of_message),
    _path(".stream_chat", "say", True, "stream_chat", (MESSAGES,), _of_message),
    _path(".complete", "say", False, "complete", (PROMPT,), _of_text),
    _path(".stream_complete", "say", True, "stream_complete", (PROMPT,), _of_text),
    _path(".chat_with_tools", "call", False, "chat_with_tools", (TOOLS, PROMPT), _of_message, SEVERAL),
    _path(".stream_chat_with_tools", "call", True, "stream_chat_with_tools", (TOOLS, PROMPT), _of_message, SEVERAL),
    _path(".structured_predict", "object", False, "structured_predict", (City, TEMPLATE), _of_object),
    _path(".stream_structured_predict", "object", True, "stream_structured_predict", (City, TEMPLATE), _of_object),
    _path("completions", "complete", False, "complete", (PROMPT,), _of_text, is_chat_model=False),
    _path("completions stream", "complete", True, "stream_complete", (PROMPT,), _of_text, is_chat_model=False),
    Path("VLLMEmbedding", Scene("embed"), (_embed, _aembed)),
    Path("VLLMRerank", Scene("rank"), (_rerank, _arerank)),
)
