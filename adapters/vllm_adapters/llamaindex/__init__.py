"""LlamaIndex on vLLM: ``pip install 'vllm-adapters[llamaindex]'``."""

from vllm_adapters._optional import require

require("llama_index.core", "llamaindex")
require("llama_index.llms.openai_like", "llamaindex")

from vllm_adapters.llamaindex.embedding import VLLMEmbedding  # noqa: E402  # after the one clear line
from vllm_adapters.llamaindex.llm import VLLM  # noqa: E402
from vllm_adapters.llamaindex.rerank import VLLMRerank  # noqa: E402

__all__ = ["VLLM", "VLLMEmbedding", "VLLMRerank"]
