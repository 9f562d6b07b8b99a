"""The paths of LlamaIndex: ``VLLM``, ``VLLMEmbedding`` and ``VLLMRerank``."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool

from fault_matrix.grid import Path
from fault_matrix.operations import CHOICES, LIMIT, PROMPT, TAG, TEXTS, Answer, City, Operation, settings
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank


def delete_files(path: str) -> str:
    """Delete all files under a path."""
    return f"deleted {path}"


TOOLS = [FunctionTool.from_defaults(delete_files)]
TEMPLATE = PromptTemplate(PROMPT)


def _read_text(response: Any) -> Answer:
    return Answer(response.text, finish=response.additional_kwargs.get("finish_reason"))


def _read_message(response: Any) -> Answer:
    message, finish = response.message, response.additional_kwargs.get("finish_reason")
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    broken = tuple(call["arguments"] for call in message.additional_kwargs.get("invalid_tool_calls", ()))
    if not blocks and not broken:
        return Answer(message.content or "", finish=finish)
    return Answer(tuple((block.tool_name, block.tool_kwargs) for block in blocks), broken, finish)


def _read_object(city: Any) -> Answer:
    return Answer(city.model_dump())


# By default LlamaIndex keeps only the first tool call.
SEVERAL = {"allow_parallel_tool_calls": True, "max_tokens": LIMIT}
FORCE = {**SEVERAL, "tool_required": True}
CHOOSE = {"structured_outputs": {"choice": CHOICES}}
TAGGED = {"structured_outputs": TAG}
CALM = {"chat_template_kwargs": {"enable_thinking": False}}
HARM: dict[str, Any] = {"structured_outputs": {}}


def _method(
    name: str,
    task: str,
    streamed: bool,
    method: str,
    args: tuple[Any, ...],
    read: Any,
    keywords: Any = None,
    **options: Any,
) -> Path:
    """Return a path through a method of ``VLLM`` and its async version; the answer is the last response of a stream."""
    keywords = keywords or {}

    def sync(url: str) -> Any:
        bound = getattr(VLLM(api_base=url, model="stub", **settings(), **options), method)
        return lambda: read(list(bound(*args, **keywords))[-1] if streamed else bound(*args, **keywords))

    def async_(url: str) -> Any:
        bound = getattr(VLLM(api_base=url, model="stub", **settings(), **options), f"a{method}")

        async def call() -> Answer:
            result = await bound(*args, **keywords)
            return read([response async for response in result][-1] if streamed else result)

        return call

    return Path(name, Operation(task, streamed), (sync, async_))


def _embed(url: str) -> Any:
    model = VLLMEmbedding(api_base=url, model_name="stub", **settings())
    return lambda: Answer(model.get_text_embedding_batch(list(TEXTS)))


def _aembed(url: str) -> Any:
    model = VLLMEmbedding(api_base=url, model_name="stub", **settings())

    async def call() -> Answer:
        return Answer(await model.aget_text_embedding_batch(list(TEXTS)))

    return call


NODES = [NodeWithScore(node=TextNode(text=text, id_=str(index))) for index, text in enumerate(TEXTS)]


def _read_ranking(nodes: Any) -> Answer:
    return Answer([(int(node.node_id), node.score) for node in nodes])


def _rerank(url: str) -> Any:
    rerank = VLLMRerank(api_base=url, model="stub", **settings())
    return lambda: _read_ranking(rerank.postprocess_nodes(NODES, query_str="two"))


def _arerank(url: str) -> Any:
    rerank = VLLMRerank(api_base=url, model="stub", **settings())

    async def call() -> Answer:
        return _read_ranking(await rerank.apostprocess_nodes(NODES, query_str="two"))

    return call


COMPLETIONS = {"is_chat_model": False}
MESSAGES = [ChatMessage(role="user", content=PROMPT)]

PATHS = (
    _method("VLLM.chat", "say", False, "chat", (MESSAGES,), _read_message),
    _method(".stream_chat", "say", True, "stream_chat", (MESSAGES,), _read_message),
    _method(".complete", "say", False, "complete", (PROMPT,), _read_text),
    _method(".stream_complete", "say", True, "stream_complete", (PROMPT,), _read_text),
    _method(".chat_with_tools", "call", False, "chat_with_tools", (TOOLS, PROMPT), _read_message, SEVERAL),
    _method(".stream_chat_with_tools", "call", True, "stream_chat_with_tools", (TOOLS, PROMPT), _read_message, SEVERAL),
    _method(".structured_predict", "object", False, "structured_predict", (City, TEMPLATE), _read_object),
    _method(".stream_structured_predict", "object", True, "stream_structured_predict", (City, TEMPLATE), _read_object),
    _method("completions", "complete", False, "complete", (PROMPT,), _read_text, is_chat_model=False),
    _method("completions stream", "complete", True, "stream_complete", (PROMPT,), _read_text, is_chat_model=False),
    _method("choice", "choose", False, "chat", (MESSAGES,), _read_message, CHOOSE),
    _method("choice stream", "choose", True, "stream_chat", (MESSAGES,), _read_message, CHOOSE),
    _method("completions choice", "complete choice", False, "complete", (PROMPT,), _read_text, CHOOSE, **COMPLETIONS),
    _method(
        "completions choice stream",
        "complete choice",
        True,
        "stream_complete",
        (PROMPT,),
        _read_text,
        CHOOSE,
        **COMPLETIONS,
    ),
    _method("structural tag", "choose", False, "chat", (MESSAGES,), _read_message, TAGGED),
    _method("structural tag stream", "choose", True, "stream_chat", (MESSAGES,), _read_message, TAGGED),
    _method("tool_required", "force", False, "chat_with_tools", (TOOLS, PROMPT), _read_message, FORCE),
    _method("tool_required stream", "force", True, "stream_chat_with_tools", (TOOLS, PROMPT), _read_message, FORCE),
    _method("thinking disabled stream", "calm", True, "stream_chat", (MESSAGES,), _read_message, CALM),
    _method("structured_outputs={}", "harm", False, "chat", (MESSAGES,), _read_message, HARM),
    Path("VLLMEmbedding", Operation("embed"), (_embed, _aembed)),
    Path("VLLMRerank", Operation("rank"), (_rerank, _arerank)),
)
