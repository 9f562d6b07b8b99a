"""LlamaIndex's messages as vLLM takes them, and vLLM's replies as LlamaIndex's responses. Nothing is dropped."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from llama_index.core.base.llms.types import (
    AudioBlock,
    CachePoint,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ImageBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.llms.llm import ToolSelection

from vllm_adapters._response.message import StreamedMessage
from vllm_adapters._response.structured import truncation_error
from vllm_adapters._response.text_chunks import ArgumentsChunk, LastText, TextChunk, copy_model
from vllm_adapters._response.tool_calls import parse_tool_call, parse_tool_calls
from vllm_adapters.errors import InvalidRequest, InvalidResponse
from vllm_adapters.types import ToolCall

R = TypeVar("R", bound="ChatResponse | CompletionResponse")

INVALID_TOOL_CALLS = "invalid_tool_calls"
"""Key of a message's ``additional_kwargs``: tool calls that must not be run."""

_ROLES = {MessageRole.CHATBOT: "assistant", MessageRole.MODEL: "assistant"}
_MEDIA = (ImageBlock, AudioBlock, VideoBlock)


# Messages of requests


def messages_to_json(messages: Sequence[ChatMessage], *, replay_reasoning: bool = False) -> list[dict[str, Any]]:
    """Return messages as ``/v1/chat/completions`` takes them.

    Args:
        messages: Text, images, audio, video, thinking and tool calls, in any role.
        replay_reasoning: Whether to send thinking, as ``reasoning``.

    Raises:
        InvalidRequest: There is a block that vLLM cannot take, such as a document.
    """
    converted = []
    for message in messages:  # no comprehension: a call less for Python 3.11
        converted.append(_message_to_json(message, replay_reasoning))
    return converted


def reject_media(messages: Sequence[ChatMessage]) -> None:
    """Raise for blocks that a text prompt would lose.

    Raises:
        InvalidRequest: There is an image, audio or video.
    """
    for message in messages:
        for block in message.blocks:
            if isinstance(block, _MEDIA):
                raise InvalidRequest(
                    f"A text prompt cannot contain a {type(block).__name__}",
                    hint="Use chat: is_chat_model=True",
                    param="messages",
                )


def _message_to_json(message: ChatMessage, replay_reasoning: bool) -> dict[str, Any]:
    text, thinking, has_media = "", "", False
    parts: list[dict[str, Any]] = []
    tool_calls: list[dict[str, Any]] = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            text += block.text
            parts.append({"type": "text", "text": block.text})
        elif isinstance(block, ToolCallBlock):
            tool_calls.append(_tool_call_to_json(block))
        elif isinstance(block, ThinkingBlock):
            thinking += block.content or ""
        elif not isinstance(block, CachePoint):  # vLLM finds prefixes to reuse by itself
            has_media = True
            parts.append(_media_to_json(block))
    given = message.additional_kwargs
    if not tool_calls and given.get("tool_calls"):
        tool_calls = [_legacy_tool_call(call) for call in given["tool_calls"]]
    converted: dict[str, Any] = {"role": _ROLES.get(message.role, message.role.value)}
    converted["content"] = parts if has_media else text or (None if tool_calls else "")
    if tool_calls:
        converted["tool_calls"] = tool_calls
    if thinking and replay_reasoning:
        converted["reasoning"] = thinking
    for name in ("tool_call_id", "name"):
        if given.get(name):
            converted[name] = given[name]
    return converted


def _media_to_json(block: object) -> dict[str, Any]:
    """Return a part of a message's content; media that have a URL are sent as the URL."""
    if isinstance(block, ImageBlock):
        url = block.url or _data_url(block.image_mimetype or "image/png", block.resolve_image())
        image = {"url": str(url), **({"detail": block.detail} if block.detail else {})}
        return {"type": "image_url", "image_url": image}
    if isinstance(block, AudioBlock):
        if block.url:
            return {"type": "audio_url", "audio_url": {"url": str(block.url)}}
        data = _base64(block.resolve_audio())
        return {"type": "input_audio", "input_audio": {"data": data, "format": block.format or "wav"}}
    if isinstance(block, VideoBlock):
        url = block.url or _data_url(block.video_mimetype or "video/mp4", block.resolve_video())
        return {"type": "video_url", "video_url": {"url": str(url)}}
    raise InvalidRequest(
        f"vLLM does not support a {type(block).__name__} in a message",
        hint="Pass its text, or its pages as images",
        param="messages",
    )


