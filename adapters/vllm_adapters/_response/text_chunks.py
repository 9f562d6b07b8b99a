"""Chunks that are one text and nothing else, as most of a stream are: of the answer, the reasoning or tool arguments.

They differ in their text alone: the bytes around it are those of the first one, which was parsed and validated. Of the
others only the text has to be parsed, and what was made of the first one can be copied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json

from vllm_adapters._response.validate import CHOICE_FIELDS, RESPONSE_FIELDS

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_LITERALS = {
    kind: re.compile(rb'"%b":\s*("[^"\\]*+(?:\\.[^"\\]*+)*+")' % kind.encode())
    for kind in ("content", "reasoning", "text", "arguments")
}
"""A text in the JSON of an event: quotes within a string are escaped, so that none begins there."""
_MAX_BYTES = 1 << 16
"""Bytes of an event that is searched for its text. Longer ones are too rare to save anything."""
_TEXT_FIELDS = frozenset({"content", "reasoning", "reasoning_content"})
_OTHER_CHOICE_FIELDS = (*CHOICE_FIELDS, "finish_reason", "logprobs")
_OTHER_FIELDS = (*(RESPONSE_FIELDS - {"system_fingerprint"}), "usage")


class SimpleChunk(dict[str, Any]):
    """A chunk of one choice that is one text.

    Attributes:
        template: The same object for chunks that differ in their text alone.
        text: The text.
    """

    __slots__ = ("template", "text")

    template: TextTemplate
    text: str


class TextChunk(SimpleChunk):
    """A chunk that is text or reasoning."""

    __slots__ = ()


class ArgumentsChunk(SimpleChunk):
    """A chunk that is a piece of the arguments of a tool call, after its first one."""

    __slots__ = ()


class TextTemplate:
    """What chunks that differ in their text alone have in common.

    Args:
        chunk: One of them, normalized.
        kind: The field that is the text: ``"content"`` or ``"reasoning"`` of the delta, ``"text"`` of the choice, or
            ``"arguments"`` of the delta's tool call.
        before: The event's bytes before the text.
        after: Those after the text.
    """

    def __init__(self, chunk: Mapping[str, Any], kind: str, before: bytes, after: bytes) -> None:
        [choice] = chunk["choices"]
        self.kind = kind
        self.is_reasoning = kind == "reasoning"
        self.index: int = choice["index"]
        self._type = ArgumentsChunk if kind == "arguments" else TextChunk
        self._chunk, self._choice, self._delta = chunk, choice, choice.get("delta")
        self._before, self._after = before, after

    @classmethod
    def of(cls, event: bytes, chunk: Mapping[str, Any]) -> TextTemplate | None:
        """Return the template of ``chunk``, or ``None`` if it is more than a text.

        Args:
            event: The JSON of the event.
            chunk: What was made of it.
        """
        choices = chunk["choices"]
        if len(event) > _MAX_BYTES or len(choices) != 1:
            return None
        if is_text(chunk, choices[0]):
            part = choices[0].get("delta", choices[0])
            kind = next((name for name in _LITERALS if part.get(name)), None)
        else:
            kind = "arguments" if is_arguments(chunk, choices[0]) else None
        if kind is None or not (found := _LITERALS[kind].search(event)):
            return None
        before, after = event[: found.start(1)], event[found.end(1) :]
        [choice] = from_json(before + b'"?"' + after)["choices"]
        part = choice.get("delta", choice)
        if kind == "arguments":
            [call] = part["tool_calls"]
            # Without an index, that of the call depends on its arguments.
            part = call["function"] if call.get("index") is not None else {}
        if part.get(kind) != "?":
            return None  # a field of the same name elsewhere
        return cls(chunk, kind, before, after)

    def match(self, event: bytes) -> SimpleChunk | None:
        """Return the chunk of an event that differs in its text alone, or ``None`` for another event.

        Chunks share no dict or list.
        """
        if not (event.startswith(self._before) and event.endswith(self._after)):
            return None
        try:
            text = from_json(event[len(self._before) : -len(self._after)])
        except ValueError:
            return None
        if type(text) is not str or not text:
            return None
        if self._delta is None:
            choice = {**self._choice, self.kind: text}
        elif self._type is TextChunk:
            choice = {**self._choice, "delta": {**self._delta, self.kind: text}}
        else:
            [call] = self._delta["tool_calls"]
            call = {**call, "function": {**call["function"], "arguments": text}}
            choice = {**self._choice, "delta": {**self._delta, "tool_calls": [call]}}
        chunk = self._type(self._chunk)
        chunk["choices"] = [choice]
        chunk.template, chunk.text = self, text
        return chunk


class LastText(Generic[T]):
    """What was made of the last chunk, if that was one text: what is made of those like it can be a copy."""

    def __init__(self) -> None:
        self._template: TextTemplate | None = None
        self._made: T | None = None

    def like(self, chunk: SimpleChunk) -> T | None:
        """Return what was made of the last chunk, if ``chunk`` differs from that in its text alone."""
        return self._made if chunk.template is self._template else None

    def keep(self, chunk: Mapping[str, Any], made: T) -> T:
        """Return what was made of a chunk, and keep a copy: who gets it may change it."""
        self._template, self._made = None, None
        if isinstance(chunk, SimpleChunk):
            self._template, self._made = chunk.template, deepcopy(made)
        return made


def is_text(chunk: Mapping[str, Any], choice: Mapping[str, Any]) -> bool:
    """Return whether a chunk is text or reasoning and nothing else.

    Args:
        chunk: A chunk of a stream.
        choice: Its only choice.
    """
    return not (choice.get("delta") or {}).keys() - _TEXT_FIELDS and _is_alone(chunk, choice)


def is_arguments(chunk: Mapping[str, Any], choice: Mapping[str, Any]) -> bool:
    """Return whether a chunk is a piece of a tool call's arguments and nothing else.

    Args:
        chunk: A chunk of a stream.
        choice: Its only choice.
    """
    delta = choice.get("delta") or {}
    calls: list[Any] = delta.get("tool_calls") or []
    if len(calls) != 1:
        return False
    function = calls[0]["function"]
    return (
        _fields(delta) == {"tool_calls"}
        and _fields(calls[0]) - {"type"} == {"index", "function"}
        and _fields(function) == {"arguments"}
        and bool(function["arguments"].strip())
        and _is_alone(chunk, choice)
    )


def _fields(part: Mapping[str, Any]) -> set[str]:
    return {name for name, value in part.items() if value is not None}


def _is_alone(chunk: Mapping[str, Any], choice: Mapping[str, Any]) -> bool:
    """Return whether a chunk has nothing beside the delta or text of its choice that varies from chunk to chunk."""
    return not (
        any(map(choice.get, _OTHER_CHOICE_FIELDS))
        or any(map(chunk.get, _OTHER_FIELDS))
        or any(isinstance(value, dict | list) for name, value in chunk.items() if name != "choices")
        or any(isinstance(value, dict | list) for name, value in choice.items() if name != "delta")
    )


def copy_model(model: M, changes: Mapping[str, Any]) -> M:
    """Return a shallow copy of a Pydantic model with other values, which are not validated.

    Args:
        model: The model; its extra fields are copied, too.
        changes: Fields of the copy.
    """
    copied = model.__class__.__new__(model.__class__)
    # As BaseModel.__copy__ does, whose many steps cost more than all else that a stream does for a chunk.
    extra, private = model.__pydantic_extra__, model.__pydantic_private__
    _set(copied, "__dict__", {**model.__dict__, **changes})
    _set(copied, "__pydantic_extra__", None if extra is None else extra.copy())
    _set(copied, "__pydantic_fields_set__", model.__pydantic_fields_set__.copy())
    _set(copied, "__pydantic_private__", None if private is None else private.copy())
    return copied


_set = object.__setattr__
