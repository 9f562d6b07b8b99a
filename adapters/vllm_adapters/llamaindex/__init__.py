"""LlamaIndex on vLLM: ``pip install 'vllm-adapters[llamaindex]'``."""

from vllm_adapters._optional import require

require("llama_index.core", "llamaindex")
require("llama_index.llms.openai_like", "llamaindex")

from vllm_adapters.llamaindex.llm import VLLM  # noqa: E402  # after the one clear line

__all__ = ["VLLM"]
