"""The tour through LlamaIndex: ``VLLM``, ``VLLMEmbedding``, ``VLLMRerank``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool

from vllm_adapters._demo.jobs import CHOICES, City, Column
from vllm_adapters._demo.tape import TapedServer
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


class OnLlamaIndex(Column):
    """LlamaIndex's own calls: ``complete``, ``chat_with_tools``, ``as_structured_llm``, postprocessors."""

    title = "LlamaIndex"

    def _llm(self, server: TapedServer) -> VLLM:
        return VLLM(server=server, temperature=0)

    def chat(self, server: TapedServer, prompt: str) -> str:
        """See ``Column``, as for the others."""
        return str(self._llm(server).complete(prompt).text)

    def stream(self, server: TapedServer, prompt: str) -> list[str]:
        """Deltas."""
        return [response.delta or "" for response in self._llm(server).stream_complete(prompt)]

    def reasoning(self, server: TapedServer, prompt: str) -> tuple[str, str]:
        """A ``ThinkingBlock``."""
        messages = [ChatMessage(role="user", content=prompt)]
        reply = self._llm(server).chat(messages, chat_template_kwargs={"enable_thinking": True}).message
        thoughts = [block.content or "" for block in reply.blocks if isinstance(block, ThinkingBlock)]
        return "".join(thoughts), reply.content or ""

    def tool_calls(self, server: TapedServer, prompt: str) -> list[tuple[str, dict[str, Any]]]:
        """``chat_with_tools``."""
        llm, tool = self._llm(server), FunctionTool.from_defaults(get_weather)
        reply = llm.chat_with_tools([tool], prompt, allow_parallel_tool_calls=True)
        calls = llm.get_tool_calls_from_response(reply, error_on_no_tool_call=False)
        return [(call.tool_name, call.tool_kwargs) for call in calls]

    def structured(self, server: TapedServer, prompt: str) -> tuple[str, object]:
        """``as_structured_llm``."""
        reply = self._llm(server).as_structured_llm(City).complete(prompt)
        return reply.text, reply.raw

    def choose(self, server: TapedServer, prompt: str) -> str:
        """One parameter of the constructor, one of the call."""
        llm = VLLM(server=server, temperature=0, top_k=1)
        return str(llm.complete(prompt, structured_outputs={"choice": list(CHOICES)}).text)

    def embed(self, server: TapedServer, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """``get_text_embedding_batch``."""
        return VLLMEmbedding(server=server).get_text_embedding_batch(list(texts))

    def rerank(self, server: TapedServer, query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
        """A node postprocessor."""
        nodes = [NodeWithScore(node=TextNode(text=text, id_=str(place))) for place, text in enumerate(documents)]
        best = VLLMRerank(server=server).postprocess_nodes(nodes, query_str=query)
        return [(int(node.node_id), node.score or 0.0) for node in best]


COLUMN = OnLlamaIndex()
