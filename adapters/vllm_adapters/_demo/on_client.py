"""The tour without a framework: ``VLLMClient`` and ``VLLMServer``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from openai.types.chat import ChatCompletionMessage

from vllm_adapters._demo.jobs import CHOICES, WEATHER_TOOL, City, Column
from vllm_adapters._demo.tape import TapedServer


class OnClient(Column):
    """Chat is the SDK's own methods; vLLM's own endpoints are methods of the server."""

    title = "client"

    def _ask(self, server: TapedServer, prompt: str, **more: Any) -> ChatCompletionMessage:
        reply = server.client.chat.completions.create(
            model="", messages=[{"role": "user", "content": prompt}], temperature=0, **more
        )
        message: ChatCompletionMessage = reply.choices[0].message
        return message

    def chat(self, server: TapedServer, prompt: str) -> str:
        """See ``Column``, as for the others."""
        return self._ask(server, prompt).content or ""

    def stream(self, server: TapedServer, prompt: str) -> list[str]:
        """Deltas of a stream."""
        chunks = server.client.chat.completions.create(
            model="", messages=[{"role": "user", "content": prompt}], temperature=0, stream=True
        )
        with chunks:
            return [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]

    def reasoning(self, server: TapedServer, prompt: str) -> tuple[str, str]:
        """``message.reasoning``."""
        message = self._ask(server, prompt, extra_body={"chat_template_kwargs": {"enable_thinking": True}})
        return getattr(message, "reasoning", None) or "", message.content or ""

    def tool_calls(self, server: TapedServer, prompt: str) -> list[tuple[str, dict[str, Any]]]:
        """``message.tool_calls``."""
        calls = self._ask(server, prompt, tools=[WEATHER_TOOL]).tool_calls or []
        return [(c.function.name, json.loads(c.function.arguments)) for c in calls if c.type == "function"]

    def structured(self, server: TapedServer, prompt: str) -> tuple[str, object]:
        """The SDK's ``parse``."""
        reply = server.client.chat.completions.parse(
            model="", messages=[{"role": "user", "content": prompt}], temperature=0, response_format=City
        )
        return reply.choices[0].message.content or "", reply.choices[0].message.parsed

    def choose(self, server: TapedServer, prompt: str) -> str:
        """The SDK takes what is not OpenAI's in ``extra_body``."""
        extra = {"top_k": 1, "structured_outputs": {"choice": list(CHOICES)}}
        return self._ask(server, prompt, extra_body=extra).content or ""

    def embed(self, server: TapedServer, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """``server.embed``: one array."""
        vectors: list[list[float]] = server.embed(texts).tolist()
        return vectors

    def rerank(self, server: TapedServer, query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
        """``server.rerank``."""
        return [(ranked.index, ranked.score) for ranked in server.rerank(query, documents)]


COLUMN = OnClient()
