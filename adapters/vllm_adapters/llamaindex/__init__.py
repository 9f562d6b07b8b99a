"""LlamaIndex on vLLM: ``pip install 'vllm-adapters[llamaindex]'``.

``VLLM`` is an LLM (for ``Settings.llm``, query and chat engines, agents), ``VLLMEmbedding`` an embedding model,
``VLLMRerank`` a node postprocessor. To count tokens as the served model does, in text splitters and token counters,
set ``Settings.tokenizer = VLLMTokenizer(VLLMServer(...))``, from ``vllm_adapters``.
"""

from vllm_adapters._optional import require

require("llama_index.core", "llamaindex")
require("llama_index.llms.openai_like", "llamaindex")

from vllm_adapters.llamaindex.embedding import VLLMEmbedding  # noqa: E402  # after the check for missing packages
from vllm_adapters.llamaindex.llm import VLLM  # noqa: E402
from vllm_adapters.llamaindex.rerank import VLLMRerank  # noqa: E402

__all__ = ["VLLM", "VLLMEmbedding", "VLLMRerank"]
