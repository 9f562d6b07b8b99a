"""The chunks of a stream as they should be, in whatever form a server or a gateway before it wrote them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def is_complaint(event: Mapping[str, Any]) -> bool:
    """Whether an event that should be a chunk tells of a failure, though not under the name ``error``."""
    return "choices" not in event and ("message" in event or "detail" in event)


def completed(chunk: dict[str, Any]) -> dict[str, Any]:
    """``chunk`` with what clients read without asking: the SDK's, its helpers and the frameworks.

    Raises:
        TypeError: A choice holds something else instead of a delta, of which no client would see anything.
    """
    chunk["choices"] = chunk.get("choices") or []
    for choice in chunk["choices"]:
        choice["index"] = int(choice.get("index") or 0)
        if choice.get("delta") is None and choice.get("text") is None:
            if choice.get("message"):
                raise TypeError("a choice holds a message, not a delta")
            choice["delta"] = {}
        if choice.get("delta") is not None:
            chunk["object"] = "chat.completion.chunk"  # the SDK's helper skips all others
            if not isinstance(choice["delta"], dict):
                raise TypeError("a delta is no object")
    return chunk


class Calls:
    """Which tool call each delta of one choice belongs to, whatever the server says of that."""

    def __init__(self) -> None:
        self._said: dict[int, dict[str, str]] = {}
        self._latest: dict[Any, int] = {}

    def place(self, calls: Sequence[dict[str, Any]]) -> None:
        """Give each delta the index of its call, id and name only once, and arguments as text."""
        for call in calls:
            function = call["function"] = call.get("function") or {}
            index = self._index(call.get("index"), function.get("name"))
            call["index"] = index
            said = self._said.setdefault(index, {})
            # Old versions name a forced tool in every delta, with another id each time. Frameworks add deltas up by
            # their index, and would have the name many times over, or a call per delta.
            for part, name in ((call, "id"), (function, "name")):
                if name in said:
                    part.pop(name, None)
                elif part.get(name):
                    said[name] = part[name]
            if not isinstance(function.get("arguments"), str | None):
                function["arguments"] = as_text(function["arguments"])

    def _index(self, given: Any, name: str | None) -> int:
        last = max(self._said, default=-1)
        index = self._latest.get(given, max(last, 0) if given is None else int(given))
        if name and self._said.get(index, {}).get("name", name) != name:
            index = last + 1  # a gateway's, that gives all calls one index or none
        self._latest[given] = self._latest[None] = index
        return index


def as_text(arguments: Any) -> str:
    """Arguments of a tool call that came as an object, not as its text, which OpenAI's API has."""
    return json.dumps(arguments, ensure_ascii=False)


def one_kind_each(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    """Split a chunk into chunks of one choice and one kind of delta each, in order; nothing is lost or doubled.

    Reasoning is named ``reasoning``, whatever the server's version calls it (``reasoning_content`` stays
    beside it). The finish reason, usage and all other fields stay on the last piece, the role on the first.
    """
    pieces: list[dict[str, Any]] = []
    for choice in chunk["choices"] or ():
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            pieces.append(choice)
            continue
        if "reasoning_content" in delta and not delta.get("reasoning"):
            delta["reasoning"] = delta["reasoning_content"]
        calls = delta.get("tool_calls") or []
        if bool(delta.get("reasoning")) + bool(delta.get("content")) + len(calls) <= 1:
            pieces.append(choice)
        else:
            pieces.extend(_split_choice(choice, delta, calls))
    if len(pieces) <= 1:
        return [chunk]
    envelope = {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}
    chunks = [{**envelope, "choices": [piece]} for piece in pieces]
    chunks[-1] = {**chunk, "choices": [pieces[-1]]}
    return chunks


def _split_choice(choice: dict[str, Any], delta: dict[str, Any], calls: list[Any]) -> Iterator[dict[str, Any]]:
    deltas: list[dict[str, Any]] = []
    if delta.get("reasoning"):
        names = ("reasoning", "reasoning_content")
        deltas.append({name: delta[name] for name in names if name in delta})
    if delta.get("content"):
        deltas.append({"content": delta["content"]})
    deltas.extend({"tool_calls": [call]} for call in calls)
    rest = {k: v for k, v in delta.items() if k not in ("reasoning", "reasoning_content", "content", "tool_calls")}
    if "role" in rest:
        deltas[0]["role"] = rest.pop("role")
    deltas[-1].update(rest)
    for piece in deltas[:-1]:
        yield {"index": choice.get("index", 0), "delta": piece, "finish_reason": None, "logprobs": None}
    yield {**choice, "delta": deltas[-1]}
