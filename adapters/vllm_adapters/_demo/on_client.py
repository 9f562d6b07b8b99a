"""The demo without a framework: ``VLLMClient`` and ``VLLMServer``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from openai.types.chat import ChatCompletionMessage

from vllm_adapters._demo.recording_client import RecordingServer
from vllm_adapters._demo.scenarios import CHOICES, WEATHER_TOOL, City, FrameworkDemo


class ClientDemo(FrameworkDemo):
    """Uses the SDK's methods of the client, and the server's methods for vLLM's own endpoints."""

    title = "client"
    supports = frozenset(
        {"chat", "stream", "reasoning", "tool call", "structured output", "parameters", "embeddings", "rerank"}
    )

    def _create(self, server: RecordingServer, prompt: str, **parameters: Any) -> ChatCompletionMessage:
        reply = server.client.chat.completions.create(
            model="", messages=[{"role": "user", "content": prompt}], temperature=0, **parameters
        )
        message: ChatCompletionMessage = reply.choices[0].message
        return message

    def chat(self, server: RecordingServer, prompt: str) -> str:
        """``chat.completions.create``."""
        return self._create(server, prompt).content or ""

    def stream(self, server: RecordingServer, prompt: str) -> list[str]:
        """``create(stream=True)``."""
        chunks = server.client.chat.completions.create(
            model="", messages=[{"role": "user", "content": prompt}], temperature=0, stream=True
        )
        with chunks:
            return [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]

    def reasoning(self, server: RecordingServer, prompt: str) -> tuple[str, str]:
        """``message.reasoning``."""
        message = self._create(server, prompt, extra_body={"chat_template_kwargs": {"enable_thinking": True}})
        return getattr(message, "reasoning", None) or "", message.content or ""

    def tool_calls(self, server: RecordingServer, prompt: str) -> list[tuple[str, dict[str, Any]]]:
        """``message.tool_calls``."""
        calls = self._create(server, prompt, tools=[WEATHER_TOOL]).tool_calls or []
        return [(c.function.name, json.loads(c.function.arguments)) for c in calls if c.type == "function"]

    def structured(self, server: RecordingServer, prompt: str) -> tuple[str, object]:
        """``chat.completions.parse``."""
        reply = server.client.chat.completions.parse(
            model="", messages=[{"role": "user", "content": prompt}], temperature=0, response_format=City
        )
        return reply.choices[0].message.content or "", reply.choices[0].message.parsed

    def choose(self, server: RecordingServer, prompt: str) -> str:
        """``extra_body``, which holds parameters that OpenAI does not have."""
        extra = {"top_k": 1, "structured_outputs": {"choice": list(CHOICES)}}
        return self._create(server, prompt, extra_body=extra).content or ""

    def embed(self, server: RecordingServer, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """``server.embed``."""
        vectors: list[list[float]] = server.embed(texts).tolist()
        return vectors

    def rerank(self, server: RecordingServer, query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
        """``server.rerank``."""
        return [(ranked.index, ranked.score) for ranked in server.rerank(query, documents)]


DEMO = ClientDemo()
