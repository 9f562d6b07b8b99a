"""Haystack's paths: the generator, both embedders, the ranker and the token counter."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from haystack import Document
from haystack.dataclasses import ChatMessage
from haystack.tools.tool import Tool
from haystack.utils import Secret

from fault_matrix.grid import Path
from fault_matrix.scene import PROMPT, SETTINGS, TEXTS, TOOL, Answer, City, Scene
from vllm_adapters.errors import ContextLengthExceeded
from vllm_adapters.haystack import (
    VLLMChatGenerator,
    VLLMDocumentEmbedder,
    VLLMRanker,
    VLLMTextEmbedder,
    VLLMTokenCounter,
)


def _connected() -> dict[str, Any]:
    return {
        "model": "stub",
        "api_key": Secret.from_token(SETTINGS["api_key"]),
        "timeout": asdict(SETTINGS["timeout"]),
        "max_retries": SETTINGS["max_retries"],
    }


DOCUMENTS = [Document(content=text, meta={"place": place}) for place, text in enumerate(TEXTS)]


def delete_files(path: str) -> str:
    """Delete all files under a path."""
    return f"deleted {path}"


_FUNCTION: dict[str, Any] = TOOL["function"]
TOOLS = [Tool(_FUNCTION["name"], _FUNCTION["description"], _FUNCTION["parameters"], function=delete_files)]


def _of_message(found: dict[str, Any]) -> Answer:
    [message] = found["replies"]
    broken = tuple(call["arguments"] for call in message.meta.get("invalid_tool_calls", ()))
    finish = message.meta["finish_reason"]
    if not message.tool_calls and not broken:
        return Answer(message.text or "", finish=finish)
    return Answer(tuple((call.tool_name, call.arguments) for call in message.tool_calls), broken, finish)


def _of_object(found: dict[str, Any]) -> Answer:
    [message] = found["replies"]
    return Answer(City.model_validate_json(message.text).model_dump(), finish=message.meta["finish_reason"])


def _of_embedded(found: dict[str, Any]) -> Answer:
    vectors = [document.embedding for document in found["documents"]]
    told = found["meta"].get("failures", [])
    if None in vectors and [failure["index"] for failure in told] == [at for at, v in enumerate(vectors) if v is None]:
        # Where failures are kept rather than raised, this is how they are told: each text's own.
        raise ContextLengthExceeded(told[0]["error"])
    return Answer(vectors)


def _of_vector(found: dict[str, Any]) -> Answer:
    return Answer(found["embedding"])


def _count(url: str) -> Any:
    counter = VLLMTokenCounter(api_base_url=url, **_connected())
    new = iter(range(9))  # what was counted is not asked for again
    return lambda: Answer(counter.count([ChatMessage.from_user(f"Say {next(new)}")]))


def _of_ranked(found: dict[str, Any]) -> Answer:
    return Answer([(document.meta["place"], document.score) for document in found["documents"]])


def _ignore(chunk: Any) -> None:
    """What a sync stream is called back with."""


async def _aignore(chunk: Any) -> None:
    """What an async stream is called back with."""


def _runs(
    name: str, scene: Scene, cls: Any, read: Any, inputs: dict[str, Any], halves: bool = False, **options: Any
) -> Path:
    """A component's ``run`` and ``run_async``."""

    def sync(url: str) -> Any:
        component = cls(api_base_url=url, **_connected(), **options)
        more = {"streaming_callback": _ignore} if scene.streamed else {}
        return lambda: read(component.run(**inputs, **more))

    def async_(url: str) -> Any:
        component = cls(api_base_url=url, **_connected(), **options)
        more = {"streaming_callback": _aignore} if scene.streamed else {}

        async def ask() -> Answer:
            return read(await component.run_async(**inputs, **more))

        return ask

    return Path(name, scene, (sync, async_), halves)


SAY: dict[str, Any] = {"messages": PROMPT}
CALL = {**SAY, "tools": TOOLS}
OBJECT = {**SAY, "generation_kwargs": {"response_format": City}}

PATHS = (
    _runs("VLLMChatGenerator", Scene("say"), VLLMChatGenerator, _of_message, SAY),
    _runs("stream", Scene("say", True), VLLMChatGenerator, _of_message, SAY),
    _runs("tools", Scene("call"), VLLMChatGenerator, _of_message, CALL),
    _runs("tools stream", Scene("call", True), VLLMChatGenerator, _of_message, CALL),
    _runs("response_format", Scene("object"), VLLMChatGenerator, _of_object, OBJECT),
    _runs("response_format stream", Scene("object", True), VLLMChatGenerator, _of_object, OBJECT),
    _runs(
        "VLLMDocumentEmbedder",
        Scene("embed"),
        VLLMDocumentEmbedder,
        _of_embedded,
        {"documents": DOCUMENTS},
        raise_on_failure=True,
        progress_bar=False,
    ),
    _runs(
        "VLLMDocumentEmbedder, going on",
        Scene("embed"),
        VLLMDocumentEmbedder,
        _of_embedded,
        {"documents": DOCUMENTS},
        raise_on_failure=False,
        progress_bar=False,
        halves=True,
    ),
    _runs("VLLMTextEmbedder", Scene("embed one"), VLLMTextEmbedder, _of_vector, {"text": TEXTS[0]}),
    _runs("VLLMRanker", Scene("rank"), VLLMRanker, _of_ranked, {"query": "two", "documents": DOCUMENTS}),
    Path("VLLMTokenCounter", Scene("count"), (_count,)),
)
