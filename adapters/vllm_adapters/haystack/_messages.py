"""Conversions between Haystack's messages, tools and chunks and vLLM's: nothing dropped, nothing repaired."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import uuid4

from haystack.dataclasses import (
    ChatMessage,
    ComponentInfo,
    ReasoningContent,
    StreamingChunk,
    TextContent,
    ToolCall,
    ToolCallDelta,
)
from haystack.tools import Toolset, ToolsType, flatten_tools_or_toolsets
from haystack.tools.tool import Tool

from vllm_adapters import types
from vllm_adapters._response.message import StreamedMessage
from vllm_adapters._response.text_chunks import LastText, SimpleChunk, TextChunk
from vllm_adapters._response.tool_calls import parse_tool_calls
from vllm_adapters._response.validate import CHOICE_FIELDS, RESPONSE_FIELDS
from vllm_adapters.errors import InvalidRequest

log = logging.getLogger(__name__)

_NOT_MESSAGES = "`messages` must be a str or a list of ChatMessage. Wrap texts with ChatMessage.from_user(...)."
_MEDIA = ("image", "audio", "video")
_ADDED_META = CHOICE_FIELDS | RESPONSE_FIELDS | {"id", "logprobs"}
"""Fields of a response that ``meta`` has beside those that Haystack defines."""

# Requests


def messages_to_dicts(messages: list[ChatMessage] | str, *, replay_reasoning: bool = False) -> list[dict[str, Any]]:
    """Return messages as vLLM takes them.

    Empty assistant messages are dropped where they are last or another one follows: an agent collects them where all
    tool calls of a reply are invalid. An empty last turn makes the model stop at once, and others teach it to.

    Args:
        messages: The conversation, or a user's one message.
        replay_reasoning: Send the reasoning of earlier replies with them.

    Raises:
        TypeError: They are neither.
        InvalidRequest: A file is neither an image, nor audio, nor video.
    """
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if not isinstance(messages, list):
        raise TypeError(_NOT_MESSAGES)
    dicts = []
    for message in messages:
        if not isinstance(message, ChatMessage):
            raise TypeError(_NOT_MESSAGES)
        dicts.append(_message_to_dict(message, replay_reasoning))
    return [
        message
        for message, following in zip(dicts, [*dicts[1:], None], strict=True)
        if not _is_empty_turn(message) or (following is not None and following["role"] != "assistant")
    ]


def _is_empty_turn(message: Mapping[str, Any]) -> bool:
    return message["role"] == "assistant" and not any(map(message.get, ("content", "tool_calls", "reasoning")))


def _message_to_dict(message: ChatMessage, replay_reasoning: bool) -> dict[str, Any]:
    result = message.tool_call_result
    if result and isinstance(result.result, list) and not all(isinstance(p, TextContent) for p in result.result):
        # Haystack converts tool results with images for OpenAI's Responses API only; vLLM takes them here.
        content = ChatMessage.from_user(content_parts=list(result.result)).to_openai_dict_format()["content"]
        converted = {"role": "tool", "content": content, "tool_call_id": result.origin.id}
    else:
        converted = message.to_openai_dict_format()
    if isinstance(converted.get("content"), list):
        converted["content"] = [_media(part) if part["type"] == "file" else part for part in converted["content"]]
    if replay_reasoning and message.reasoning:
        converted["reasoning"] = message.reasoning.reasoning_text
    return converted


def _media(part: dict[str, Any]) -> dict[str, Any]:
    """Return OpenAI's part for a file as the part that vLLM has for its type."""
    url = part["file"]["file_data"]
    mime_type = url.removeprefix("data:").partition(";")[0]
    kind = mime_type.partition("/")[0]
    if kind not in _MEDIA:
        raise InvalidRequest(
            f"A file must be an image, audio or video, not {mime_type}",
            hint="Put its text into the message",
            param="messages",
        )
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def tool_items(tools: Any) -> list[Tool | Toolset]:
    """Return tools and toolsets as they were given: to iterate a toolset may load its tools.

    Raises:
        TypeError: They are not tools or toolsets.
    """
    if isinstance(tools, Toolset):
        return [tools]
    if tools is None:
        return []
    if isinstance(tools, list | tuple) and all(isinstance(tool, Tool | Toolset) for tool in tools):
        return list(tools)
    raise TypeError(
        f"`tools` must be a Toolset or a list of Tool and Toolset, not {type(tools).__name__}. Pass [tool]."
    )


