"""The paths of Haystack: the generator, both embedders, the ranker and the token counter."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from haystack import Document
from haystack.dataclasses import ChatMessage
from haystack.tools.tool import Tool
from haystack.utils import Secret

from fault_matrix.grid import Path
from fault_matrix.operations import CHOICES, LIMIT, PROMPT, TAG, TEXTS, TOOL, Answer, City, Operation, settings
from vllm_adapters.errors import ContextLengthExceeded
from vllm_adapters.haystack import (
    VLLMChatGenerator,
    VLLMDocumentEmbedder,
    VLLMRanker,
    VLLMTextEmbedder,
    VLLMTokenCounter,
)


def _connection() -> dict[str, Any]:
    values = settings()
    return {
        **values,
        "model": "stub",
        "api_key": Secret.from_token(values["api_key"]),
        "timeout": asdict(values["timeout"]),
    }


DOCUMENTS = [Document(content=text, meta={"index": index}) for index, text in enumerate(TEXTS)]


def delete_files(path: str) -> str:
    """Delete all files under a path."""
    return f"deleted {path}"


_FUNCTION: dict[str, Any] = TOOL["function"]
TOOLS = [Tool(_FUNCTION["name"], _FUNCTION["description"], _FUNCTION["parameters"], function=delete_files)]


def _read_message(result: dict[str, Any]) -> Answer:
    [message] = result["replies"]
    broken = tuple(call["arguments"] for call in message.meta.get("invalid_tool_calls", ()))
    finish = message.meta["finish_reason"]
    if not message.tool_calls and not broken:
        return Answer(message.text or "", finish=finish)
    return Answer(tuple((call.tool_name, call.arguments) for call in message.tool_calls), broken, finish)


def _read_object(result: dict[str, Any]) -> Answer:
    [message] = result["replies"]
    return Answer(City.model_validate_json(message.text).model_dump(), finish=message.meta["finish_reason"])


def _read_embeddings(result: dict[str, Any]) -> Answer:
    vectors = [document.embedding for document in result["documents"]]
    failures = result["meta"].get("failures", [])
    if None in vectors and [failure["index"] for failure in failures] == [
        at for at, v in enumerate(vectors) if v is None
    ]:
        # raise_on_failure=False: errors are returned, one per text.
        raise ContextLengthExceeded(failures[0]["error"])
    return Answer(vectors)


def _read_vector(result: dict[str, Any]) -> Answer:
    return Answer(result["embedding"])


def _count(url: str) -> Any:
    counter = VLLMTokenCounter(api_base_url=url, **_connection())
    number = iter(range(9))  # a text that was counted is cached
    return lambda: Answer(counter.count([ChatMessage.from_user(f"Say {next(number)}")]))


def _read_ranking(result: dict[str, Any]) -> Answer:
    return Answer([(document.meta["index"], document.score) for document in result["documents"]])


def _ignore(chunk: Any) -> None:
    """Sync streaming callback."""


async def _aignore(chunk: Any) -> None:
    """Async streaming callback."""


def _runs(
    name: str, operation: Operation, cls: Any, read: Any, inputs: dict[str, Any], bisects: bool = False, **options: Any
) -> Path:
    """Return a path through a component's ``run`` and ``run_async``."""

    def sync(url: str) -> Any:
        component = cls(api_base_url=url, **_connection(), **options)
        callback = {"streaming_callback": _ignore} if operation.streamed else {}
        return lambda: read(component.run(**inputs, **callback))

    def async_(url: str) -> Any:
        component = cls(api_base_url=url, **_connection(), **options)
        callback = {"streaming_callback": _aignore} if operation.streamed else {}

        async def call() -> Answer:
            return read(await component.run_async(**inputs, **callback))

        return call

    return Path(name, operation, (sync, async_), bisects)


SAY: dict[str, Any] = {"messages": PROMPT}
CALL = {**SAY, "tools": TOOLS, "generation_kwargs": {"max_tokens": LIMIT}}
FORCE = {**SAY, "tools": TOOLS, "generation_kwargs": {"max_tokens": LIMIT, "tool_choice": "required"}}
CHOOSE = {**SAY, "generation_kwargs": {"structured_outputs": {"choice": CHOICES}}}
TAGGED = {**SAY, "generation_kwargs": {"structured_outputs": TAG}}
CALM = {**SAY, "generation_kwargs": {"chat_template_kwargs": {"enable_thinking": False}}}
HARM = {**SAY, "generation_kwargs": {"structured_outputs": {}}}
OBJECT = {**SAY, "generation_kwargs": {"response_format": City}}

PATHS = (
    _runs("VLLMChatGenerator", Operation("say"), VLLMChatGenerator, _read_message, SAY),
    _runs("stream", Operation("say", True), VLLMChatGenerator, _read_message, SAY),
    _runs("tools", Operation("call"), VLLMChatGenerator, _read_message, CALL),
    _runs("tools stream", Operation("call", True), VLLMChatGenerator, _read_message, CALL),
    _runs("response_format", Operation("object"), VLLMChatGenerator, _read_object, OBJECT),
    _runs("response_format stream", Operation("object", True), VLLMChatGenerator, _read_object, OBJECT),
    _runs("choice", Operation("choose"), VLLMChatGenerator, _read_message, CHOOSE),
    _runs("choice stream", Operation("choose", True), VLLMChatGenerator, _read_message, CHOOSE),
    _runs("structural tag", Operation("choose"), VLLMChatGenerator, _read_message, TAGGED),
    _runs("structural tag stream", Operation("choose", True), VLLMChatGenerator, _read_message, TAGGED),
    _runs("forced tool", Operation("force"), VLLMChatGenerator, _read_message, FORCE),
    _runs("forced tool stream", Operation("force", True), VLLMChatGenerator, _read_message, FORCE),
    _runs("thinking disabled stream", Operation("calm", True), VLLMChatGenerator, _read_message, CALM),
    _runs("structured_outputs={}", Operation("harm"), VLLMChatGenerator, _read_message, HARM),
    _runs(
        "VLLMDocumentEmbedder",
        Operation("embed"),
        VLLMDocumentEmbedder,
        _read_embeddings,
        {"documents": DOCUMENTS},
        raise_on_failure=True,
        progress_bar=False,
    ),
    _runs(
        "VLLMDocumentEmbedder (keep going)",
        Operation("embed"),
        VLLMDocumentEmbedder,
        _read_embeddings,
        {"documents": DOCUMENTS},
        raise_on_failure=False,
        progress_bar=False,
        bisects=True,
    ),
    _runs("VLLMTextEmbedder", Operation("embed one"), VLLMTextEmbedder, _read_vector, {"text": TEXTS[0]}),
    _runs("VLLMRanker", Operation("rank"), VLLMRanker, _read_ranking, {"query": "two", "documents": DOCUMENTS}),
    Path("VLLMTokenCounter", Operation("count"), (_count,)),
)
