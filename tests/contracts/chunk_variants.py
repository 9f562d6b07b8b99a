"""Streams of a reply in other pieces than the server's, for tests that compare what is made of them."""

from __future__ import annotations

from typing import Any

from vllm_adapters.testing import payloads

CALLS = [
    payloads.tool_call("f", '{"city": "Rome", "days": [1, {"a": "}"}]}'),
    payloads.tool_call("g", '{"x": 17, "y": null, "z": "{"}'),
]
"""Two tool calls, whose arguments are objects at any depth."""


def with_reasoning(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the chunks of a reply with three of reasoning before its text."""
    reasoning = [payloads.chunk({"reasoning": text}) for text in ("Let ", "me ", "think.")]
    return [chunks[0], *({**chunk, "id": chunks[0]["id"]} for chunk in reasoning), *chunks[1:]]


def in_pieces(chunks: list[dict[str, Any]], size: int = 3) -> list[dict[str, Any]]:
    """Return the chunks of a reply with the arguments of its tool calls in pieces of ``size`` characters."""
    found = []
    for chunk in chunks:
        delta = chunk["choices"][0]["delta"] if chunk["choices"] else {}
        [call] = delta.get("tool_calls") or [{"function": {}}]
        text = call["function"].get("arguments") or ""
        for start in range(0, len(text), size):
            function = {"arguments": text[start : start + size]}
            part = {"delta": {"tool_calls": [{"index": call["index"], "function": function}]}}
            found.append({**chunk, "choices": [{**chunk["choices"][0], **part}]})
        found += [] if text else [chunk]
    return found
