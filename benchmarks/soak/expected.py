"""The prompts and the expected answers, obtained from the servers without the proxy and without this package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np

from soak.paths import PARAMETERS, QUERY, Cancelled, Task

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
MIN_COSINE = 0.999  # vectors differ in the last digits between batches
MAX_DIFFERENCE = 0.01  # so do scores


@dataclass(frozen=True)
class Expected:
    """The expected answers."""

    replies: Mapping[str, str]
    tokens: Mapping[str, int]
    vectors: Mapping[str, np.ndarray[Any, Any]]
    scores: Mapping[str, float]

    @classmethod
    def from_servers(cls, chat_url: str, pooling_url: str) -> Expected:
        """Send every prompt and text to the servers.

        Args:
            chat_url: Address of the chat server.
            pooling_url: Address of the embedding server.

        Raises:
            ValueError: Two texts have the same vector, so mixed-up vectors would not be noticed.
        """
        vectors = {text: np.array(_vector(pooling_url, text)) for text in TEXTS}
        if any(_cosine(vectors[a], vectors[b]) > MIN_COSINE for a in TEXTS for b in TEXTS if a != b):
            raise ValueError(f"{pooling_url} returns the same vector for different texts. Use an embedding model.")
        ranked = _post(pooling_url, "/v1/rerank", query=QUERY, documents=TEXTS)["results"]
        return cls(
            replies={prompt: _reply(chat_url, prompt) for prompt in PROMPTS},
            tokens={prompt: _post(chat_url, "/tokenize", prompt=prompt)["count"] for prompt in PROMPTS},
            vectors=vectors,
            scores={TEXTS[row["index"]]: row["relevance_score"] for row in ranked},
        )

    def draw(self, task: Task, random: Random) -> Any:
        """Return a random argument: a prompt, or some texts in random order."""
        if task in ("say", "count"):
            return random.choice(PROMPTS)
        return random.sample(TEXTS, random.randint(1, len(TEXTS)))

    def matches(self, task: Task, argument: Any, answer: Any) -> bool:
        """Return whether the answer is correct for this argument."""
        if isinstance(answer, Cancelled):
            return task != "say" or self.replies[argument].startswith(answer)
        match task:
            case "say":
                return bool(answer == self.replies[argument])
            case "count":
                return bool(answer == self.tokens[argument])
            case "embed":
                return len(answer) == len(argument) and all(
                    _cosine(self.vectors[text], np.array(vector)) > MIN_COSINE
                    for text, vector in zip(argument, answer, strict=True)
                )
            case "rank":
                scores = [score for _, score in answer]
                return (
                    sorted(text for text, _ in answer) == sorted(argument)
                    and scores == sorted(scores, reverse=True)
                    and all(abs(score - self.scores[text]) < MAX_DIFFERENCE for text, score in answer)
                )


def _cosine(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def _post(server: str, path: str, **body: Any) -> Any:
    url = server.rstrip("/").removesuffix("/v1") + path
    request = Request(url, json.dumps(body).encode() if body else None, {"content-type": "application/json"})
    with build_opener(ProxyHandler({})).open(request, timeout=60) as reply:
        return json.load(reply)


def _reply(server: str, prompt: str) -> str:
    model = _post(server, "/v1/models")["data"][0]["id"]
    messages = [{"role": "user", "content": prompt}]
    reply = _post(server, "/v1/chat/completions", model=model, messages=messages, **PARAMETERS)
    return str(reply["choices"][0]["message"]["content"])


def _vector(server: str, text: str) -> list[float]:
    vector: list[float] = _post(server, "/v1/embeddings", input=[text])["data"][0]["embedding"]
    return vector
