"""Haystack's paths: ``VLLMChatGenerator``, ``VLLMDocumentEmbedder`` and ``VLLMRanker``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from haystack import Document
from haystack.tools.tool import Tool
from haystack.utils import Secret

from fault_matrix.grid import Path
from fault_matrix.scene import PROMPT, SETTINGS, TEXTS, TOOL, Answer, City, Scene
from vllm_adapters.haystack import VLLMChatGenerator, VLLMDocumentEmbedder, VLLMRanker

CONNECTED: dict[str, Any] = {
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
    return Answer([document.embedding for document in found["documents"]])


def _of_ranked(found: dict[str, Any]) -> Answer:
    return Answer([(document.meta["place"], document.score) for document in found["documents"]])


def _ignore(chunk: Any) -> None:
    """What a sync stream is called back with."""


async def _aignore(chunk: Any) -> None:
    """What an async stream is called back with."""


def _runs(name: str, scene: Scene, cls: Any, read: Any, inputs: dict[str, Any], **options: Any) -> Path:
    """A component's ``run`` and ``run_async``."""

    def sync(url: str) -> Any:
        component = cls(api_base_url=url, **CONNECTED, **options)
        more = {"streaming_callback": _ignore} if scene.streamed else {}
        return lambda: read(component.run(**inputs, **more))

    def async_(url: str) -> Any:
        component = cls(api_base_url=url, **CONNECTED, **options)
        more = {"streaming_callback": _aignore} if scene.streamed else {}

        async def ask() -> Answer:
            return read(await component.run_async(**inputs, **more))

        return ask

    return Path(name, scene, (sync, async_))


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
    _runs("VLLMRanker", Scene("rank"), VLLMRanker, _of_ranked, {"query": "two", "documents": DOCUMENTS}),
)
