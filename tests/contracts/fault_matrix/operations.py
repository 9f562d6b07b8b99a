"""The operations of the paths: what each one requests, and the right answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel

from vllm_adapters import Timeouts
from vllm_adapters.testing import Behaviour, payloads
from vllm_adapters.testing.faults import healthy, json_reply, sse

KEY = "sk-canary-of-the-fault-matrix"
TIMEOUTS: dict[str | None, Timeouts] = {
    "idle": Timeouts(connect=30, idle=5, total=30),
    "total": Timeouts(connect=30, idle=60, total=10),
    None: Timeouts(connect=30, idle=60, total=120),
}
"""Time limits by the one that must end the request; the others are long enough for a busy machine."""

_settings: ContextVar[dict[str, Any]] = ContextVar("settings")


def settings() -> dict[str, Any]:
    """Return the connection settings of the paths."""
    return _settings.get()


@contextmanager
def use_settings(timeout: Timeouts = TIMEOUTS[None], max_retries: int = 1) -> Iterator[None]:
    """Use these settings for all paths of this thread."""
    token = _settings.set({"api_key": KEY, "max_retries": max_retries, "timeout": timeout})
    try:
        yield
    finally:
        _settings.reset(token)


PROMPT = "Say it"
TEXT = "one two \N{GRINNING FACE} 三四 five\u2028six"
CALLS = (("delete_files", {"path": "/home/ü/\N{GRINNING FACE}"}), ("delete_files", {"path": "/tmp"}))
OBJECT = {"city": "Zürich \N{GRINNING FACE}", "n": 1}
CHOICES = [TEXT, "another text"]
TAG = {
    "structural_tag": json.dumps({"type": "structural_tag", "format": {"type": "const_string", "value": TEXT}}),
}
"""A constraint that some servers ignore: the text must be ``TEXT``."""
LIMIT = 512
"""Token limit of the operations that call tools."""
TEXTS = ("one", "two", "three")


class City(BaseModel):
    """The schema of structured output."""

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
    """The result of a path, in the same form for every framework.

    Attributes:
        value: Text, tuple of valid tool calls (name, arguments), object, list of vectors, or list of (index, score).
        broken: Raw arguments of the tool calls that are marked as broken.
        finish: The finish reason; ``None`` if the framework's method does not return it.
    """

    value: Any
    broken: tuple[str, ...] = ()
    finish: str | None = None


def _vectors() -> list[list[float]]:
    """Return the vectors of a healthy server."""
    return [payloads.vector(text) for text in TEXTS]


def _ranking() -> list[tuple[int, float]]:
    """Return the ranking of a healthy server."""
    return payloads.ranking(TEXTS)


@dataclass(frozen=True)
class Operation:
    """What a path requests.

    Args:
        task: ``say``, ``complete``, ``call``, ``object``, ``embed``, ``embed one``, ``rank``, ``score``, ``classify``,
            ``tokenize`` or ``count``; or, for the faults that only these can have, ``choose`` and ``complete choice``
            (one of several texts), ``force`` (a tool call), ``calm`` (thinking disabled) and ``harm`` (a constraint
            that stops a server).
        streamed: Whether the reply is streamed.
    """

    task: str
    streamed: bool = False

    @property
    def narrow(self) -> bool:
        """Whether the faults that any operation can have are left to the other operations."""
        return self.task in ("choose", "complete choice", "force", "calm", "harm")

    @property
    def refused(self) -> bool:
        """Whether it is refused before it is sent."""
        return self.task == "harm"

    @property
    def completes(self) -> bool:
        """Whether it is a text completion."""
        return self.task in ("complete", "complete choice")

    @property
    def calls(self) -> bool:
        """Whether the right answer is tool calls."""
        return self.task in ("call", "force")

    @property
    def generates(self) -> bool:
        """Whether the model generates text."""
        return self.narrow or self.task in ("say", "complete", "call", "object")

    @property
    def right(self) -> Answer:
        """The right answer."""
        values: dict[str, Any] = {
            "call": CALLS,
            "force": CALLS,
            "object": OBJECT,
            "embed": _vectors(),
            "embed one": _vectors()[0],
            "rank": _ranking(),
            "score": [payloads.relevance(text) for text in TEXTS],
            "classify": [("LABEL_0", [0.75, 0.25])] * len(TEXTS),
            "tokenize": payloads.tokenized(PROMPT)["tokens"],
            "count": payloads.tokenized(PROMPT)["count"],
        }
        finish = ("tool_calls" if self.calls else "stop") if self.generates else None
        return Answer(values.get(self.task, TEXT), finish=finish)

    def body(self, finish: str | None = None, **fields: Any) -> dict[str, Any]:
        """Return the body of a complete reply; ``fields`` replace ``content`` or ``tool_calls``."""
        if self.completes:
            return payloads.completion(fields.get("content", TEXT), finish_reason=finish or "stop")
        return payloads.chat(**self._message(finish, fields))

    def events(self, finish: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Return the chunks of a complete stream; the last one has the finish reason."""
        if self.completes:
            return payloads.completion_chunks(fields.get("content", TEXT), finish_reason=finish or "stop")
        return payloads.chat_chunks(**self._message(finish, fields))

    def _message(self, finish: str | None, fields: dict[str, Any]) -> dict[str, Any]:
        calls = [payloads.tool_call(name, json.dumps(args, ensure_ascii=False)) for name, args in CALLS]
        texts = {"call": None, "force": None, "object": json.dumps(OBJECT, ensure_ascii=False)}
        content = texts.get(self.task, TEXT)
        message = {"content": content, "tool_calls": calls if self.calls else (), **fields}
        return {**message, "finish_reason": finish or ("tool_calls" if message["tool_calls"] else "stop")}

    def reply(self, finish: str | None = None, **fields: Any) -> Behaviour:
        """Return the behaviour that sends a reply; ``fields`` replace ``content`` or ``tool_calls``."""
        if not self.generates:
            return healthy
        return sse(*self.events(finish, **fields)) if self.streamed else json_reply(self.body(finish, **fields))

    @property
    def healthy(self) -> Behaviour:
        """The behaviour that sends the right answer."""
        return self.reply()

    @property
    def data(self) -> bytes:
        """The bytes of the reply of a generating task."""
        blocks = [f"data: {_dump(event)}\n\n" for event in self.events()] if self.streamed else [_dump(self.body())]
        return "".join([*blocks, "data: [DONE]\n\n"] if self.streamed else blocks).encode()

    @property
    def content_type(self) -> str:
        """Content type of the reply."""
        return "text/event-stream" if self.streamed else "application/json"


def _dump(body: Any) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
