"""The client's own paths: the SDK's methods on ``VLLMClient``, and ``VLLMServer``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from fault_matrix.grid import Path
from fault_matrix.scene import PROMPT, SETTINGS, TEXTS, TOOL, Answer, City, Scene
from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters._response.tool_calls import ToolCallAccumulator, parse_tool_calls
from vllm_adapters.types import ToolCall

SAY: dict[str, Any] = {"model": "stub", "messages": [{"role": "user", "content": PROMPT}]}
CALL = {**SAY, "tools": [TOOL]}
COMPLETE = {"model": "stub", "prompt": PROMPT}


def of_calls(text: str, calls: list[ToolCall], finish: str | None) -> Answer:
    """An answer of text or tool calls."""
    if not calls:
        return Answer(text, finish=finish)
    whole = tuple((call.name, call.arguments) for call in calls if call.error is None)
    return Answer(whole, tuple(call.text for call in calls if call.error is not None), finish)


def of_reply(reply: Any) -> Answer:
    """What a reply says that was not streamed."""
    choice = reply.choices[0]
    if not hasattr(choice, "message"):
        return Answer(choice.text, finish=choice.finish_reason)
    return of_calls(
        choice.message.content or "",
        parse_tool_calls(choice.message.tool_calls, choice.finish_reason),
        choice.finish_reason,
    )


def of_chunks(chunks: Iterable[Any]) -> Answer:
    """What the chunks of a stream say together."""
    text, calls, finish = "", ToolCallAccumulator(), None
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        if hasattr(choice, "delta"):
            text += choice.delta.content or ""
            calls.add(choice.delta.tool_calls)
        else:
            text += choice.text
        finish = choice.finish_reason or finish
    return of_calls(text, calls.read(finish), finish)


OBJECT = {**SAY, "response_format": City}
SCHEMA = {
    **SAY,
    "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": City.model_json_schema()}},
}


def of_parsed(reply: Any) -> Answer:
    """The object in a reply."""
    return Answer(reply.choices[0].message.parsed.model_dump(), finish=reply.choices[0].finish_reason)


def of_json(answer: Answer) -> Answer:
    """An answer whose text is JSON, if it is whole."""
    return answer._replace(value=json.loads(answer.value)) if answer.finish == "stop" else answer


def asks(name: str, scene: Scene, request: dict[str, Any]) -> Path:
    """A path through ``create``, of chats or of plain completions."""

    read = of_json if scene.task == "object" else lambda answer: answer

    def completions(client: Any) -> Any:
        return client.completions if scene.task == "complete" else client.chat.completions

    def sync(url: str) -> Any:
        to = completions(VLLMClient(url, **SETTINGS))
        if scene.streamed:
            return lambda: read(of_chunks(to.create(**request, stream=True)))
        return lambda: of_reply(to.create(**request))

    def async_(url: str) -> Any:
        to = completions(AsyncVLLMClient(url, **SETTINGS))

        async def ask() -> Answer:
            if scene.streamed:
                return read(of_chunks([chunk async for chunk in await to.create(**request, stream=True)]))
            return of_reply(await to.create(**request))

        return ask

    return Path(name, scene, (sync, async_))


def _parse(url: str) -> Any:
    client = VLLMClient(url, **SETTINGS)
    return lambda: of_parsed(client.chat.completions.parse(**OBJECT))


def _aparse(url: str) -> Any:
    client = AsyncVLLMClient(url, **SETTINGS)

    async def ask() -> Answer:
        return of_parsed(await client.chat.completions.parse(**OBJECT))

    return ask


def _embeddings(url: str) -> Any:
    client = VLLMClient(url, **SETTINGS)
    return lambda: Answer([row.embedding for row in client.embeddings.create(model="stub", input=list(TEXTS)).data])


def _aembeddings(url: str) -> Any:
    client = AsyncVLLMClient(url, **SETTINGS)

    async def ask() -> Answer:
        reply = await client.embeddings.create(model="stub", input=list(TEXTS))
        return Answer([row.embedding for row in reply.data])

    return ask


def _streams(name: str, scene: Scene, request: dict[str, Any]) -> Path:
    """A path through the SDK's helper that makes events and a completion of a stream."""

    def read(completion: Any) -> Answer:
        return of_parsed(completion) if scene.task == "object" else of_reply(completion)

    def sync(url: str) -> Any:
        client = VLLMClient(url, **SETTINGS)

        def ask() -> Answer:
            with client.chat.completions.stream(**request) as stream:
                return read(stream.until_done().current_completion_snapshot)

        return ask

    def async_(url: str) -> Any:
        client = AsyncVLLMClient(url, **SETTINGS)

        async def ask() -> Answer:
            async with client.chat.completions.stream(**request) as stream:
                return read((await stream.until_done()).current_completion_snapshot)

        return ask

    return Path(name, scene, (sync, async_))


def _server(method: str, scene: Scene, read: Callable[[Any], Any], *args: Any) -> Path:
    """A method of ``VLLMServer`` and its twin with an ``a`` before its name."""

    def sync(url: str) -> Any:
        call = getattr(VLLMServer(url, model="stub", **SETTINGS), method)
        return lambda: Answer(read(call(*args)))

    def async_(url: str) -> Any:
        call = getattr(VLLMServer(url, model="stub", **SETTINGS), f"a{method}")

        async def ask() -> Answer:
            return Answer(read(await call(*args)))

        return ask

    return Path(f"server.{method}", scene, (sync, async_))


PATHS = (
    asks("chat", Scene("say"), SAY),
    asks("chat stream", Scene("say", True), SAY),
    asks("tools", Scene("call"), CALL),
    asks("tools stream", Scene("call", True), CALL),
    Path("parse", Scene("object"), (_parse, _aparse)),
    _streams("chat.stream()", Scene("say", True), SAY),
    _streams("parse.stream()", Scene("object", True), OBJECT),
    asks("json_schema stream", Scene("object", True), SCHEMA),
    asks("completions", Scene("complete"), COMPLETE),
    asks("completions stream", Scene("complete", True), COMPLETE),
    Path("embeddings", Scene("embed"), (_embeddings, _aembeddings)),
    _server("embed", Scene("embed"), lambda found: found.tolist(), TEXTS),
    _server("rerank", Scene("rank"), lambda found: [(ranked.index, ranked.score) for ranked in found], "two", TEXTS),
    _server("score", Scene("score"), list, "two", TEXTS),
    _server("classify", Scene("classify"), lambda found: [(text.label, text.probs) for text in found], TEXTS),
    _server("tokenize", Scene("tokenize"), lambda found: found.ids, PROMPT),
)