def tools_to_dicts(tools: ToolsType | None, *, strict: bool = False) -> list[dict[str, Any]]:
    """Return tools as chat completions and ``/tokenize`` take them.

    Args:
        tools: Haystack's tools and toolsets.
        strict: Have vLLM enforce the tools' schemas.

    Raises:
        ValueError: Two have the same name.
    """
    specs = [tool.tool_spec for tool in flatten_tools_or_toolsets(tools)]
    names = [spec["name"] for spec in specs]
    if len(set(names)) < len(names):
        duplicates = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"Tools have the same name: {', '.join(duplicates)}. Rename one of them.")
    enforced = {"strict": True} if strict else {}
    return [{"type": "function", "function": {**spec, **enforced}} for spec in specs]


# Replies


def read_replies(response: Mapping[str, Any]) -> list[ChatMessage]:
    """Return the messages of a chat completion, one per choice.

    The usage, which is of all choices, is in the first: Haystack's agents add up that of all messages.
    """
    first, *others = (_read_choice(response, choice) for choice in response["choices"])
    for reply in others:
        reply.meta["usage"] = {}
    return [first, *others]


def _read_choice(response: Mapping[str, Any], choice: Mapping[str, Any]) -> ChatMessage:
    message = choice["message"]
    tool_calls = parse_tool_calls(message.get("tool_calls"), choice.get("finish_reason"))
    return _assistant_message(message.get("content"), message.get("reasoning"), tool_calls, _meta(response, choice))


