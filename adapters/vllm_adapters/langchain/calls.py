"""Tool calls of LangChain's messages: a call that the reply's end has cut is in ``invalid_tool_calls``.

LangChain closes the brackets of what a stream has sent and takes the result for a tool call, also when the
token limit has cut it: with a shorter path, or a smaller number, than the model was about to write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall
from langchain_core.messages import ToolCall as Whole
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call
from pydantic import model_validator

from vllm_adapters._response.tool_calls import parse_tool_calls
from vllm_adapters.types import ToolCall


def as_langchain(call: ToolCall) -> Whole | InvalidToolCall:
    """A call of a reply as LangChain has it."""
    if call.arguments is None:
        return invalid_tool_call(name=call.name, args=call.text, id=call.id or None, error=call.error)
    return tool_call(name=call.name, args=call.arguments, id=call.id or None)


def set_calls(message: AIMessage, calls: Iterable[ToolCall]) -> None:
    """Put the calls of a reply on its message, whole ones apart from broken ones."""
    found = [as_langchain(call) for call in calls]
    message.tool_calls = [call for call in found if call["type"] == "tool_call"]
    message.invalid_tool_calls = [call for call in found if call["type"] == "invalid_tool_call"]


def read_chunks(chunks: Iterable[ToolCallChunk], finish_reason: str | None) -> list[ToolCall]:
    """The calls of a reply that was streamed, from the chunks of its merged message."""
    wire = ({"id": c["id"], "function": {"name": c["name"], "arguments": c["args"]}} for c in chunks)
    return parse_tool_calls(wire, finish_reason)


class _Message:
    """What LangChain makes of a whole stream: an ``AIMessage``. It takes a chunk class's first parent for it."""

    def __new__(cls, **fields: Any) -> Any:
        return AIMessage(**fields) if cls is _Message else super().__new__(cls)


class ReplyChunk(_Message, AIMessageChunk):
    """A chunk, or the sum of chunks, whose tool calls are judged once the reply has ended."""

    @model_validator(mode="after")
    def init_tool_calls(self) -> ReplyChunk:
        """Read the tool calls: as far as they have come, or for good."""
        AIMessageChunk.init_tool_calls(self)  # type: ignore[operator]
        reason = self.response_metadata.get("finish_reason")
        if reason and self.tool_call_chunks:
            set_calls(self, read_chunks(self.tool_call_chunks, reason))
            if isinstance(self.content, list):
                self.content = [_judged(block, self.invalid_tool_calls) for block in self.content]
        return self

    @classmethod
    def lc_id(cls) -> list[str]:
        """Stored under the name of LangChain's own class."""
        return AIMessageChunk.lc_id()

    @classmethod
    def of(cls, chunk: AIMessageChunk, finish_reason: str | None) -> ReplyChunk:
        """LangChain's chunk as one of these."""
        fields = {name: value for name, value in chunk.__dict__.items() if name in chunk.model_fields_set}
        if finish_reason:
            fields["response_metadata"] = {**chunk.response_metadata, "finish_reason": finish_reason}
        return cls(**fields)


def _judged(block: Any, broken: list[InvalidToolCall]) -> Any:
    if not isinstance(block, Mapping) or block.get("type") != "tool_call":
        return block
    return next((dict(call) for call in broken if call["id"] == block.get("id")), block)
