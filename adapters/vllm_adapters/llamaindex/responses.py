"""vLLM's replies as LlamaIndex's: nothing lost, tool calls whole or visibly broken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from vllm_adapters._response.tool_calls import ToolCallAccumulator
from vllm_adapters._response.validate import CHOICE_FIELDS, RESPONSE_FIELDS, pick_fields
from vllm_adapters.types import ToolCall

R = TypeVar("R", ChatResponse, CompletionResponse)

INVALID = "invalid_tool_calls"
"""Key of a message's ``additional_kwargs``: the calls that are broken, which no agent may run."""


class ChatReply:
    """One reply to a chat request, whole or in chunks; each ``add`` gives the reply so far.

    ``additional_kwargs`` of a response has ``finish_reason``, ``stop_reason``, the counts of tokens and what
    else vLLM says about the reply; of its message, broken tool calls.
    """

    def __init__(self) -> None:
        self._thought = ""
        self._text = ""
        self._calls = ToolCallAccumulator()
        self._said = Said()

    def whole(self, reply: Mapping[str, Any]) -> ChatResponse:
        """A reply that was not streamed."""
        message = reply["choices"][0]["message"]
        calls = [{**call, "index": index} for index, call in enumerate(message.get("tool_calls") or ())]
        return self._add(reply, {**message, "tool_calls": calls}, delta=None)

    def chunk(self, chunk: Mapping[str, Any]) -> ChatResponse:
        """The reply so far, after one more chunk of its stream."""
        delta = (chunk["choices"][0].get("delta") if chunk.get("choices") else None) or {}
        return self._add(chunk, delta, delta=delta.get("content") or "")

    def _add(self, reply: Mapping[str, Any], part: Mapping[str, Any], delta: str | None) -> ChatResponse:
        thought = part.get("reasoning") or ""
        self._thought += thought
        self._text += part.get("content") or ""
        self._calls.add(part.get("tool_calls"))
        choice = self._said.add(reply)
        self._said.add_logprobs(_chat_logprobs(choice), choice)
        added = dict(self._said.kwargs)
        if thought and delta is not None:
            added["thinking_delta"] = thought
        response = ChatResponse(
            message=self._message(over=delta is None or "finish_reason" in self._said.kwargs),
            delta=delta,
            raw=reply,
            additional_kwargs=added,
        )
        return _with(self._said.logprobs, response)

    def _message(self, over: bool) -> ChatMessage:
        blocks: list[Any] = []
        if self._thought:
            blocks.append(ThinkingBlock(content=self._thought, num_tokens=self._said.kwargs.get("reasoning_tokens")))
        # While the reply goes on, its last call is a block with the text so far.
        calls = self._calls.read(self._said.kwargs.get("finish_reason") if over else "unfinished")
        broken = [call for call in calls if call.error and over]
        calls = [call for call in calls if not (call.error and over)]
        if self._text or not (blocks or calls):
            blocks.append(TextBlock(text=self._text))
        blocks += [
            ToolCallBlock(
                tool_call_id=call.id,
                tool_name=call.name,
                tool_kwargs=call.text if call.arguments is None else call.arguments,
            )
            for call in calls
        ]
        added: dict[str, Any] = {}
        if calls:
            added["tool_calls"] = [_wire_call(call) for call in calls]
        if broken:
            added[INVALID] = [
                {"id": call.id, "name": call.name, "arguments": call.text, "error": call.error} for call in broken
            ]
        return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=added)


class CompletionReply:
    """``ChatReply`` for a completions request."""

    def __init__(self) -> None:
        self._text = ""
        self._said = Said()

    def whole(self, reply: Mapping[str, Any]) -> CompletionResponse:
        """A reply that was not streamed."""
        return self._add(reply, streamed=False)

    def chunk(self, chunk: Mapping[str, Any]) -> CompletionResponse:
        """The reply so far, after one more chunk of its stream."""
        return self._add(chunk, streamed=True)

    def _add(self, reply: Mapping[str, Any], *, streamed: bool) -> CompletionResponse:
        choice = self._said.add(reply)
        text = choice.get("text") or ""
        self._text += text
        self._said.add_logprobs(_completion_logprobs(choice), choice)
        response = CompletionResponse(
            text=self._text,
            delta=text if streamed else None,
            raw=reply,
            additional_kwargs=dict(self._said.kwargs),
        )
        return _with(self._said.logprobs, response)


