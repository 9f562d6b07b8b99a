"""The paths of the client: the SDK's methods of ``VLLMClient``, and the methods of ``VLLMServer``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from fault_matrix.grid import Path
from fault_matrix.operations import CHOICES, LIMIT, PROMPT, TAG, TEXTS, TOOL, Answer, City, Operation, settings
from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters._response.tool_calls import ToolCallAccumulator, parse_tool_calls
from vllm_adapters.types import ToolCall

SAY: dict[str, Any] = {"model": "stub", "messages": [{"role": "user", "content": PROMPT}]}
CALL = {**SAY, "tools": [TOOL], "max_tokens": LIMIT}
FORCE = {**CALL, "tool_choice": "required"}
COMPLETE = {"model": "stub", "prompt": PROMPT}
CHOOSE = {"extra_body": {"structured_outputs": {"choice": CHOICES}}}
TAGGED = {"extra_body": {"structured_outputs": TAG}}
HARM = {**SAY, "extra_body": {"structured_outputs": {}}}
CALM = {**SAY, "extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}


def text_or_calls(text: str, calls: list[ToolCall], finish: str | None) -> Answer:
    """Return an answer of tool calls, or of text if there are none."""
    if not calls:
        return Answer(text, finish=finish)
    valid = tuple((call.name, call.arguments) for call in calls if call.error is None)
    return Answer(valid, tuple(call.raw_arguments for call in calls if call.error is not None), finish)


def read_reply(reply: Any) -> Answer:
    """Return the answer in a reply."""
    choice = reply.choices[0]
    if not hasattr(choice, "message"):
        return Answer(choice.text, finish=choice.finish_reason)
    return text_or_calls(
        choice.message.content or choice.message.refusal or "",
        parse_tool_calls(choice.message.tool_calls, choice.finish_reason),
        choice.finish_reason,
    )


def read_chunks(chunks: Iterable[Any]) -> Answer:
    """Return the answer in the chunks of a stream."""
    text, calls, finish = "", ToolCallAccumulator(), None
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        if hasattr(choice, "delta"):
            text += choice.delta.content or choice.delta.refusal or ""
            calls.add(choice.delta.tool_calls)
        else:
            text += choice.text
        finish = choice.finish_reason or finish
    return text_or_calls(text, calls.parse(finish), finish)


OBJECT = {**SAY, "response_format": City}
SCHEMA = {
    **SAY,
    "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": City.model_json_schema()}},
}


def read_parsed(reply: Any) -> Answer:
    """Return the object in a reply, or its refusal."""
    if reply.choices[0].message.refusal:
        return read_reply(reply)
    return Answer(reply.choices[0].message.parsed.model_dump(), finish=reply.choices[0].finish_reason)


def parse_json(answer: Answer) -> Answer:
    """Return the answer with its text parsed as JSON, unless it is a refusal."""
    return answer._replace(value=json.loads(answer.value)) if answer.value.startswith("{") else answer


def create(name: str, operation: Operation, request: dict[str, Any]) -> Path:
    """Return a path through ``create`` of chat or text completions."""
    read = parse_json if operation.task == "object" else lambda answer: answer

    def completions(client: Any) -> Any:
        return client.completions if operation.completes else client.chat.completions

    def sync(url: str) -> Any:
        resource = completions(VLLMClient(url, **settings()))
        if operation.streamed:
            return lambda: read(read_chunks(resource.create(**request, stream=True)))
        return lambda: read_reply(resource.create(**request))

    def async_(url: str) -> Any:
        resource = completions(AsyncVLLMClient(url, **settings()))

        async def call() -> Answer:
            if operation.streamed:
                return read(read_chunks([chunk async for chunk in await resource.create(**request, stream=True)]))
            return read_reply(await resource.create(**request))

        return call

    return Path(name, operation, (sync, async_))


def _parse(url: str) -> Any:
    client = VLLMClient(url, **settings())
    return lambda: read_parsed(client.chat.completions.parse(**OBJECT))


def _aparse(url: str) -> Any:
    client = AsyncVLLMClient(url, **settings())

    async def call() -> Answer:
        return read_parsed(await client.chat.completions.parse(**OBJECT))

    return call


def _embeddings(url: str) -> Any:
    client = VLLMClient(url, **settings())
    return lambda: Answer([row.embedding for row in client.embeddings.create(model="stub", input=list(TEXTS)).data])


def _aembeddings(url: str) -> Any:
    client = AsyncVLLMClient(url, **settings())

    async def call() -> Answer:
        reply = await client.embeddings.create(model="stub", input=list(TEXTS))
        return Answer([row.embedding for row in reply.data])

    return call


def _streams(name: str, operation: Operation, request: dict[str, Any]) -> Path:
    """Return a path through the SDK's ``stream`` helper."""

    def read(completion: Any) -> Answer:
        return read_parsed(completion) if operation.task == "object" else read_reply(completion)

    def sync(url: str) -> Any:
        client = VLLMClient(url, **settings())

        def call() -> Answer:
            with client.chat.completions.stream(**request) as stream:
                return read(stream.until_done().current_completion_snapshot)

        return call

    def async_(url: str) -> Any:
        client = AsyncVLLMClient(url, **settings())

        async def call() -> Answer:
            async with client.chat.completions.stream(**request) as stream:
                return read((await stream.until_done()).current_completion_snapshot)

        return call

    return Path(name, operation, (sync, async_))


