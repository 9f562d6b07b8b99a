"""Streamed replies: LangChain's chunks, and the events of ``stream_events(version="v3")``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, cast

from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.utils.utils import LC_ID_PREFIX
from pydantic import BaseModel

from vllm_adapters._response.text_chunks import ArgumentsChunk, LastText, SimpleChunk, TextChunk, copy_model
from vllm_adapters._response.tool_calls import COMPLETE, ToolCallAccumulator
from vllm_adapters._response.validate import CHOICE_FIELDS, RESPONSE_FIELDS, pick_fields
from vllm_adapters.langchain._messages import (
    invalid_end,
    parse_tool_call_chunks,
    refusal_content,
    to_langchain_tool_call,
)

# Chunks

TEXT_CHUNK: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": None}]}
"""vLLM's chunk of a text in the middle of a reply."""


def copy_text_chunk(text_chunk: ChatGenerationChunk, chunk: TextChunk) -> ChatGenerationChunk:
    """Return a copy of ``text_chunk`` with another text or reasoning: a fraction of the cost of making a chunk.

    Args:
        text_chunk: LangChain's chunk for ``TEXT_CHUNK``. The copy shares no dict or list with it.
        chunk: The client's.
    """
    message = text_chunk.message
    changes: dict[str, Any] = {
        name: value.copy() for name, value in vars(message).items() if isinstance(value, dict | list)
    }
    is_reasoning = chunk.template.is_reasoning
    if is_reasoning:
        changes["additional_kwargs"]["reasoning_content"] = chunk.text
    text = changes["content"] = "" if is_reasoning else chunk.text
    return copy_model(text_chunk, {"message": copy_model(message, changes), "text": text})


def copy_arguments_chunk(converted: ChatGenerationChunk, chunk: ArgumentsChunk) -> ChatGenerationChunk | None:
    """Return a copy of ``converted`` with other arguments, or ``None`` if LangChain has to make the chunk.

    LangChain parses the arguments of each chunk by themselves. Arguments that do not begin with a brace are not an
    object, so that the chunk has an invalid call.

    Args:
        converted: LangChain's chunk for a chunk that differs from ``chunk`` in the arguments alone.
        chunk: The client's.
    """
    message = cast(AIMessageChunk, converted.message)
    if message.content or len(message.invalid_tool_calls) != 1 or chunk.text.lstrip().startswith("{"):
        return None
    changes: dict[str, Any] = {
        name: value.copy() for name, value in vars(message).items() if isinstance(value, dict | list)
    }
    for name in ("tool_call_chunks", "invalid_tool_calls"):
        changes[name] = [{**changes[name][0], "args": chunk.text}]
    info = converted.generation_info
    copied = {"message": copy_model(message, changes), "generation_info": info.copy() if info else info}
    return copy_model(converted, copied)


class StreamState:
    """What the chunks of one reply have in common while they are converted.

    Args:
        usage_follows: Whether a chunk with the usage follows the one with the finish reason.
        parsed_class: The class of the objects that were requested by ``response_format``, if any.
    """

    def __init__(self, *, usage_follows: bool = False, parsed_class: type[BaseModel] | None = None) -> None:
        self.usage_follows = usage_follows
        self.parsed_class = parsed_class
        self.texts: list[str] = []
        """The texts so far; only if ``parsed_class`` is given."""
        self.last: LastText[ChatGenerationChunk] = LastText()
        self._tool_calls = ToolCallAccumulator()
        self._usage: Mapping[str, Any] = {}

    def copy(self, chunk: SimpleChunk) -> ChatGenerationChunk | None:
        """Return a copy of the last chunk with other arguments, if ``chunk`` differs from that one in these alone."""
        if type(chunk) is not ArgumentsChunk or (last := self.last.like(chunk)) is None:
            return None
        if (copied := copy_arguments_chunk(last, chunk)) is not None:
            self._tool_calls.add(chunk["choices"][0]["delta"]["tool_calls"])
        return copied

    def prepare(self, chunk: dict[str, Any], choice: Mapping[str, Any]) -> None:
        """Change a chunk that is more than text so that LangChain's sum of all chunks is right.

        Tool calls that turn out to be invalid end in what no JSON parser can complete, and of a usage that every chunk
        has (``continuous_usage_stats``) each chunk keeps the increase.

        Args:
            chunk: The client's chunk.
            choice: Its choice; empty if it has none.
        """
        if usage := chunk.get("usage"):
            if choice and self.usage_follows:  # LangChain does not add the details everywhere: the last chunk has them
                usage = {name: value for name, value in usage.items() if not isinstance(value, Mapping)}
            chunk["usage"], self._usage = _increase(usage, self._usage), usage
        delta: dict[str, Any] = choice["delta"] if choice else {}
        if tool_calls := delta.get("tool_calls"):
            self._tool_calls.add(tool_calls)
        if self._tool_calls and choice.get("finish_reason"):
            ends = [(call.index, invalid_end(call)) for call in self._tool_calls.parse(choice["finish_reason"])]
            added = [{"index": index, "function": {"arguments": end}} for index, end in ends if end]
            if added:
                delta["tool_calls"] = _joined([*(tool_calls or ()), *added])

    def parsed(self, finish_reason: str | None) -> BaseModel | None:
        """Return the object that the whole text is, if one was requested."""
        if self.parsed_class is None or self._tool_calls or not finish_reason or finish_reason not in COMPLETE:
            return None
        return self.parsed_class.model_validate_json("".join(self.texts))