def _meta(response: Mapping[str, Any], choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``meta`` of a reply or chunk: what Haystack defines, and what vLLM adds."""
    meta = {
        "model": response.get("model"),
        "index": choice.get("index", 0),
        "finish_reason": choice.get("finish_reason"),
        "usage": response.get("usage"),
    }
    for part in (choice, response):
        for name in part.keys() & _ADDED_META:
            if part[name] is not None:
                meta[name] = part[name]
    if meta["usage"]:
        meta["usage"] = _without_none(meta["usage"])
    if "logprobs" in meta:
        meta["logprobs"] = _without_none(meta["logprobs"])
    return meta


def _without_none(value: Any) -> Any:
    """Return JSON data without the null fields of its objects; Haystack's agents add up all fields of ``usage``."""
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _assistant_message(
    text: str | None, reasoning: str | None, tool_calls: Sequence[types.ToolCall], meta: dict[str, Any]
) -> ChatMessage:
    # Among the message's tool calls, the invalid ones would be run.
    if invalid := [call for call in tool_calls if call.error]:
        meta["invalid_tool_calls"] = [call.as_dict() for call in invalid]
    for call in invalid:
        log.warning("Tool call %r is invalid, see meta['invalid_tool_calls']: %s", call.name, call.error)
    if meta["finish_reason"] == "length":
        log.warning("The token limit truncated reply %s. Raise max_tokens.", meta["index"])
    return ChatMessage.from_assistant(
        text=text or None,
        reasoning=ReasoningContent(reasoning_text=reasoning) if reasoning else None,
        tool_calls=[
            # Haystack cannot send back a tool call without an id, nor its result; some gateways give none.
            ToolCall(id=call.id or f"call-{uuid4().hex}", tool_name=call.name, arguments=call.arguments)
            for call in tool_calls
            if call.arguments is not None
        ],
        meta=meta,
    )


class StreamedReply:
    """A streamed reply: each chunk as Haystack's, and the message they add up to.

    Args:
        component_info: The component that the chunks name as their source.
    """

    def __init__(self, component_info: ComponentInfo) -> None:
        self._component_info = component_info
        self._message = StreamedMessage()
        self._meta: dict[str, Any] = {"model": None, "index": 0}
        self._block: tuple[str, int] | None = None
        self._blocks: dict[tuple[str, int], int] = {}
        self._started_blocks = 0
        self._last: LastText[StreamingChunk] = LastText()

    def add(self, chunk: Mapping[str, Any]) -> StreamingChunk:
        """Add a chunk, and return it as Haystack's; the client's stream has one kind of delta per chunk."""
        if isinstance(chunk, SimpleChunk) and (last := self._last.like(chunk)) is not None:
            if type(chunk) is TextChunk:
                self._message.add_text(chunk.text, reasoning=chunk.template.is_reasoning)
            else:
                self._message.add(chunk)
            return _with_text(last, chunk)
        return self._last.keep(chunk, self._convert(chunk))

    def _convert(self, chunk: Mapping[str, Any]) -> StreamingChunk:
        delta = self._message.add(chunk)
        choices = chunk.get("choices")
        meta = _meta(chunk, choices[0] if choices else {})
        meta["received_at"] = datetime.now().isoformat()
        self._meta.setdefault("completion_start_time", meta["received_at"])
        for name in ("model", "id"):
            if meta.get(name) is not None:
                self._meta[name] = meta[name]
        block, starts = None, False
        text, reasoning, tool_calls = delta.get("content"), delta.get("reasoning"), delta.get("tool_calls")
        if text:
            block, starts = self._content_block("text")
        elif reasoning:
            block, starts = self._content_block("reasoning")
        elif tool_calls:
            block, starts = self._content_block("tool call", tool_calls[0]["index"])
        return StreamingChunk(
            content=text or "",
            meta=meta,
            component_info=self._component_info,
            index=block,
            start=starts,
            reasoning=ReasoningContent(reasoning_text=reasoning) if reasoning else None,
            tool_calls=[_tool_call_delta(call) for call in tool_calls] if tool_calls else None,
            finish_reason=cast(Any, meta["finish_reason"]),  # vLLM has more than Haystack lists
        )

    def _content_block(self, kind: str, index: int = 0) -> tuple[int, bool]:
        """Return the number of the content block that a delta belongs to, and whether the delta starts it."""
        block = (kind, index)
        # Deltas of several tool calls may alternate.
        starts = block not in self._blocks if kind == "tool call" else block != self._block
        if starts:
            self._blocks[block] = self._started_blocks
            self._started_blocks += 1
        self._block = block
        return self._blocks[block], starts

    def message(self) -> ChatMessage:
        """Return the complete reply."""
        reply = self._message
        meta = {
            **self._meta,
            **reply.fields,
            "finish_reason": reply.finish_reason,
            "usage": _without_none(reply.usage),
        }
        if reply.logprobs is not None:
            meta["logprobs"] = _without_none(reply.logprobs)
        return _assistant_message(reply.text, reply.reasoning, reply.tool_calls(), meta)


def _with_text(first: StreamingChunk, chunk: SimpleChunk) -> StreamingChunk:
    """Return a copy of the chunk made of ``chunk``'s predecessor, which differs in its text alone."""
    copied = object.__new__(StreamingChunk)  # Haystack's constructor costs more than all else for a chunk
    changes: dict[str, Any] = {"start": False, "meta": {**first.meta, "received_at": datetime.now().isoformat()}}
    if type(chunk) is not TextChunk:
        changes["tool_calls"] = [_tool_call_delta(call) for call in chunk["choices"][0]["delta"]["tool_calls"]]
    elif chunk.template.is_reasoning:
        changes["reasoning"] = ReasoningContent(reasoning_text=chunk.text)
    else:
        changes["content"] = chunk.text
    copied.__dict__.update(first.__dict__, **changes)
    return copied


def _tool_call_delta(call: Mapping[str, Any]) -> ToolCallDelta:
    function = call.get("function") or {}
    name, arguments = function.get("name"), function.get("arguments")
    return ToolCallDelta(index=call["index"], id=call.get("id"), tool_name=name, arguments=arguments or None)
