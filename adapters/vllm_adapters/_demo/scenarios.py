"""The scenarios of the demo: the prompts, and the checks of the answers. Each framework sends them in its own way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel

from vllm_adapters._demo.recording_client import RecordingServer

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


class ScenarioSkipped(Exception):
    """The scenario has no result, which is not a failure; the message says why."""


class WrongAnswer(Exception):
    """The server answered, but the answer is not what the scenario expects."""


class FrameworkDemo:
    """Runs the scenarios through one framework. Subclasses implement the methods of the scenarios they support."""

    title: ClassVar[str]
    """Name of the framework in the demo's output."""

    supports: ClassVar[frozenset[str]]
    """Names of the supported scenarios. One without an implementation fails; any other is shown as "—"."""

    def chat(self, server: RecordingServer, prompt: str) -> str:
        """Return the text of the reply."""
        raise NotImplementedError

    def stream(self, server: RecordingServer, prompt: str) -> list[str]:
        """Return the text of a streamed reply, as the list of its chunks."""
        raise NotImplementedError

    def reasoning(self, server: RecordingServer, prompt: str) -> tuple[str, str]:
        """Send the parameter ``enable_thinking``; return the reasoning and the text of the reply."""
        raise NotImplementedError

    def tool_calls(self, server: RecordingServer, prompt: str) -> list[tuple[str, dict[str, Any]]]:
        """Offer ``WEATHER_TOOL``; return name and arguments of each tool call."""
        raise NotImplementedError

    def structured(self, server: RecordingServer, prompt: str) -> tuple[str, object]:
        """Return the text of the reply, and the ``City`` parsed from it."""
        raise NotImplementedError

    def choose(self, server: RecordingServer, prompt: str) -> str:
        """Send ``top_k=1`` and constrain the reply to one of ``CHOICES``; return the text of the reply."""
        raise NotImplementedError

    def embed(self, server: RecordingServer, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Return one vector per text."""
        raise NotImplementedError

    def rerank(self, server: RecordingServer, query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
        """Return index and score of each document, best first."""
        raise NotImplementedError


@dataclass(frozen=True)
class Scenario:
    """One row of the demo's table.

    Args:
        name: Name of the scenario.
        task: What the server must support, as named in ``Capabilities.tasks``.
        method: Method of ``FrameworkDemo`` that the scenario calls.
        run: Runs the scenario through a framework, checks the answer, and returns a summary of it. The last argument
            tells whether the server runs the model bundled for the demo: then the exact answer is known, otherwise
            only its form.
    """

    name: str
    task: str
    method: str
    run: Callable[[FrameworkDemo, RecordingServer, bool], str]


def expect(condition: object, problem: str) -> None:
    """Raise ``WrongAnswer`` with ``problem`` unless ``condition`` is true."""
    if not condition:
        raise WrongAnswer(problem)


def _chat(demo: FrameworkDemo, server: RecordingServer, known: bool) -> str:
    text = demo.chat(server, CAPITAL).strip()
    expect(text, "empty reply")
    expect("Tokyo" in text or not known, f"the capital of Japan is missing in {text!r}")
    return text


def _stream(demo: FrameworkDemo, server: RecordingServer, known: bool) -> str:
    chunks = [chunk for chunk in demo.stream(server, CAPITAL) if chunk]
    expect(chunks, "empty stream")
    expect("Tokyo" in "".join(chunks) or not known, f"the capital of Japan is missing in {chunks!r}")
    expect(len(chunks) > 1 or not known, f"the stream has a single chunk: {chunks!r}")
    return f"{len(chunks)} chunks"


def _reasoning(demo: FrameworkDemo, server: RecordingServer, known: bool) -> str:
    reasoning, text = demo.reasoning(server, CAPITAL)
    if not reasoning.strip() and not known:
        raise ScenarioSkipped("no reasoning")
    expect(reasoning.strip(), f"no reasoning, only the reply {text!r}")
    expect(text.strip(), f"no reply, only the reasoning {reasoning!r}")
    return f"reasoning: {reasoning.strip()}"


def _tool_call(demo: FrameworkDemo, server: RecordingServer, known: bool) -> str:
    calls = demo.tool_calls(server, WEATHER)
    if not calls and not known:
        raise ScenarioSkipped("no tool call")
    expect(calls, "no tool call")
    for name, arguments in calls:
        valid = name == "get_weather" and isinstance(arguments.get("city"), str)
        expect(valid, f"invalid tool call: {name} {arguments}")
    cities = [str(arguments["city"]) for _, arguments in calls]
    expect(cities == ["Rome", "Oslo"] or not known, f"tool calls for {cities} instead of Rome and Oslo")
    return f"get_weather: {', '.join(cities)}"


def _structured(demo: FrameworkDemo, server: RecordingServer, known: bool) -> str:
    text, parsed = demo.structured(server, ROME)
    expect(isinstance(parsed, City), f"not a City: {parsed!r}")
    expect(parsed == City.model_validate_json(text), f"{parsed!r} differs from the reply {text!r}")
    expect(parsed == City(city="Rome", n=1) or not known, f"wrong city: {parsed!r}")
    return repr(parsed)


def _parameters(demo: FrameworkDemo, server: RecordingServer, known: bool) -> str:
    text = demo.choose(server, DRINK)
    expect(text in CHOICES, f"{text!r} is not one of {CHOICES}")
    expect(server.sent[-1].get("top_k") == 1, f"top_k=1 was not sent: {server.sent[-1]}")
    return repr(text)


def _embeddings(demo: FrameworkDemo, server: RecordingServer, known: bool) -> str:
    vectors = demo.embed(server, TEXTS)
    sizes = {len(vector) for vector in vectors}
    expect(len(vectors) == len(TEXTS) and len(sizes) == 1, f"{len(vectors)} vectors of {sizes} dimensions")
    expect(all(math.isfinite(x) for vector in vectors for x in vector), "vectors with NaN or infinity")
    similar, different = _cosine(vectors[0], vectors[1]), _cosine(vectors[0], vectors[2])
    expect(
        similar > different or not known,
        f"the text about a cat is closer to the one about a bank ({different:.2f}) than to a kitten ({similar:.2f})",
    )
    return f"{len(vectors)} x {sizes.pop()}"


def _rerank(demo: FrameworkDemo, server: RecordingServer, known: bool) -> str:
    ranking = demo.rerank(server, QUESTION, DOCUMENTS)
    scores = [score for _, score in ranking]
    expect(sorted(index for index, _ in ranking) == [0, 1, 2], f"not a ranking of three documents: {ranking}")
    expect(scores == sorted(scores, reverse=True), f"scores are not in descending order: {scores}")
    expect(ranking[0][0] == 1 or not known, f"the wrong document is first: {ranking}")
    return f"{DOCUMENTS[ranking[0][0]].split()[0]} first, {scores[0]:.2f}"


def _cosine(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True)) / math.hypot(*left) / math.hypot(*right)


SCENARIOS = (
    Scenario("chat", "chat", "chat", _chat),
    Scenario("stream", "chat", "stream", _stream),
    Scenario("reasoning", "chat", "reasoning", _reasoning),
    Scenario("tool call", "chat", "tool_calls", _tool_call),
    Scenario("structured output", "chat", "structured", _structured),
    Scenario("parameters", "chat", "choose", _parameters),
    Scenario("embeddings", "embeddings", "embed", _embeddings),
    Scenario("rerank", "rerank", "rerank", _rerank),
)
SHOWN = "parameters"
"""The scenario whose request and reply are printed; its request has several of vLLM's own parameters."""
