"""The paths of LangChain: ``ChatVLLM``, ``VLLM``, ``VLLMEmbeddings`` and ``VLLMRerank``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import AIMessage

from fault_matrix.grid import Path
from fault_matrix.operations import CHOICES, LIMIT, PROMPT, TAG, TEXTS, TOOL, Answer, City, Operation, settings
from vllm_adapters.langchain import VLLM, ChatVLLM, VLLMEmbeddings, VLLMRerank
from vllm_adapters.langchain._messages import original_arguments

DOCUMENTS = [Document(text, metadata={"index": index}) for index, text in enumerate(TEXTS)]


def read_message(message: AIMessage) -> Answer:
    """Return the answer in a message."""
    finish = message.response_metadata.get("finish_reason")
    if not message.tool_calls and not message.invalid_tool_calls:
        return Answer(message.text, finish=finish)
    valid = tuple((call["name"], call["args"]) for call in message.tool_calls)
    return Answer(valid, tuple(original_arguments(call["args"])[0] for call in message.invalid_tool_calls), finish)


def _sum(chunks: list[Any]) -> Any:
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total


def runnable_variants(
    operation: Operation, make: Callable[[str], Any], read: Callable[[Any], Answer], join: Any = _sum
) -> tuple[Any, Any]:
    """Return ``invoke`` or ``stream`` of a runnable, and its async version."""

    def sync(url: str) -> Any:
        runnable = make(url)
        if operation.streamed:
            return lambda: read(join(list(runnable.stream(PROMPT))))
        return lambda: read(runnable.invoke(PROMPT))

    def async_(url: str) -> Any:
        runnable = make(url)

        async def call() -> Answer:
            if operation.streamed:
                return read(join([chunk async for chunk in runnable.astream(PROMPT)]))
            return read(await runnable.ainvoke(PROMPT))

        return call

    return sync, async_


def _chat(url: str) -> ChatVLLM:
    return ChatVLLM(base_url=url, model="stub", **settings())


def _llm(url: str) -> VLLM:
    return VLLM(base_url=url, model="stub", **settings())


def _tools(url: str) -> Any:
    return _chat(url).bind_tools([TOOL], max_tokens=LIMIT)


def _forced(url: str) -> Any:
    return _chat(url).bind_tools([TOOL], tool_choice="any", max_tokens=LIMIT)


def _choice(url: str) -> Any:
    return _chat(url).bind(structured_outputs={"choice": CHOICES})


def _tagged(url: str) -> Any:
    return _chat(url).bind(structured_outputs=TAG)


def _completed_choice(url: str) -> Any:
    return _llm(url).bind(structured_outputs={"choice": CHOICES})


def _calm(url: str) -> Any:
    return _chat(url).bind(chat_template_kwargs={"enable_thinking": False})


def _harmful(url: str) -> Any:
    return _chat(url).bind(structured_outputs={})


def _structured(url: str) -> Any:
    return _chat(url).with_structured_output(City)


def _read_object(city: Any) -> Answer:
    return Answer(city.model_dump())


def _embed(url: str) -> Any:
    embeddings = VLLMEmbeddings(base_url=url, model="stub", **settings())
    return lambda: Answer(embeddings.embed_documents(list(TEXTS)))


def _aembed(url: str) -> Any:
    embeddings = VLLMEmbeddings(base_url=url, model="stub", **settings())

    async def call() -> Answer:
        return Answer(await embeddings.aembed_documents(list(TEXTS)))

    return call


def _read_ranking(documents: Any) -> Answer:
    return Answer([(document.metadata["index"], document.metadata["relevance_score"]) for document in documents])


def _rerank(url: str) -> Any:
    rerank = VLLMRerank(base_url=url, model="stub", **settings())
    return lambda: _read_ranking(rerank.compress_documents(DOCUMENTS, "two"))


def _arerank(url: str) -> Any:
    rerank = VLLMRerank(base_url=url, model="stub", **settings())

    async def call() -> Answer:
        return _read_ranking(await rerank.acompress_documents(DOCUMENTS, "two"))

    return call


def _path(name: str, task: str, streamed: bool, *arguments: Any) -> Path:
    operation = Operation(task, streamed)
    return Path(name, operation, runnable_variants(operation, *arguments))


PATHS = (
    _path("ChatVLLM.invoke", "say", False, _chat, read_message),
    _path(".stream", "say", True, _chat, read_message),
    _path("bind_tools .invoke", "call", False, _tools, read_message),
    _path("bind_tools .stream", "call", True, _tools, read_message),
    _path("with_structured_output .invoke", "object", False, _structured, _read_object),
    _path("with_structured_output .stream", "object", True, _structured, _read_object, lambda chunks: chunks[-1]),
    _path("VLLM.invoke", "complete", False, _llm, Answer),
    _path("VLLM.stream", "complete", True, _llm, Answer, "".join),
    _path("structured_outputs .invoke", "choose", False, _choice, read_message),
    _path("structured_outputs .stream", "choose", True, _choice, read_message),
    _path("VLLM structured_outputs .invoke", "complete choice", False, _completed_choice, Answer),
    _path("VLLM structured_outputs .stream", "complete choice", True, _completed_choice, Answer, "".join),
    _path("structural tag .invoke", "choose", False, _tagged, read_message),
    _path("structural tag .stream", "choose", True, _tagged, read_message),
    _path("forced tool .invoke", "force", False, _forced, read_message),
    _path("forced tool .stream", "force", True, _forced, read_message),
    _path("thinking disabled .stream", "calm", True, _calm, read_message),
    _path("structured_outputs={}", "harm", False, _harmful, read_message),
    Path("VLLMEmbeddings", Operation("embed"), (_embed, _aembed)),
    Path("VLLMRerank", Operation("rank"), (_rerank, _arerank)),
)
