"""What is asked on the tour, and what makes an answer right. How it is asked is each room's own: ``Column``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel

from vllm_adapters._demo.tape import TapedServer

CAPITAL = "What is the capital of Japan?"
WEATHER = "What is the weather in Rome and Oslo?"
ROME = "Give me Rome as json"
DRINK = "Tea or coffee?"
CHOICES = ("tea", "coffee")
TEXTS = ("A cat sleeps on the sofa.", "A kitten naps on the couch.", "The central bank raised interest rates.")
QUESTION = "Which city is the capital of Japan?"
DOCUMENTS = ("Bread is baked from flour.", "Tokyo is the capital city of Japan.", "The train was late again.")

WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class City(BaseModel):
    """A city."""

    city: str
    n: int


class NotThere(Exception):
    """There is nothing to do in this cell, which is no failure; the text is what the cell says."""


class WrongAnswer(Exception):
    """The server answered, but not what the job asks for."""


class Column:
    """How one room does the jobs. Rooms override what they have; the rest of their column says "—"."""

    title: ClassVar[str]

    def chat(self, server: TapedServer, prompt: str) -> str:
        """The reply's text."""
        raise NotThere("—")

    def stream(self, server: TapedServer, prompt: str) -> list[str]:
        """The reply's text, in the pieces in which it came."""
        raise NotThere("—")

    def reasoning(self, server: TapedServer, prompt: str) -> tuple[str, str]:
        """The model's thinking, asked for with ``enable_thinking``, and the reply's text."""
        raise NotThere("—")

    def tool_calls(self, server: TapedServer, prompt: str) -> list[tuple[str, dict[str, Any]]]:
        """Name and arguments of each call, with ``WEATHER_TOOL`` on offer."""
        raise NotThere("—")

    def structured(self, server: TapedServer, prompt: str) -> tuple[str, object]:
        """The reply's text, and the ``City`` made of it."""
        raise NotThere("—")

    def choose(self, server: TapedServer, prompt: str) -> str:
        """The reply's text, with ``top_k=1`` and bound to be one of ``CHOICES``."""
        raise NotThere("—")

    def embed(self, server: TapedServer, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector a text."""
        raise NotThere("—")

    def rerank(self, server: TapedServer, query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
        """Index and score of each document, best first."""
        raise NotThere("—")


@dataclass(frozen=True)
class Job:
    """One row of the tour.

    Args:
        title: The row's name.
        task: What the server must offer, by the names of ``Capabilities.tasks``.
        do: Ask a column, check the answer, and return what the cell says of it. Its last argument tells whether
            the server runs the model bundled for the tour: then the words are known, else only the shape is.
    """

    title: str
    task: str
    do: Callable[[Column, TapedServer, bool], str]


def expect(right: object, wrong: str) -> None:
    """Raise ``WrongAnswer``, saying what is wrong, unless the answer is right."""
    if not right:
        raise WrongAnswer(wrong)


def _chat(column: Column, server: TapedServer, known: bool) -> str:
    text = column.chat(server, CAPITAL).strip()
    expect(text, "an empty reply")
    expect("Tokyo" in text or not known, f"the capital of Japan is not in {text!r}")
    return text


def _stream(column: Column, server: TapedServer, known: bool) -> str:
    pieces = [piece for piece in column.stream(server, CAPITAL) if piece]
    expect(pieces, "an empty stream")
    expect("Tokyo" in "".join(pieces) or not known, f"the capital of Japan is not in {pieces!r}")
    expect(len(pieces) > 1 or not known, f"a stream in one piece: {pieces!r}")
    return f"{len(pieces)} pieces"


def _reasoning(column: Column, server: TapedServer, known: bool) -> str:
    thought, text = column.reasoning(server, CAPITAL)
    if not thought.strip() and not known:
        raise NotThere("the model did not think")
    expect(thought.strip(), f"no reasoning, only {text!r}")
    expect(text.strip(), f"no reply, only reasoning: {thought!r}")
    return f"thought: {thought.strip()}"


def _tool_call(column: Column, server: TapedServer, known: bool) -> str:
    calls = column.tool_calls(server, WEATHER)
    if not calls and not known:
        raise NotThere("the model called no tool")
    expect(calls, "no tool call")
    for name, arguments in calls:
        expect(name == "get_weather" and isinstance(arguments.get("city"), str), f"a wrong call: {name} {arguments}")
    cities = [str(arguments["city"]) for _, arguments in calls]
    expect(cities == ["Rome", "Oslo"] or not known, f"calls for {cities}")
    return f"get_weather: {', '.join(cities)}"


def _structured(column: Column, server: TapedServer, known: bool) -> str:
    text, made = column.structured(server, ROME)
    expect(isinstance(made, City), f"not a City: {made!r}")
    expect(made == City.model_validate_json(text), f"{made!r} is not what {text!r} says")
    expect(made == City(city="Rome", n=1) or not known, f"another city: {made!r}")
    return repr(made)


def _parameters(column: Column, server: TapedServer, known: bool) -> str:
    text = column.choose(server, DRINK)
    expect(text in CHOICES, f"{text!r} is not one of {CHOICES}")
    expect(server.sent[-1].get("top_k") == 1, f"top_k=1 was not sent: {server.sent[-1]}")
    return repr(text)


def _embeddings(column: Column, server: TapedServer, known: bool) -> str:
    vectors = column.embed(server, TEXTS)
    sizes = {len(vector) for vector in vectors}
    expect(len(vectors) == len(TEXTS) and len(sizes) == 1, f"{len(vectors)} vectors of {sizes} dimensions")
    expect(all(math.isfinite(x) for vector in vectors for x in vector), "vectors that hold NaN or infinity")
    alike, unlike = _cosine(vectors[0], vectors[1]), _cosine(vectors[0], vectors[2])
    expect(alike > unlike or not known, f"a cat is closer to a bank ({unlike:.2f}) than to a kitten ({alike:.2f})")
    return f"{len(vectors)} x {sizes.pop()}"


def _rerank(column: Column, server: TapedServer, known: bool) -> str:
    ranking = column.rerank(server, QUESTION, DOCUMENTS)
    scores = [score for _, score in ranking]
    expect(sorted(index for index, _ in ranking) == [0, 1, 2], f"not a ranking of three documents: {ranking}")
    expect(scores == sorted(scores, reverse=True), f"scores that do not fall: {scores}")
    expect(ranking[0][0] == 1 or not known, f"the wrong document is best: {ranking}")
    return f"{DOCUMENTS[ranking[0][0]].split()[0]} first, {scores[0]:.2f}"


def _cosine(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True)) / math.hypot(*left) / math.hypot(*right)


JOBS = (
    Job("chat", "chat", _chat),
    Job("stream", "chat", _stream),
    Job("reasoning", "chat", _reasoning),
    Job("tool call", "chat", _tool_call),
    Job("structured output", "chat", _structured),
    Job("parameters", "chat", _parameters),
    Job("embeddings", "embeddings", _embeddings),
    Job("rerank", "rerank", _rerank),
)
SHOWN = "parameters"
"""The job of which the tour shows what was sent and what was answered: everything that is vLLM's own is in it."""
