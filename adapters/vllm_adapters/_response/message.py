"""A streamed reply, accumulated from its chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_adapters._response.tool_calls import ToolCallAccumulator
from vllm_adapters._response.validate import CHOICE_FIELDS, RESPONSE_FIELDS
from vllm_adapters.types import ToolCall

_ADDED_FIELDS = CHOICE_FIELDS | RESPONSE_FIELDS


class StreamedMessage:
    """One choice of a streamed chat completion or completion, as far as it has arrived.

    >>> from vllm_adapters._response.message import StreamedMessage
    >>> message = StreamedMessage()
    >>> message.add({"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]})
    {'content': 'Hello'}
    >>> message.text
    'Hello'

    Attributes:
        text: The text so far.
        reasoning: The reasoning so far.
        refusal: A gateway's refusal so far.
        finish_reason: Why it ended; ``None`` while it goes on.
        usage: The token usage, if a chunk had it.
        logprobs: The log probabilities so far, in the server's form.
        fields: What vLLM adds to OpenAI's chunks (``stop_reason``, ``token_ids``, ...); lists are concatenated.
    """

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self.refusal = ""
        self.finish_reason: str | None = None
        self.usage: Mapping[str, Any] | None = None
        self.logprobs: dict[str, Any] | None = None
        self.fields: dict[str, Any] = {}
        self._tool_calls = ToolCallAccumulator()

    def add(self, chunk: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add one chunk, and return the delta of its choice (of a completion: the choice), empty if it has none.

        Args:
            chunk: As the client's stream yields it: one choice, one kind of delta.
        """
        choices = chunk.get("choices")
        choice: Mapping[str, Any] = choices[0] if choices else {}
        delta: Mapping[str, Any] = choice.get("delta", choice)
        if piece := delta.get("content") or choice.get("text"):
            self.add_text(piece)
        elif piece := delta.get("reasoning"):
            self.add_text(piece, reasoning=True)
        elif tool_calls := delta.get("tool_calls"):
            self._tool_calls.add(tool_calls)
        if piece := delta.get("refusal"):
            self.refusal += piece
        if choice.get("finish_reason"):
            self.finish_reason = choice["finish_reason"]
        if logprobs := choice.get("logprobs"):
            self.logprobs = self.logprobs or {}
            for name, value in logprobs.items():
                _extend(self.logprobs, name, value)
        if chunk.get("usage"):
            self.usage = chunk["usage"]
        for part in (chunk, choice):
            for name in part.keys() & _ADDED_FIELDS:
                if (value := part[name]) is not None:
                    _extend(self.fields, name, value)
        return delta

    def add_text(self, piece: str, *, reasoning: bool = False) -> None:
        """Add a text, or reasoning, of a chunk that has nothing else."""
        # A text that only a local variable refers to grows in place; an attribute would be copied at each chunk.
        if reasoning:
            text, self.reasoning = self.reasoning, ""
            text += piece
            self.reasoning = text
        else:
            text, self.text = self.text, ""
            text += piece
            self.text = text

    def tool_calls(self) -> list[ToolCall]:
        """Return the tool calls; while the reply goes on, the last one is truncated."""
        return self._tool_calls.parse(self.finish_reason or "unfinished")


def _extend(fields: dict[str, Any], name: str, value: Any) -> None:
    """Add a field of one chunk: lists are extended, other values are replaced."""
    before = fields.get(name)
    if isinstance(before, list) and isinstance(value, list):
        before.extend(value)
    elif value is not None:
        fields[name] = list(value) if isinstance(value, list) else value