def _data_url(mimetype: str, file: Any) -> str:
    return f"data:{mimetype};base64,{_base64(file)}"


def _base64(file: Any) -> str:  # LlamaIndex's annotation is IOBase, which has no read()
    # Not by the blocks' own as_base64, which returns the bytes of file objects unencoded.
    return b64encode(file.read()).decode()


def _tool_call_to_json(block: ToolCallBlock) -> dict[str, Any]:
    arguments = block.tool_kwargs if isinstance(block.tool_kwargs, str) else json.dumps(block.tool_kwargs)
    function = {"name": block.tool_name, "arguments": arguments}
    return {"id": block.tool_call_id or "", "type": "function", "function": function}


def _legacy_tool_call(call: Any) -> dict[str, Any]:
    """Return a tool call that another LLM class left in a message's ``additional_kwargs``."""
    return dict(call) if isinstance(call, Mapping) else dict(call.model_dump(exclude_none=True, exclude={"index"}))


# Replies

_OPTIONAL = frozenset(
    {
        *("annotations", "audio", "content", "function_call", "refusal", "role", "tool_calls"),
        *("finish_reason", "logprobs", "service_tier", "system_fingerprint", "usage"),
        *("completion_tokens_details", "prompt_tokens_details"),
    }
)
"""Fields that the SDK's objects always have, and vLLM's replies only with a value."""


