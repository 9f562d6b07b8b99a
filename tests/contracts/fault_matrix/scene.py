"""What every path asks, and what the right answer is: the healthy half of each cell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel

from vllm_adapters import Timeouts
from vllm_adapters.testing import Behaviour, payloads
from vllm_adapters.testing.faults import healthy, json_reply, sse

KEY = "sk-canary-of-the-fault-matrix"
SETTINGS: dict[str, Any] = {
    "api_key": KEY,
    "max_retries": 1,
    "timeout": Timeouts(connect=5, idle=3, total=10),
}
"""How every path is connected."""


@contextmanager
def retrying(times: int) -> Iterator[None]:
    """Connect all paths with another ``max_retries``."""
    before, SETTINGS["max_retries"] = SETTINGS["max_retries"], times
    try:
        yield
    finally:
        SETTINGS["max_retries"] = before


PROMPT = "Say it"
TEXT = "one two \N{GRINNING FACE} 三四 five\u2028six"
CALLS = (("delete_files", {"path": "/home/ü/\N{GRINNING FACE}"}), ("delete_files", {"path": "/tmp"}))
OBJECT = {"city": "Zürich \N{GRINNING FACE}", "n": 1}
TEXTS = ("one", "two", "three")


class City(BaseModel):
    """What objects are parsed into."""

    city: str
    n: int


TOOL = {
    "type": "function",
    "function": {
        "name": "delete_files",
        "description": "Delete all files under a path.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}


class Answer(NamedTuple):
    """What a path returned, in the same form for every framework.

    Attributes:
        value: text, tuple of whole tool calls (name, arguments), object, list of vectors, or list of (index, score).
        broken: arguments, as they came, of tool calls that are marked as broken.
        finish: the finish reason; None where the framework's method has no place for it.
    """

    value: Any
    broken: tuple[str, ...] = ()
    finish: str | None = None


def vectors() -> list[list[float]]:
    """The right vectors."""
    return [payloads.vector(text) for text in TEXTS]


def ranking() -> list[tuple[int, float]]:
    """The right ranking."""
    return payloads.ranking(TEXTS)


@dataclass(frozen=True)
class Scene:
    """What one path asks for, and the healthy server's words for it.

    Args:
        task: ``say``, ``complete``, ``call``, ``object``, or one of vLLM's others: ``embed``, ``embed one``, ``rank``,
            ``score``, ``classify``, ``tokenize``, ``count``.
        streamed: whether the reply is asked for as a stream.
    """

    task: str
    streamed: bool = False

    @property
    def generates(self) -> bool:
        """Whether the model writes something."""
        return self.task in ("say", "complete", "call", "object")

    @property
    def right(self) -> Answer:
        """The right answer."""
        values: dict[str, Any] = {
            "call": CALLS,
            "object": OBJECT,
            "embed": vectors(),
            "embed one": vectors()[0],
            "rank": ranking(),
            "score": [payloads.relevance(text) for text in TEXTS],
            "classify": [("LABEL_0", [0.75, 0.25])] * len(TEXTS),
            "tokenize": payloads.tokenized(PROMPT)["tokens"],
            "count": payloads.tokenized(PROMPT)["count"],
        }
        finish = ("tool_calls" if self.task == "call" else "stop") if self.generates else None
        return Answer(values.get(self.task, TEXT), finish=finish)

    def body(self, finish: str | None = None, **other: Any) -> dict[str, Any]:
        """The whole reply; ``other`` replaces ``content`` or ``tool_calls``."""
        if self.task == "complete":
            return payloads.completion(other.get("content", TEXT), finish_reason=finish or "stop")
        return payloads.chat(**self._words(finish, other))

    def events(self, finish: str | None = None, **other: Any) -> list[dict[str, Any]]:
        """The chunks of the whole stream, the finish reason in the last."""
        if self.task == "complete":
            return payloads.completion_chunks(other.get("content", TEXT), finish_reason=finish or "stop")
        return payloads.chat_chunks(**self._words(finish, other))

    def _words(self, finish: str | None, other: dict[str, Any]) -> dict[str, Any]:
        calls = [payloads.tool_call(name, json.dumps(given, ensure_ascii=False)) for name, given in CALLS]
        content = {"call": None, "object": json.dumps(OBJECT, ensure_ascii=False)}.get(self.task, TEXT)
        words = {"content": content, "tool_calls": calls if self.task == "call" else (), **other}
        return {**words, "finish_reason": finish or ("tool_calls" if words["tool_calls"] else "stop")}

    def reply(self, finish: str | None = None, **other: Any) -> Behaviour:
        """Answers, healthily."""
        if not self.generates:
            return healthy
        return sse(*self.events(finish, **other)) if self.streamed else json_reply(self.body(finish, **other))

    @property
    def whole(self) -> Behaviour:
        """Answers rightly."""
        return self.reply()

    @property
    def data(self) -> bytes:
        """The reply's bytes, of a generating task."""
        blocks = [f"data: {_dump(event)}\n\n" for event in self.events()] if self.streamed else [_dump(self.body())]
        return "".join([*blocks, "data: [DONE]\n\n"] if self.streamed else blocks).encode()

    @property
    def content_type(self) -> str:
        """Of the reply."""
        return "text/event-stream" if self.streamed else "application/json"


def _dump(body: Any) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
