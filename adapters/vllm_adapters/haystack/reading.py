"""Replies and chunks as Haystack's messages: nothing dropped, nothing repaired."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import uuid4

from haystack.dataclasses import ChatMessage, ComponentInfo, ReasoningContent, StreamingChunk, ToolCall, ToolCallDelta
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from vllm_adapters import types
from vllm_adapters._response.tool_calls import ToolCallAccumulator, parse_tool_calls
from vllm_adapters._response.validate import CHOICE_FIELDS, RESPONSE_FIELDS, pick_fields

log = logging.getLogger("vllm_adapters")

_REPLY = RESPONSE_FIELDS | {"id"}
_CHOICE = CHOICE_FIELDS | {"logprobs"}


def read_reply(reply: ChatCompletion) -> list[ChatMessage]:
    """One message a choice."""
    fields = _plain(reply)
    return [_read_choice(fields, choice) for choice in fields["choices"]]


def _read_choice(reply: Mapping[str, Any], choice: Mapping[str, Any]) -> ChatMessage:
    message, reason = choice["message"], choice.get("finish_reason")
    meta = {
        "model": reply.get("model"),
        "index": choice.get("index", 0),
        "finish_reason": reason,
        "usage": reply.get("usage"),
        **pick_fields(choice, _CHOICE),
        **pick_fields(reply, _REPLY),
    }
    tool_calls = parse_tool_calls(message.get("tool_calls"), reason)
    return _message(message.get("content"), message.get("reasoning"), tool_calls, meta)


def _plain(said: ChatCompletion | ChatCompletionChunk) -> dict[str, Any]:
    return said.model_dump(exclude_none=True, warnings=False)  # vLLM's finish reasons are more than the SDK lists


def _message(
    text: str | None, thought: str | None, made: Sequence[types.ToolCall], meta: dict[str, Any]
) -> ChatMessage:
    broken = [call for call in made if call.error]
    if broken:
        # Where Haystack's own calls are, they would be run.
        meta["invalid_tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.text, "error": call.error} for call in broken
        ]
    for call in broken:
        log.warning("A call of tool %r is broken, see meta['invalid_tool_calls']: %s", call.name, call.error)
    if meta["finish_reason"] == "length":
        log.warning("The token limit cut reply %s: raise max_tokens for a whole one", meta["index"])
    return ChatMessage.from_assistant(
        text=text or None,
        reasoning=ReasoningContent(reasoning_text=thought) if thought else None,
        tool_calls=[
            # Haystack sends no call back, nor its tool's result, that has no id; some gateways give none.
            ToolCall(id=call.id or f"call-{uuid4().hex}", tool_name=call.name, arguments=call.arguments)
            for call in made
            if call.arguments is not None
        ],
        meta=meta,
    )


class StreamedReply:
    """A reply while it streams in.

    Args:
        sender: The component that asked, as its chunks name it.
    """

    def __init__(self, sender: ComponentInfo) -> None:
        self._sender = sender
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._calls = ToolCallAccumulator()
        self._last: tuple[str, int] | None = None
        self._blocks: dict[tuple[str, int], int] = {}
        self._begun = 0
        self._meta: dict[str, Any] = {"model": None, "index": 0, "finish_reason": None, "usage": None}

    def read(self, chunk: ChatCompletionChunk) -> StreamingChunk:
        """The chunk as Haystack's; the core has seen to it that it holds one kind of delta."""
        fields = _plain(chunk)
        choice = fields["choices"][0] if fields["choices"] else {}
        delta = choice.get("delta") or {}
        meta = {
            "model": fields.get("model"),
            "index": choice.get("index", 0),
            "finish_reason": choice.get("finish_reason"),
            "received_at": datetime.now().isoformat(),
            "usage": fields.get("usage"),
            **pick_fields(choice, _CHOICE),
            **pick_fields(fields, _REPLY),
        }
        self._note(meta)
        thought, text, tool_calls = delta.get("reasoning"), delta.get("content"), delta.get("tool_calls")
        block, starts = None, False
        if thought:
            self._thoughts.append(thought)
            block, starts = self._block("reasoning")
        elif tool_calls:
            self._calls.add(tool_calls)
            block, starts = self._block("tool call", tool_calls[0]["index"])
        elif text:
            self._text.append(text)
            block, starts = self._block("text")
        return StreamingChunk(
            content=text or "",
            meta=meta,
            component_info=self._sender,
            index=block,
            start=starts,
            reasoning=ReasoningContent(reasoning_text=thought) if thought else None,
            tool_calls=[_delta(call) for call in tool_calls] if tool_calls else None,
            finish_reason=cast(Any, meta["finish_reason"]),
        )

    def _block(self, kind: str, index: int = 0) -> tuple[int, bool]:
        """The number of the block of content that a delta belongs to, and whether the block begins with it."""
        block = (kind, index)
        begins = block not in self._blocks if kind == "tool call" else block != self._last
        if begins:
            self._blocks[block] = self._begun
            self._begun += 1
        self._last = block
        return self._blocks[block], begins

    def _note(self, meta: Mapping[str, Any]) -> None:
        whole = self._meta
        whole.setdefault("completion_start_time", meta["received_at"])
        for name, value in meta.items():
            if name == "logprobs":
                _extend(whole.setdefault(name, {}), value)
            elif name == "token_ids":
                whole.setdefault(name, []).extend(value)
            elif value is not None and name not in ("index", "received_at"):
                whole[name] = value

    def message(self) -> ChatMessage:
        """The whole reply."""
        made = self._calls.read(self._meta["finish_reason"])
        return _message("".join(self._text), "".join(self._thoughts), made, self._meta)


def _extend(whole: dict[str, Any], logprobs: Mapping[str, Any]) -> None:
    for name, value in logprobs.items():
        if isinstance(value, list):
            whole.setdefault(name, []).extend(value)
        else:
            whole.setdefault(name, value)


def _delta(call: Mapping[str, Any]) -> ToolCallDelta:
    function = call.get("function") or {}
    name, arguments = function.get("name"), function.get("arguments")
    return ToolCallDelta(index=call["index"], id=call.get("id"), tool_name=name, arguments=arguments or None)