class RawReply(dict[str, Any]):
    """A reply or chunk as vLLM sent it: a dict, whose fields are also attributes, as of the SDK's objects."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return _with_attributes(self[name])
        if name in _OPTIONAL:
            return None
        raise AttributeError(f"The reply does not have the field `{name}`. It has: {', '.join(self)}.")


def _with_attributes(value: Any) -> Any:
    if isinstance(value, dict):
        return RawReply(value)
    return [_with_attributes(item) for item in value] if isinstance(value, list) else value


class Reply(ABC, Generic[R]):
    """Builds responses from one reply of either endpoint, complete or chunk by chunk.

    ``additional_kwargs`` of a response has ``finish_reason``, ``stop_reason``, token counts and what else vLLM adds
    to a reply. A gateway's refusal is the text, and ``additional_kwargs["refusal"]``. A response does not change when
    further chunks are added.
    """

    def __init__(self) -> None:
        self._message = StreamedMessage()
        self._logprobs: list[list[LogProb]] | None = None
        self._tool_calls: list[ToolCall] = []
        self._invalid_tool_calls: list[ToolCall] = []
        self._last: LastText[R] = LastText()

    def complete(self, reply: Mapping[str, Any]) -> R:
        """Return the response for a reply that was not streamed."""
        choice = dict(reply["choices"][0])
        if (message := choice.get("message")) is not None:
            self._set_tool_calls(parse_tool_calls(message.get("tool_calls"), choice.get("finish_reason")))
            self._message.add({"choices": [{"delta": {"reasoning": message.get("reasoning")}}]})
            choice["delta"] = {"content": message.get("content"), "refusal": message.get("refusal")}
        self._message.add({**reply, "choices": [choice]})
        if choice.get("logprobs"):
            self._logprobs = _logprobs(choice["logprobs"])
        return self._respond(RawReply(reply), None, self._details())

    def add(self, chunk: Mapping[str, Any]) -> R:
        """Add one chunk of a stream, and return the response for the reply so far."""
        if type(chunk) is TextChunk and (last := self._last.like(chunk)) is not None:
            self._message.add_text(chunk.text, reasoning=chunk.template.is_reasoning)
            return self._with_text(last, chunk)
        last = self._last.like(chunk) if type(chunk) is ArgumentsChunk else None
        delta = self._message.add(chunk)
        if chunk["choices"] and (logprobs := chunk["choices"][0].get("logprobs")):
            self._logprobs = [*(self._logprobs or ()), *_logprobs(logprobs)]
        if self._tool_calls or delta.get("tool_calls"):
            # While the reply goes on, its last tool call is incomplete, not invalid.
            self._set_tool_calls(self._message.tool_calls(), growing=self._message.finish_reason is None)
        details = self._details()
        if last is not None:
            return self._with_arguments(last, chunk, details)
        if thinking := delta.get("reasoning"):
            details["thinking_delta"] = thinking
        text = delta.get("content") or delta.get("text") or delta.get("refusal") or ""
        return self._last.keep(chunk, self._respond(RawReply(chunk), text, details))

    @abstractmethod
    def _with_text(self, response: R, chunk: TextChunk) -> R:
        """Return a copy of an earlier response for a chunk that differs from its chunk in the text alone."""

    @abstractmethod
    def _with_arguments(self, response: R, chunk: Mapping[str, Any], details: dict[str, Any]) -> R:
        """Return the response for a chunk that differs from an earlier response's in a tool call's arguments alone."""

    @abstractmethod
    def _respond(self, raw: Mapping[str, Any], delta: str | None, details: dict[str, Any]) -> R:
        """Return the response for the reply as far as it has arrived.

        Args:
            raw: The reply or chunk.
            delta: The text of the chunk; ``None`` for a reply that was not streamed.
            details: ``additional_kwargs`` of the response.
        """

    def _set_tool_calls(self, calls: list[ToolCall], *, growing: bool = False) -> None:
        self._tool_calls = [call for call in calls if growing or not call.error]
        self._invalid_tool_calls = [] if growing else [call for call in calls if call.error]

    def _details(self) -> dict[str, Any]:
        """Return what the reply has beside its message."""
        message = self._message
        details = _copy_lists(message.fields) if message.fields else {}
        if message.finish_reason:
            details["finish_reason"] = message.finish_reason
        if message.refusal:
            details["refusal"] = message.refusal
        if message.usage:
            details.update(_token_counts(message.usage))
        if message.logprobs:
            details["logprobs"] = _copy_lists(message.logprobs)
        return details

    def _tool_call_fields(self) -> dict[str, Any]:
        """Return the tool calls for ``additional_kwargs``."""
        fields = {
            "tool_calls": [_as_openai(call) for call in self._tool_calls],
            INVALID_TOOL_CALLS: [call.as_dict() for call in self._invalid_tool_calls],
        }
        return {name: calls for name, calls in fields.items() if calls}


class ChatReply(Reply[ChatResponse]):
    """Builds ``ChatResponse`` objects."""

    def _respond(self, raw: Mapping[str, Any], delta: str | None, details: dict[str, Any]) -> ChatResponse:
        text, thinking = self._message.text or self._message.refusal, self._message.reasoning
        blocks: list[Any] = []
        fields: dict[str, Any] = {}
        if thinking:
            blocks.append(ThinkingBlock(content=thinking, num_tokens=details.get("reasoning_tokens")))
        if text or not (thinking or self._tool_calls):
            blocks.append(TextBlock(text=text))
        if self._tool_calls or self._invalid_tool_calls:
            blocks += [_tool_call_block(call) for call in self._tool_calls]
            fields = self._tool_call_fields()
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=fields)
        response = ChatResponse(message=message, delta=delta, raw=raw, additional_kwargs=details)
        response.logprobs = self._logprobs  # the constructor would validate all of them at every chunk
        return response

    def _with_text(self, response: ChatResponse, chunk: TextChunk) -> ChatResponse:
        message, details = response.message, response.additional_kwargs
        details = _copy_lists(details) if details else {}
        blocks = [*message.blocks]
        if chunk.template.is_reasoning:
            details["thinking_delta"] = chunk.text
            blocks[0] = copy_model(blocks[0], {"content": self._message.reasoning})
        else:
            place = 1 if self._message.reasoning else 0
            blocks[place] = copy_model(blocks[place], {"text": self._message.text})
        changes = {
            "message": copy_model(message, {"blocks": blocks, "additional_kwargs": message.additional_kwargs.copy()}),
            "delta": "" if chunk.template.is_reasoning else chunk.text,
            "raw": RawReply(chunk),
            "additional_kwargs": details,
        }
        return copy_model(response, changes)

    def _with_arguments(
        self, response: ChatResponse, chunk: Mapping[str, Any], details: dict[str, Any]
    ) -> ChatResponse:
        message, call = response.message, self._tool_calls[-1]
        if call.index != chunk["choices"][0]["delta"]["tool_calls"][0]["index"]:
            return self._respond(RawReply(chunk), "", details)
        *blocks, block = message.blocks
        changes: dict[str, Any] = {
            "blocks": [*blocks, copy_model(block, {"tool_kwargs": call.raw_arguments})],
            "additional_kwargs": self._tool_call_fields(),
        }
        changes = {"message": copy_model(message, changes), "raw": RawReply(chunk), "additional_kwargs": details}
        return copy_model(response, changes)


class CompletionReply(Reply[CompletionResponse]):
    """Builds ``CompletionResponse`` objects; a chat model's thinking is in ``additional_kwargs["thinking"]``."""

    def _respond(self, raw: Mapping[str, Any], delta: str | None, details: dict[str, Any]) -> CompletionResponse:
        if self._message.reasoning:
            details["thinking"] = self._message.reasoning
        if self._tool_calls or self._invalid_tool_calls:
            details |= self._tool_call_fields()
        text = self._message.text or self._message.refusal
        response = CompletionResponse(text=text, delta=delta, raw=raw, additional_kwargs=details)
        response.logprobs = self._logprobs
        return response

    def _with_text(self, response: CompletionResponse, chunk: TextChunk) -> CompletionResponse:
        details = _copy_lists(response.additional_kwargs)
        if chunk.template.is_reasoning:
            details |= {"thinking": self._message.reasoning, "thinking_delta": chunk.text}
        changes = {
            "text": self._message.text,
            "delta": "" if chunk.template.is_reasoning else chunk.text,
            "raw": RawReply(chunk),
            "additional_kwargs": details,
        }
        return copy_model(response, changes)

    def _with_arguments(
        self, response: CompletionResponse, chunk: Mapping[str, Any], details: dict[str, Any]
    ) -> CompletionResponse:
        return self._respond(RawReply(chunk), "", details)


