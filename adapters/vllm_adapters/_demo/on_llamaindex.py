"""The demo of LlamaIndex: ``VLLM``, ``VLLMEmbedding``, ``VLLMRerank``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool

from vllm_adapters._demo.recording_client import RecordingServer
from vllm_adapters._demo.scenarios import CHOICES, City, FrameworkDemo
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


class LlamaIndexDemo(FrameworkDemo):
    """Uses LlamaIndex's ``complete``, ``chat_with_tools``, ``as_structured_llm`` and postprocessors."""

    title = "LlamaIndex"
    supports = frozenset(
        {"chat", "stream", "reasoning", "tool call", "structured output", "parameters", "embeddings", "rerank"}
    )

    def _llm(self, server: RecordingServer) -> VLLM:
        return VLLM(server=server, temperature=0)

    def chat(self, server: RecordingServer, prompt: str) -> str:
        """``complete``."""
        return str(self._llm(server).complete(prompt).text)

    def stream(self, server: RecordingServer, prompt: str) -> list[str]:
        """``stream_complete``."""
        return [response.delta or "" for response in self._llm(server).stream_complete(prompt)]

    def reasoning(self, server: RecordingServer, prompt: str) -> tuple[str, str]:
        """``ThinkingBlock``."""
        messages = [ChatMessage(role="user", content=prompt)]
        reply = self._llm(server).chat(messages, chat_template_kwargs={"enable_thinking": True}).message
        reasoning = [block.content or "" for block in reply.blocks if isinstance(block, ThinkingBlock)]
        return "".join(reasoning), reply.content or ""

    def tool_calls(self, server: RecordingServer, prompt: str) -> list[tuple[str, dict[str, Any]]]:
        """``chat_with_tools``."""
        llm, tool = self._llm(server), FunctionTool.from_defaults(get_weather)
        reply = llm.chat_with_tools([tool], prompt, allow_parallel_tool_calls=True)
        calls = llm.get_tool_calls_from_response(reply, error_on_no_tool_call=False)
        return [(call.tool_name, call.tool_kwargs) for call in calls]

    def structured(self, server: RecordingServer, prompt: str) -> tuple[str, object]:
        """``as_structured_llm``."""
        reply = self._llm(server).as_structured_llm(City).complete(prompt)
        return reply.text, reply.raw

    def choose(self, server: RecordingServer, prompt: str) -> str:
        """A parameter of the constructor and one of ``complete``."""
        llm = VLLM(server=server, temperature=0, top_k=1)
        return str(llm.complete(prompt, structured_outputs={"choice": list(CHOICES)}).text)

    def embed(self, server: RecordingServer, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """``get_text_embedding_batch``."""
        return VLLMEmbedding(server=server).get_text_embedding_batch(list(texts))

    def rerank(self, server: RecordingServer, query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
        """``postprocess_nodes``."""
        nodes = [NodeWithScore(node=TextNode(text=text, id_=str(index))) for index, text in enumerate(documents)]
        ranked = VLLMRerank(server=server).postprocess_nodes(nodes, query_str=query)
        return [(int(node.node_id), node.score or 0.0) for node in ranked]


DEMO = LlamaIndexDemo()