class Said:
    """What a reply says beside its text."""

    def __init__(self) -> None:
        self.kwargs: dict[str, Any] = {}
        self.logprobs: list[list[LogProb]] | None = None

    def add(self, reply: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take in a reply or one chunk of it; returns its first choice."""
        choice: Mapping[str, Any] = reply["choices"][0] if reply.get("choices") else {}
        for name, value in (pick_fields(choice, CHOICE_FIELDS) | pick_fields(reply, RESPONSE_FIELDS)).items():
            before = self.kwargs.get(name)
            grows = isinstance(before, list) and isinstance(value, list)
            self.kwargs[name] = [*before, *value] if grows and before else value
        if choice.get("finish_reason"):
            self.kwargs["finish_reason"] = choice["finish_reason"]
        if usage := reply.get("usage"):
            self.kwargs.update(_counts(usage))
        return choice

    def add_logprobs(self, found: list[list[LogProb]], choice: Mapping[str, Any]) -> None:
        """Take in the log probabilities of a reply or of one chunk."""
        if not found:
            return
        self.logprobs = [*(self.logprobs or ()), *found]
        said, before = choice["logprobs"], self.kwargs.get("logprobs") or {}
        self.kwargs["logprobs"] = {
            name: [*(before.get(name) or ()), *value] if isinstance(value, list) else value
            for name, value in said.items()
        }


def as_completion(response: ChatResponse) -> CompletionResponse:
    """A chat's response as a completion's, with its thinking in ``additional_kwargs["thinking"]``."""
    thoughts = [block.content or "" for block in response.message.blocks if isinstance(block, ThinkingBlock)]
    converted = CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        additional_kwargs={
            **response.message.additional_kwargs,
            **response.additional_kwargs,
            **({"thinking": "".join(thoughts)} if thoughts else {}),
        },
    )
    return _with(response.logprobs, converted)


def as_chat(response: CompletionResponse) -> ChatResponse:
    """A completion's response as a chat's."""
    converted = ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, content=response.text),
        delta=response.delta,
        raw=response.raw,
        additional_kwargs=response.additional_kwargs,
    )
    return _with(response.logprobs, converted)


def _with(logprobs: list[list[LogProb]] | None, response: R) -> R:
    """``response`` with log probabilities, past its constructor, which would check all of them at every chunk."""
    response.logprobs = logprobs
    return response


def _wire_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.text}}


def _counts(usage: Mapping[str, Any]) -> dict[str, int]:
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    counts["cached_tokens"] = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    counts["reasoning_tokens"] = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    return {name: count for name, count in counts.items() if count is not None}


def _chat_logprobs(choice: Mapping[str, Any]) -> list[list[LogProb]]:
    """For each token the chosen one, then the other likely ones."""
    found = []
    for token in (choice.get("logprobs") or {}).get("content") or ():
        others = [_logprob(other) for other in token.get("top_logprobs") or () if other["token"] != token["token"]]
        found.append([_logprob(token), *others])
    return found


def _logprob(token: Mapping[str, Any]) -> LogProb:
    return LogProb(token=token["token"], logprob=token["logprob"], bytes=token.get("bytes") or [])


def _completion_logprobs(choice: Mapping[str, Any]) -> list[list[LogProb]]:
    said = choice.get("logprobs") or {}
    found = []
    tops = said.get("top_logprobs") or [None] * len(said.get("tokens") or ())
    for token, logprob, top in zip(said.get("tokens") or (), said.get("token_logprobs") or (), tops, strict=False):
        if logprob is None:
            continue  # the first token of an echoed prompt
        others = [LogProb(token=other, logprob=value) for other, value in (top or {}).items() if other != token]
        found.append([LogProb(token=token, logprob=logprob), *others])
    return found
