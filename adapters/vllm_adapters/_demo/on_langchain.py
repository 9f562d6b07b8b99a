"""The tour through LangChain: ``ChatVLLM``, ``VLLMEmbeddings``, ``VLLMRerank``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import AIMessage

from vllm_adapters._demo.jobs import CHOICES, WEATHER_TOOL, City, Column
from vllm_adapters._demo.tape import TapedServer
from vllm_adapters.langchain import ChatVLLM, VLLMEmbeddings, VLLMRerank


class OnLangChain(Column):
    """LangChain's own calls: ``invoke``, ``stream``, ``bind_tools``, ``with_structured_output``, ``bind``."""

    title = "LangChain"

    def _llm(self, server: TapedServer) -> ChatVLLM:
        return ChatVLLM(server=server, temperature=0)

    def chat(self, server: TapedServer, prompt: str) -> str:
        """See ``Column``, as for the others."""
        return str(self._llm(server).invoke(prompt).text)

    def stream(self, server: TapedServer, prompt: str) -> list[str]:
        """Message chunks."""
        return [str(chunk.text) for chunk in self._llm(server).stream(prompt)]

    def reasoning(self, server: TapedServer, prompt: str) -> tuple[str, str]:
        """LangChain's standard content blocks."""
        reply = self._llm(server).invoke(prompt, chat_template_kwargs={"enable_thinking": True})
        thoughts = [block["reasoning"] for block in reply.content_blocks if block["type"] == "reasoning"]
        return "".join(thoughts), str(reply.text)

    def tool_calls(self, server: TapedServer, prompt: str) -> list[tuple[str, dict[str, Any]]]:
        """``message.tool_calls``."""
        reply: AIMessage = self._llm(server).bind_tools([WEATHER_TOOL]).invoke(prompt)
        return [(call["name"], call["args"]) for call in reply.tool_calls]

    def structured(self, server: TapedServer, prompt: str) -> tuple[str, object]:
        """``with_structured_output``."""
        reply = self._llm(server).with_structured_output(City, include_raw=True).invoke(prompt)
        if reply["parsing_error"]:
            raise reply["parsing_error"]
        return str(reply["raw"].text), reply["parsed"]

    def choose(self, server: TapedServer, prompt: str) -> str:
        """One parameter bound, one given in the call."""
        reply = self._llm(server).bind(top_k=1).invoke(prompt, structured_outputs={"choice": list(CHOICES)})
        return str(reply.text)

    def embed(self, server: TapedServer, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """``embed_documents``."""
        return VLLMEmbeddings(server=server).embed_documents(list(texts))

    def rerank(self, server: TapedServer, query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
        """A document compressor."""
        given = [Document(text, metadata={"place": place}) for place, text in enumerate(documents)]
        best = VLLMRerank(server=server).compress_documents(given, query)
        return [(document.metadata["place"], document.metadata["relevance_score"]) for document in best]


COLUMN = OnLangChain()