def _copy_lists(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that does not change when lists of ``fields`` are extended."""
    return {name: value.copy() if isinstance(value, list) else value for name, value in fields.items()}


def _tool_call_block(call: ToolCall) -> ToolCallBlock:
    """Return a tool call, with its arguments so far as text while it is incomplete."""
    arguments = call.raw_arguments if call.arguments is None else call.arguments
    return ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=arguments)


def _as_openai(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.raw_arguments}}


def _token_counts(usage: Mapping[str, Any]) -> dict[str, int]:
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    counts["cached_tokens"] = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    counts["reasoning_tokens"] = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    return {name: count for name, count in counts.items() if count is not None}


def _logprobs(logprobs: Mapping[str, Any]) -> list[list[LogProb]]:
    """Return the log probabilities of a choice, in the form of either endpoint: the chosen token, then others."""
    if "content" in logprobs:
        return [_token_logprobs(token) for token in logprobs["content"] or ()]
    result = []
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs.get("tokens") or ())
    for token, logprob, top in zip(
        logprobs.get("tokens") or (), logprobs.get("token_logprobs") or (), tops, strict=False
    ):
        if logprob is None:
            continue  # the first token of an echoed prompt
        others = [LogProb(token=other, logprob=value) for other, value in (top or {}).items() if other != token]
        result.append([LogProb(token=token, logprob=logprob), *others])
    return result


def _token_logprobs(token: Mapping[str, Any]) -> list[LogProb]:
    others = [other for other in token.get("top_logprobs") or () if other["token"] != token["token"]]
    return [_logprob(candidate) for candidate in (token, *others)]


def _logprob(token: Mapping[str, Any]) -> LogProb:
    return LogProb(token=token["token"], logprob=token["logprob"], bytes=token.get("bytes") or [])


# Tool calls of responses


def tool_selections(response: ChatResponse) -> list[ToolSelection]:
    """Return the tool calls of a response; while it streams, those that are complete.

    Raises:
        TruncatedOutput: The token limit truncated a call.
        InvalidResponse: The arguments of a call are not a JSON object.
    """
    reason = response.additional_kwargs.get("finish_reason")
    for call in response.message.additional_kwargs.get(INVALID_TOOL_CALLS, ()):
        raise truncation_error(reason, call["arguments"]) or InvalidResponse(
            f"The call of `{call['name']}` is invalid: {call['error']}; arguments: {call['arguments'][:200]!r}",
            hint="Pass the tool with strict=True, or force it with tool_choice: vLLM then enforces its schema",
        )
    selections = []
    for id, name, arguments in _called_tools(response.message):
        if isinstance(arguments, str):
            arguments = parse_tool_call(0, None, name, arguments, truncated=reason is None).arguments
        if arguments is not None:
            selections.append(ToolSelection(tool_id=id, tool_name=name, tool_kwargs=arguments))
    return selections


def _called_tools(message: ChatMessage) -> list[tuple[str, str, Any]]:
    """Return id, name and arguments of each tool call of a message, as blocks or as other LLM classes leave them."""
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if blocks:
        return [(block.tool_call_id or "", block.tool_name, block.tool_kwargs) for block in blocks]
    calls = [_legacy_tool_call(call) for call in message.additional_kwargs.get("tool_calls") or ()]
    return [
        (call.get("id") or "", call["function"].get("name") or "", call["function"].get("arguments") or "{}")
        for call in calls
        if isinstance(call.get("function"), Mapping)
    ]
