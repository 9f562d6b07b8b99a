"""The demo of LangChain: ``ChatVLLM``, ``VLLMEmbeddings``, ``VLLMRerank``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import AIMessage

from vllm_adapters._demo.recording_client import RecordingServer
from vllm_adapters._demo.scenarios import CHOICES, WEATHER_TOOL, City, FrameworkDemo
from vllm_adapters.langchain import ChatVLLM, VLLMEmbeddings, VLLMRerank


class LangChainDemo(FrameworkDemo):
    """Uses LangChain's ``invoke``, ``stream``, ``bind_tools``, ``with_structured_output`` and ``bind``."""

    title = "LangChain"
    supports = frozenset(
        {"chat", "stream", "reasoning", "tool call", "structured output", "parameters", "embeddings", "rerank"}
    )

    def _llm(self, server: RecordingServer) -> ChatVLLM:
        return ChatVLLM(server=server, temperature=0)

    def chat(self, server: RecordingServer, prompt: str) -> str:
        """``invoke``."""
        return str(self._llm(server).invoke(prompt).text)

    def stream(self, server: RecordingServer, prompt: str) -> list[str]:
        """``stream``."""
        return [str(chunk.text) for chunk in self._llm(server).stream(prompt)]

    def reasoning(self, server: RecordingServer, prompt: str) -> tuple[str, str]:
        """``content_blocks``."""
        reply = self._llm(server).invoke(prompt, chat_template_kwargs={"enable_thinking": True})
        reasoning = [block["reasoning"] for block in reply.content_blocks if block["type"] == "reasoning"]
        return "".join(reasoning), str(reply.text)

    def tool_calls(self, server: RecordingServer, prompt: str) -> list[tuple[str, dict[str, Any]]]:
        """``bind_tools``."""
        reply: AIMessage = self._llm(server).bind_tools([WEATHER_TOOL]).invoke(prompt)
        return [(call["name"], call["args"]) for call in reply.tool_calls]

    def structured(self, server: RecordingServer, prompt: str) -> tuple[str, object]:
        """``with_structured_output``."""
        reply = self._llm(server).with_structured_output(City, include_raw=True).invoke(prompt)
        if reply["parsing_error"]:
            raise reply["parsing_error"]
        return str(reply["raw"].text), reply["parsed"]

    def choose(self, server: RecordingServer, prompt: str) -> str:
        """``bind`` and a parameter of ``invoke``."""
        reply = self._llm(server).bind(top_k=1).invoke(prompt, structured_outputs={"choice": list(CHOICES)})
        return str(reply.text)

    def embed(self, server: RecordingServer, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """``embed_documents``."""
        return VLLMEmbeddings(server=server).embed_documents(list(texts))

    def rerank(self, server: RecordingServer, query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
        """``compress_documents``."""
        candidates = [Document(text, metadata={"index": index}) for index, text in enumerate(documents)]
        ranked = VLLMRerank(server=server).compress_documents(candidates, query)
        return [(document.metadata["index"], document.metadata["relevance_score"]) for document in ranked]


DEMO = LangChainDemo()
