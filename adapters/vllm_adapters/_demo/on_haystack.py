"""The tour through Haystack: its components on vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from haystack import Document
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.tools.tool import Tool

from vllm_adapters._demo.jobs import CHOICES, WEATHER_TOOL, City, Column
from vllm_adapters._demo.tape import TapedServer
from vllm_adapters.haystack import VLLMChatGenerator, VLLMDocumentEmbedder, VLLMRanker

_WEATHER: dict[str, Any] = WEATHER_TOOL["function"]


def _sunny(city: str) -> str:
    return f"sunny in {city}"


class OnHaystack(Column):
    """Haystack's own calls: ``run`` of each component, with ``generation_kwargs``, callbacks and tools."""

    title = "Haystack"

    def _reply(self, server: TapedServer, prompt: str, **inputs: Any) -> ChatMessage:
        llm = VLLMChatGenerator(server=server, generation_kwargs={"temperature": 0})
        reply: ChatMessage = llm.run(prompt, **inputs)["replies"][0]
        return reply

    def chat(self, server: TapedServer, prompt: str) -> str:
        """See ``Column``, as for the others."""
        return self._reply(server, prompt).text or ""

    def stream(self, server: TapedServer, prompt: str) -> list[str]:
        """A streaming callback."""
        chunks: list[StreamingChunk] = []
        self._reply(server, prompt, streaming_callback=chunks.append)
        return [chunk.content for chunk in chunks]

    def reasoning(self, server: TapedServer, prompt: str) -> tuple[str, str]:
        """``ReasoningContent``."""
        reply = self._reply(server, prompt, generation_kwargs={"chat_template_kwargs": {"enable_thinking": True}})
        return reply.reasoning.reasoning_text if reply.reasoning else "", reply.text or ""

    def tool_calls(self, server: TapedServer, prompt: str) -> list[tuple[str, dict[str, Any]]]:
        """Haystack's own ``Tool``."""
        tool = Tool(_WEATHER["name"], _WEATHER["description"], _WEATHER["parameters"], function=_sunny)
        return [(call.tool_name, call.arguments) for call in self._reply(server, prompt, tools=[tool]).tool_calls]

    def structured(self, server: TapedServer, prompt: str) -> tuple[str, object]:
        """``response_format``."""
        text = self._reply(server, prompt, generation_kwargs={"response_format": City}).text or ""
        return text, City.model_validate_json(text)

    def choose(self, server: TapedServer, prompt: str) -> str:
        """One parameter of the constructor, one of the run."""
        llm = VLLMChatGenerator(server=server, generation_kwargs={"temperature": 0, "top_k": 1})
        chosen = {"structured_outputs": {"choice": list(CHOICES)}}
        return str(llm.run(prompt, generation_kwargs=chosen)["replies"][0].text)

    def embed(self, server: TapedServer, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Documents with their embeddings."""
        documents = [Document(content=text) for text in texts]
        found = VLLMDocumentEmbedder(server=server, progress_bar=False, raise_on_failure=True).run(documents)
        return [document.embedding or [] for document in found["documents"]]

    def rerank(self, server: TapedServer, query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
        """Documents with their scores."""
        asked = [Document(content=text, meta={"place": place}) for place, text in enumerate(documents)]
        ranked: list[Document] = VLLMRanker(server=server).run(query, asked)["documents"]
        return [(int(document.meta["place"]), document.score or 0.0) for document in ranked]


COLUMN = OnHaystack()
