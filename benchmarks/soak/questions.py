"""What is asked, and what is right: learned from the servers themselves, past the proxy and without this package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np

from soak.ways import ASKED, QUERY, Left, Task

PROMPTS = (
    *(f"What is the capital of {country}?" for country in ("Japan", "France", "Italy", "Norway")),
    *("Hello", "Count to 5", "Say: the quick brown fox", "Say: yes"),
)
TEXTS = (
    "A cat sleeps on the sofa.",
    "The central bank raised interest rates.",
    "Tokyo is the capital city of Japan.",
    "Bread is baked from flour, water and salt.",
    "The train to Bergen was late again.",
    "Photosynthesis turns light into sugar.",
    "She scored the winning goal in the last minute.",
)
ALIKE = 0.999  # cosine: a server's batches differ in the last digits
NEAR = 0.01  # scores likewise


@dataclass(frozen=True)
class Right:
    """The right answers."""

    said: Mapping[str, str]
    tokens: Mapping[str, int]
    vectors: Mapping[str, np.ndarray[Any, Any]]
    scores: Mapping[str, float]

    @classmethod
    def learn(cls, talks: str, embeds: str) -> Right:
        """Ask each question of a server that chats and one that embeds, by their addresses without ``/v1``.

        Raises:
            ValueError: Two texts have the same vector: which is whose could not be told.
        """
        vectors = {text: np.array(_vector(embeds, text)) for text in TEXTS}
        if any(_cosine(vectors[a], vectors[b]) > ALIKE for a in TEXTS for b in TEXTS if a != b):
            raise ValueError(f"{embeds} gives different texts the same vector")
        ranked = _ask(embeds, "/v1/rerank", query=QUERY, documents=TEXTS)["results"]
        return cls(
            said={prompt: _reply(talks, prompt) for prompt in PROMPTS},
            tokens={prompt: _ask(talks, "/tokenize", prompt=prompt)["count"] for prompt in PROMPTS},
            vectors=vectors,
            scores={TEXTS[row["index"]]: row["relevance_score"] for row in ranked},
        )

    def draw(self, task: Task, chance: Random) -> Any:
        """Something to ask: a prompt, or some texts in any order."""
        if task in ("say", "count"):
            return chance.choice(PROMPTS)
        return chance.sample(TEXTS, chance.randint(1, len(TEXTS)))

    def agrees(self, task: Task, asked: Any, answer: Any) -> bool:
        """Whether the answer is right, for the very thing that was asked."""
        if isinstance(answer, Left):
            return task != "say" or self.said[asked].startswith(answer)
        match task:
            case "say":
                return bool(answer == self.said[asked])
            case "count":
                return bool(answer == self.tokens[asked])
            case "embed":
                return len(answer) == len(asked) and all(
                    _cosine(self.vectors[text], np.array(vector)) > ALIKE
                    for text, vector in zip(asked, answer, strict=True)
                )
            case "rank":
                given = [score for _, score in answer]
                return (
                    sorted(text for text, _ in answer) == sorted(asked)
                    and given == sorted(given, reverse=True)
                    and all(abs(score - self.scores[text]) < NEAR for text, score in answer)
                )


def _cosine(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def _ask(server: str, path: str, **body: Any) -> Any:
    url = server.rstrip("/").removesuffix("/v1") + path
    request = Request(url, json.dumps(body).encode() if body else None, {"content-type": "application/json"})
    with build_opener(ProxyHandler({})).open(request, timeout=60) as reply:
        return json.load(reply)


def _reply(server: str, prompt: str) -> str:
    model = _ask(server, "/v1/models")["data"][0]["id"]
    messages = [{"role": "user", "content": prompt}]
    reply = _ask(server, "/v1/chat/completions", model=model, messages=messages, **ASKED)
    return str(reply["choices"][0]["message"]["content"])


def _vector(server: str, text: str) -> list[float]:
    vector: list[float] = _ask(server, "/v1/embeddings", input=[text])["data"][0]["embedding"]
    return vector
