"""Chunks of text made by copying one that LangChain has made: a third of the cost of making each."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

PATTERN: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": None}]}
"""A chunk of a stream that says nothing but its text."""

_SAYS_NOTHING_ELSE = frozenset({"content", "reasoning", "reasoning_content"})


def is_text_only(chunk: Mapping[str, Any], choice: Mapping[str, Any], cls: type) -> bool:
    """Whether a chunk is text (or reasoning) in the middle of a reply: most chunks are, and differ in nothing else.

    Args:
        chunk: A chunk of the stream.
        choice: Its only choice.
        cls: LangChain's class for it, if its delta names no role.
    """
    return (
        issubclass(cls, AIMessageChunk)
        and choice["delta"].keys() <= _SAYS_NOTHING_ELSE
        and not (choice.get("finish_reason") or choice.get("logprobs") or chunk.get("usage"))
    )


def like(made: ChatGenerationChunk, text: str) -> ChatGenerationChunk:
    """A copy of ``made`` with another text, which shares no dict or list with it."""
    message = copy(made.message)
    fields = message.__dict__  # Pydantic's own setattr would look each field up again
    for name, value in fields.items():
        if isinstance(value, dict | list):
            fields[name] = value.copy()
    fields["content"] = text
    copied = copy(made)
    copied.__dict__.update(message=message, text=text)
    return copied
