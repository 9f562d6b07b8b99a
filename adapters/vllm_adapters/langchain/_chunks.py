"""Streamed replies: LangChain's chunks, and the events of ``stream_events(version="v3")``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from copy import copy
from typing import Any

from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.utils.utils import LC_ID_PREFIX
from pydantic import model_validator

from vllm_adapters._response.validate import CHOICE_FIELDS, RESPONSE_FIELDS, pick_fields
from vllm_adapters.langchain._messages import parse_tool_call_chunks, set_tool_calls, to_langchain_tool_call

# Messages


class _FirstBase:
    """The first base of ``ReplyChunk``, which LangChain calls to make the ``AIMessage`` of a whole stream."""

    def __new__(cls, **fields: Any) -> Any:
        return AIMessage(**fields) if cls is _FirstBase else super().__new__(cls)


class ReplyChunk(_FirstBase, AIMessageChunk):
    """A chunk, or a sum of chunks, whose tool calls are parsed for good once the reply has ended.

    A call that the reply's end has truncated is in ``invalid_tool_calls``.
    """

    @model_validator(mode="after")
    def init_tool_calls(self) -> ReplyChunk:
        """Parse the tool calls: as far as they have arrived, or for good."""
        AIMessageChunk.init_tool_calls(self)  # type: ignore[operator]
        finish_reason = self.response_metadata.get("finish_reason")
        if finish_reason and self.tool_call_chunks:
            set_tool_calls(self, parse_tool_call_chunks(self.tool_call_chunks, finish_reason))
            if isinstance(self.content, list):
                self.content = [_mark_invalid(block, self.invalid_tool_calls) for block in self.content]
        return self

    @classmethod
    def lc_id(cls) -> list[str]:
        """Return the name of LangChain's own class, under which chunks are stored."""
        return AIMessageChunk.lc_id()

    @classmethod
    def from_chunk(cls, chunk: AIMessageChunk, finish_reason: str | None) -> ReplyChunk:
        """Return LangChain's chunk as one of this class."""
        fields = {name: value for name, value in chunk.__dict__.items() if name in chunk.model_fields_set}
        if finish_reason:
            fields["response_metadata"] = {**chunk.response_metadata, "finish_reason": finish_reason}
        return cls(**fields)


def _mark_invalid(block: Any, invalid: list[InvalidToolCall]) -> Any:
    """Return a content block, as an invalid tool call if it is one of ``invalid``."""
    if not isinstance(block, Mapping) or block.get("type") != "tool_call":
        return block
    return next((dict(call) for call in invalid if call["id"] == block.get("id")), block)


# Chunks

TEXT_CHUNK: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": None}]}
"""vLLM's chunk of a text in the middle of a reply."""

_TEXT_FIELDS = frozenset({"content", "reasoning", "reasoning_content"})
_OTHER_CHOICE_FIELDS = (*CHOICE_FIELDS, "finish_reason", "logprobs")
_OTHER_FIELDS = (*(RESPONSE_FIELDS - {"system_fingerprint"}), "usage")


def is_text(chunk: Mapping[str, Any], choice: Mapping[str, Any]) -> bool:
    """Return whether a chunk is text or reasoning and nothing else, as most are.

    Args:
        chunk: A chunk of the client's stream.
        choice: Its only choice.
    """
    return not (
        choice["delta"].keys() - _TEXT_FIELDS
        or any(map(choice.get, _OTHER_CHOICE_FIELDS))
        or any(map(chunk.get, _OTHER_FIELDS))
    )


def copy_text_chunk(text_chunk: ChatGenerationChunk, delta: Mapping[str, Any]) -> ChatGenerationChunk:
    """Return a copy of ``text_chunk`` with the text or reasoning of ``delta``: a third of the cost of making a chunk.

    Args:
        text_chunk: LangChain's chunk for ``TEXT_CHUNK``. The copy shares no dict or list with it.
        delta: Of a chunk that ``is_text``.
    """
    message = copy(text_chunk.message)
    fields = message.__dict__  # Pydantic's own setattr would look up each field again
    for name, value in fields.items():
        if isinstance(value, dict | list):
            fields[name] = value.copy()
    text = delta.get("content") or ""
    fields["content"] = text
    if reasoning := delta.get("reasoning"):
        fields["additional_kwargs"]["reasoning_content"] = reasoning
    copied = copy(text_chunk)
    copied.__dict__.update(message=message, text=text)
    return copied


def complete_chunk(
    converted: ChatGenerationChunk, chunk: Mapping[str, Any], choice: Mapping[str, Any], *, usage_follows: bool
) -> ChatGenerationChunk:
    """Add to LangChain's chunk what it does not read: reasoning and vLLM's own fields.

    Args:
        converted: LangChain's chunk; it is changed and returned.
        chunk: The client's chunk.
        choice: Its choice; empty if it has none.
        usage_follows: Whether a chunk with the usage follows the one with the finish reason.
    """
    info = {
        **(converted.generation_info or {}),
        **pick_fields(choice, CHOICE_FIELDS),
        **pick_fields(chunk, RESPONSE_FIELDS),
    }
    if choice and (usage_follows or not choice.get("finish_reason")):
        # Sums of chunks concatenate texts: what every chunk repeats may be in the last one only.
        info.pop("system_fingerprint", None)
    converted.generation_info = info or None
    if isinstance(converted.message, AIMessageChunk):
        converted.message = ReplyChunk.from_chunk(converted.message, info.get("finish_reason"))
    if reasoning := (choice.get("delta") or {}).get("reasoning"):
        converted.message.additional_kwargs["reasoning_content"] = reasoning
    converted.message.response_metadata["model_provider"] = "vllm"
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
