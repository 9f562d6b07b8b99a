"""Tool calls of a reply: parsed, or marked as invalid. Nothing is repaired.

A call that a token limit has truncated may parse as JSON once brackets are closed for it, with a shorter path or a
smaller number than the model was about to write. Frameworks get each call with the reason why it is invalid.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

from vllm_adapters.types import ToolCall

COMPLETE = frozenset({"stop", "tool_calls", "function_call", None})
"""Finish reasons of replies that ended by themselves; others (``length``, ``abort``, ...) truncate the last call."""
_TRUNCATED = "The reply was truncated while this call was being generated"


def parse_tool_call(
    index: int, id: str | None, name: str | None, arguments: str | None, *, truncated: bool = False
) -> ToolCall:
    """Parse one tool call.

    Args:
        index: Its position among the tool calls of the reply.
        id: The server's id.
        name: The tool's name.
        arguments: Its arguments as JSON; empty stands for none.
        truncated: Whether the reply ended while this call was being generated.
    """
    parsed: Any = None
    error = None
    raw = arguments or ""
    if truncated:
        return ToolCall(index, id or "", name or "", raw, None, _TRUNCATED)
    try:
        parsed = json.loads(raw, parse_constant=_reject_constant) if raw.strip() else {}
    except (ValueError, RecursionError) as reason:  # a model that repeats itself opens brackets without end
        error = f"The arguments are not JSON ({reason})"
    if error is None and not isinstance(parsed, dict):
        error = f"The arguments must be a JSON object, not {type(parsed).__name__}"
    elif not name:
        error = "The call has no tool name"
    return ToolCall(index, id or "", name or "", raw, None if error else parsed, error)


def parse_tool_calls(calls: Iterable[Any] | None, finish_reason: str | None) -> list[ToolCall]:
    """Parse the tool calls of a complete message.

    Args:
        calls: ``tool_calls`` of the message, as dicts or as the SDK's objects.
        finish_reason: The choice's; it tells whether the last call was truncated.
    """
    accumulator = ToolCallAccumulator()
    accumulator.add({**_fields(call), "index": index} for index, call in enumerate(calls or ()))
    return accumulator.parse(finish_reason)


class Called(NamedTuple):
    """One tool call of a finished reply: the tool's name, and whether it has a byte of arguments."""

    name: str
    has_arguments: bool


class ToolCallAccumulator:
    """Tool calls of a stream, accumulated by their index.

    >>> from vllm_adapters._response.tool_calls import ToolCallAccumulator
    >>> calls = ToolCallAccumulator()
    >>> calls.add([{"index": 0, "id": "a", "function": {"name": "add", "arguments": '{"x": '}}])
    >>> calls.add([{"index": 0, "function": {"arguments": "1}"}}])
    >>> calls.parse("tool_calls")[0].arguments
    {'x': 1}
    """

    def __init__(self) -> None:
        self._parts: dict[int, tuple[str, str, list[str]]] = {}

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, deltas: Iterable[Any] | None) -> None:
        """Add the ``tool_calls`` of one delta, as dicts or as the SDK's objects."""
        for delta in deltas or ():
            fields = _fields(delta)
            function = _fields(fields.get("function") or {})
            index = fields.get("index")
            index = max(self._parts, default=0) if index is None else int(index)
            id, name, arguments = self._parts.get(index, ("", "", []))
            arguments.append(function.get("arguments") or "")
            # Some servers repeat id and name in every delta.
            self._parts[index] = (id or fields.get("id") or "", name or function.get("name") or "", arguments)

    def parse(self, finish_reason: str | None) -> list[ToolCall]:
        """Return the calls in order of their index; the last is truncated unless the reply ended by itself."""
        last = max(self._parts, default=None)
        return [
            parse_tool_call(index, id, name, "".join(parts), truncated=index == last and finish_reason not in COMPLETE)
            for index, (id, name, parts) in sorted(self._parts.items())
        ]


class ToolCallDeltas:
    """Normalizes the tool-call deltas of one choice to OpenAI's form: each has an index, id and name come once.

    Old versions name a forced tool in every delta, with another id each time, and some gateways send no index.
    Frameworks accumulate deltas by their index, and would get a name many times over, or two calls in one.
    """

    def __init__(self) -> None:
        self._first: dict[int, dict[str, str]] = {}  # id and name of each call
        self._begun: set[int] = set()  # calls with a byte of arguments
        self._unindexed = ""  # arguments so far of the last call, where deltas have no index

    def normalize(self, delta: dict[str, Any]) -> str | None:
        """Change one delta in place.

        Returns:
            What makes its call malformed, or ``None``.
        """
        function = delta["function"] = delta.get("function") or {}
        name, index = function.get("name"), delta.get("index")
        if index is None:
            index = delta["index"] = self._infer_index(delta.get("id"), name, function.get("arguments") or "")
        first = self._first.setdefault(index, {})
        if index not in self._begun and (function.get("arguments") or "").strip():
            self._begun.add(index)
        if name and first.get("name", name) != name:
            return f"two tools in one call: {first['name']} and {name}"
        for part, key in ((delta, "id"), (function, "name")):
            if key in first:
                part.pop(key, None)
            elif part.get(key):
                first[key] = part[key]
        return None

    def called(self) -> list[Called]:
        """Return the calls so far, in order of their index."""
        return [Called(first.get("name", ""), index in self._begun) for index, first in sorted(self._first.items())]

    def _infer_index(self, id: str | None, name: str | None, arguments: str) -> int:
        """Return the index for a delta without one: the last call's, unless the delta begins another call."""
        last = max(self._first, default=0)
        before = self._first.get(last, {})
        another = bool(name) and before.get("name", name) != name
        if not another and (before.get("id", id) != id if id else name and "id" not in before):
            another = _is_json(self._unindexed)  # nothing can follow it; else the server repeats the same call
        self._unindexed = arguments if another else self._unindexed + arguments
        return last + another


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not valid JSON")


def _fields(part: Any) -> Mapping[str, Any]:
    return part if isinstance(part, Mapping) else vars(part)
