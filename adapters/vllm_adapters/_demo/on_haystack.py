"""The demo of Haystack: ``VLLMChatGenerator``, ``VLLMDocumentEmbedder``, ``VLLMRanker``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from haystack import Document
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.tools.tool import Tool

from vllm_adapters._demo.recording_client import RecordingServer
from vllm_adapters._demo.scenarios import CHOICES, WEATHER_TOOL, City, FrameworkDemo
from vllm_adapters.haystack import VLLMChatGenerator, VLLMDocumentEmbedder, VLLMRanker

_WEATHER: dict[str, Any] = WEATHER_TOOL["function"]


def _sunny(city: str) -> str:
    return f"sunny in {city}"


class HaystackDemo(FrameworkDemo):
    """Uses each component's ``run``, with ``generation_kwargs``, callbacks and tools."""

    title = "Haystack"
    supports = frozenset(
        {"chat", "stream", "reasoning", "tool call", "structured output", "parameters", "embeddings", "rerank"}
    )

    def _reply(self, server: RecordingServer, prompt: str, **inputs: Any) -> ChatMessage:
        llm = VLLMChatGenerator(server=server, generation_kwargs={"temperature": 0})
        reply: ChatMessage = llm.run(prompt, **inputs)["replies"][0]
        return reply

    def chat(self, server: RecordingServer, prompt: str) -> str:
        """``run``."""
        return self._reply(server, prompt).text or ""

    def stream(self, server: RecordingServer, prompt: str) -> list[str]:
        """``streaming_callback``."""
        chunks: list[StreamingChunk] = []
        self._reply(server, prompt, streaming_callback=chunks.append)
        return [chunk.content for chunk in chunks]

    def reasoning(self, server: RecordingServer, prompt: str) -> tuple[str, str]:
        """``ReasoningContent``."""
        reply = self._reply(server, prompt, generation_kwargs={"chat_template_kwargs": {"enable_thinking": True}})
        return reply.reasoning.reasoning_text if reply.reasoning else "", reply.text or ""

    def tool_calls(self, server: RecordingServer, prompt: str) -> list[tuple[str, dict[str, Any]]]:
        """``tools``."""
        tool = Tool(_WEATHER["name"], _WEATHER["description"], _WEATHER["parameters"], function=_sunny)
        return [(call.tool_name, call.arguments) for call in self._reply(server, prompt, tools=[tool]).tool_calls]

    def structured(self, server: RecordingServer, prompt: str) -> tuple[str, object]:
        """``response_format``."""
        text = self._reply(server, prompt, generation_kwargs={"response_format": City}).text or ""
        return text, City.model_validate_json(text)

    def choose(self, server: RecordingServer, prompt: str) -> str:
        """A parameter of the constructor and one of ``run``."""
        llm = VLLMChatGenerator(server=server, generation_kwargs={"temperature": 0, "top_k": 1})
        parameters = {"structured_outputs": {"choice": list(CHOICES)}}
        return str(llm.run(prompt, generation_kwargs=parameters)["replies"][0].text)

    def embed(self, server: RecordingServer, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """``VLLMDocumentEmbedder``."""
        documents = [Document(content=text) for text in texts]
        result = VLLMDocumentEmbedder(server=server, progress_bar=False, raise_on_failure=True).run(documents)
        return [document.embedding or [] for document in result["documents"]]

    def rerank(self, server: RecordingServer, query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
        """``VLLMRanker``."""
        candidates = [Document(content=text, meta={"index": index}) for index, text in enumerate(documents)]
        ranked: list[Document] = VLLMRanker(server=server).run(query, candidates)["documents"]
        return [(int(document.meta["index"]), document.score or 0.0) for document in ranked]


DEMO = HaystackDemo()