def _server(method: str, operation: Operation, read: Callable[[Any], Any], *args: Any) -> Path:
    """Return a path through a method of ``VLLMServer`` and its async version."""

    def sync(url: str) -> Any:
        bound = getattr(VLLMServer(url, model="stub", **settings()), method)
        return lambda: Answer(read(bound(*args)))

    def async_(url: str) -> Any:
        bound = getattr(VLLMServer(url, model="stub", **settings()), f"a{method}")

        async def call() -> Answer:
            return Answer(read(await bound(*args)))

        return call

    return Path(f"server.{method}", operation, (sync, async_))


PATHS = (
    create("chat", Operation("say"), SAY),
    create("chat stream", Operation("say", True), SAY),
    create("tools", Operation("call"), CALL),
    create("tools stream", Operation("call", True), CALL),
    Path("parse", Operation("object"), (_parse, _aparse)),
    _streams("chat.stream()", Operation("say", True), SAY),
    _streams("parse.stream()", Operation("object", True), OBJECT),
    create("json_schema stream", Operation("object", True), SCHEMA),
    create("completions", Operation("complete"), COMPLETE),
    create("completions stream", Operation("complete", True), COMPLETE),
    create("choice", Operation("choose"), {**SAY, **CHOOSE}),
    create("choice stream", Operation("choose", True), {**SAY, **CHOOSE}),
    create("completions choice", Operation("complete choice"), {**COMPLETE, **CHOOSE}),
    create("completions choice stream", Operation("complete choice", True), {**COMPLETE, **CHOOSE}),
    create("structural tag", Operation("choose"), {**SAY, **TAGGED}),
    create("structural tag stream", Operation("choose", True), {**SAY, **TAGGED}),
    create("completions structural tag", Operation("complete choice"), {**COMPLETE, **TAGGED}),
    create("completions structural tag stream", Operation("complete choice", True), {**COMPLETE, **TAGGED}),
    create("forced tool", Operation("force"), FORCE),
    create("forced tool stream", Operation("force", True), FORCE),
    create("thinking disabled stream", Operation("calm", True), CALM),
    create("structured_outputs={}", Operation("harm"), HARM),
    Path("embeddings", Operation("embed"), (_embeddings, _aembeddings)),
    _server("embed", Operation("embed"), lambda vectors: vectors.tolist(), TEXTS),
    _server("rerank", Operation("rank"), lambda ranking: [(item.index, item.score) for item in ranking], "two", TEXTS),
    _server("score", Operation("score"), list, "two", TEXTS),
    _server("classify", Operation("classify"), lambda classes: [(item.label, item.probs) for item in classes], TEXTS),
    _server("tokenize", Operation("tokenize"), lambda tokens: tokens.ids, PROMPT),
)
