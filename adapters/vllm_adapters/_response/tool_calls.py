"""Tool calls as the model made them: whole, or visibly broken. Nothing is repaired.

A call that a token limit has cut may still read as JSON once brackets are closed for it, with a shorter path
or a smaller number than the model was about to write. Frameworks get each call with what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from vllm_adapters.types import ToolCall

WHOLE = frozenset({"stop", "tool_calls", "function_call", None})
"""Finish reasons of replies that ended by themselves; others (``length``, ``abort``, ...) cut the last call."""


def parse_tool_calls(calls: Iterable[Any] | None, finish_reason: str | None) -> list[ToolCall]:
    """The tool calls of a reply that was not streamed.

    Args:
        calls: ``tool_calls`` of the message, as dicts or as the SDK's objects.
        finish_reason: The choice's; it tells whether the last call was cut.
    """
    found = ToolCallAccumulator()
    found.add({**_fields(call), "index": index} for index, call in enumerate(calls or ()))
    return found.read(finish_reason)


class ToolCallAccumulator:
    """Tool calls while they stream in, put together by their index.

    >>> from vllm_adapters._response.tool_calls import ToolCallAccumulator
    >>> calls = ToolCallAccumulator()
    >>> calls.add([{"index": 0, "id": "a", "function": {"name": "add", "arguments": '{"x": '}}])
    >>> calls.add([{"index": 0, "function": {"arguments": "1}"}}])
    >>> calls.read("tool_calls")[0].arguments
    {'x': 1}
    """

    def __init__(self) -> None:
        self._parts: dict[int, tuple[str, str, list[str]]] = {}

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, deltas: Iterable[Any] | None) -> None:
        """Take in the ``tool_calls`` of one delta, as dicts or as the SDK's objects."""
        for delta in deltas or ():
            fields = _fields(delta)
            function = _fields(fields.get("function") or {})
            index = fields.get("index")
            index = max(self._parts, default=0) if index is None else int(index)
            id, name, text = self._parts.get(index, ("", "", []))
            text.append(function.get("arguments") or "")
            # Some servers say id and name again in every delta.
            self._parts[index] = (id or fields.get("id") or "", name or function.get("name") or "", text)

    def read(self, finish_reason: str | None) -> list[ToolCall]:
        """The calls, in order of their index; the last is cut unless the reply ended by itself."""
        last = max(self._parts, default=None)
        return [
            ToolCall.read(index, id, name, "".join(text), cut=index == last and finish_reason not in WHOLE)
            for index, (id, name, text) in sorted(self._parts.items())
        ]


class ToolCallDeltas:
    """Deltas of one choice's tool calls, made as OpenAI sends them: each with an index, id and name said once.

    Old versions name a forced tool in every delta, with another id each time, and some gateways send no index.
    Frameworks add deltas up by their index, and would have a name many times over, or two calls in one.
    """

    def __init__(self) -> None:
        self._said: dict[int, dict[str, str]] = {}
        self._placed = ""  # the arguments so far of the last call, where deltas have no index

    def settle(self, delta: dict[str, Any]) -> str | None:
        """Change one delta accordingly; returns what it makes of its call if that can be no call."""
        function = delta["function"] = delta.get("function") or {}
        name, index = function.get("name"), delta.get("index")
        if index is None:
            index = delta["index"] = self._place(delta.get("id"), name, function.get("arguments") or "")
        own = self._said.setdefault(index, {})
        if name and own.get("name", name) != name:
            return f"two tools in one call: {own['name']} and {name}"
        for part, key in ((delta, "id"), (function, "name")):
            if key in own:
                part.pop(key, None)
            elif part.get(key):
                own[key] = part[key]
        return None

    def _place(self, id: str | None, name: str | None, arguments: str) -> int:
        """The call that a delta without an index is of: the last one, unless it begins another."""
        last = max(self._said, default=0)
        before = self._said.get(last, {})
        another = bool(name) and before.get("name", name) != name
        if not another and (before.get("id", id) != id if id else name and "id" not in before):
            another = _is_json(self._placed)  # nothing can follow it; else the server says the same call again
        self._placed = arguments if another else self._placed + arguments
        return last + another


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _fields(part: Any) -> Mapping[str, Any]:
    return part if isinstance(part, Mapping) else vars(part)