def _increase(now: Any, before: Any) -> Any:
    """Return the counts of ``now`` less those of ``before``."""
    if isinstance(now, Mapping):
        earlier = before if isinstance(before, Mapping) else {}
        return {name: _increase(value, earlier.get(name)) for name, value in now.items()}
    return now - before if isinstance(now, int) and isinstance(before, int) else now


def _joined(deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the deltas with those of one call joined, as LangChain joins them only when it adds chunks."""
    joined: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        function = delta.get("function") or {}
        first = joined.setdefault(delta["index"], {**delta, "function": {**function, "arguments": ""}})
        first["function"]["arguments"] += function.get("arguments") or ""
    return list(joined.values())


def complete_chunk(
    converted: ChatGenerationChunk, chunk: Mapping[str, Any], choice: Mapping[str, Any], state: StreamState
) -> ChatGenerationChunk:
    """Add to LangChain's chunk what it does not read: reasoning, a refusal, and vLLM's own fields.

    Args:
        converted: LangChain's chunk; it is changed and returned.
        chunk: The client's chunk.
        choice: Its choice; empty if it has none.
        state: Of the whole reply.
    """
    info = {
        **(converted.generation_info or {}),
        **pick_fields(choice, CHOICE_FIELDS),
        **pick_fields(chunk, RESPONSE_FIELDS),
    }
    finish_reason = choice.get("finish_reason")
    if choice and (state.usage_follows or not finish_reason):
        # Sums of chunks concatenate texts: what every chunk repeats may be in the last one only.
        info.pop("system_fingerprint", None)
    converted.generation_info = info or None
    message = converted.message
    delta = choice.get("delta") or {}
    if reasoning := delta.get("reasoning"):
        message.additional_kwargs["reasoning_content"] = reasoning
    if refusal := delta.get("refusal"):
        message.additional_kwargs["refusal"] = refusal
        message.content = refusal_content(refusal)
        for index, block in enumerate(message.content):
            if isinstance(block, dict):
                block["index"] = index  # LangChain adds the texts of blocks with the same index
    if (parsed := state.parsed(finish_reason)) is not None:
        message.additional_kwargs["parsed"] = parsed
    message.response_metadata["model_provider"] = "vllm"
    return converted


# Events


class _ReplyEvents:
    """Corrects the events that LangChain makes of single chunks, with what only the whole reply tells.

    Of what every chunk has (token ids, log probabilities) they would contain the last chunk's only, and a truncated
    tool call whose arguments parse as JSON would be a valid one.
    """

    def __init__(self) -> None:
        self._chunks: list[ChatGenerationChunk] = []
        self._message: AIMessageChunk | None = None
        self._tool_calls: Iterator[Any] = iter(())

    def add(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        """Add a chunk of the reply, and return it."""
        self._chunks.append(chunk)
        return chunk

    def correct(self, event: Any) -> Any:
        """Return an event corrected; LangChain ends all blocks after the last chunk."""
        if event["event"] == "content-block-finish" and event["content"]["type"] in ("tool_call", "invalid_tool_call"):
            self._whole_message()
            return {**event, "content": to_langchain_tool_call(next(self._tool_calls))}
        if event["event"] == "message-finish":
            return {**event, "metadata": self._whole_message().response_metadata}
        return event

    def _whole_message(self) -> AIMessageChunk:
        if self._message is None:
            for chunk in self._chunks:
                metadata = chunk.message.response_metadata
                chunk.message.response_metadata = {**(chunk.generation_info or {}), **metadata}
            message: Any = (self._chunks[0] + self._chunks[1:]).message
            finish_reason = message.response_metadata.get("finish_reason")
            self._tool_calls = iter(parse_tool_call_chunks(message.tool_call_chunks, finish_reason))
            self._message = message
        return self._message


def protocol_events(chunks: Iterator[ChatGenerationChunk], run: BaseRunManager) -> Iterator[Any]:
    """Yield the protocol events of a stream of chunks."""
    # Private, and imported here, so that a langchain-core that moves it breaks these events and nothing else.
    from langchain_core.language_models._compat_bridge import chunks_to_events

    reply = _ReplyEvents()
    for event in chunks_to_events(map(reply.add, chunks), message_id=f"{LC_ID_PREFIX}-{run.run_id}"):
        yield reply.correct(event)


async def aprotocol_events(chunks: AsyncIterator[ChatGenerationChunk], run: BaseRunManager) -> AsyncIterator[Any]:
    """Async version of ``protocol_events``."""
    from langchain_core.language_models._compat_bridge import achunks_to_events

    reply = _ReplyEvents()
    added = (reply.add(chunk) async for chunk in chunks)
    async for event in achunks_to_events(added, message_id=f"{LC_ID_PREFIX}-{run.run_id}"):
        yield reply.correct(event)
