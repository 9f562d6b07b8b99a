"""LlamaIndex on vLLM: ``pip install 'vllm-adapters[llamaindex]'``.

``VLLM`` goes where an LLM goes (``Settings.llm``, query and chat engines, agents), ``VLLMEmbedding`` where an
embedding model goes, ``VLLMRerank`` into ``node_postprocessors``. Text splitters and token counters count as the
served model does with ``Settings.tokenizer = VLLMTokenizer(VLLMServer(...))``, from ``vllm_adapters``.
"""

from vllm_adapters._optional import require

require("llama_index.core", "llamaindex")
require("llama_index.llms.openai_like", "llamaindex")

from vllm_adapters.llamaindex.embedding import VLLMEmbedding  # noqa: E402  # after the one clear line
from vllm_adapters.llamaindex.llm import VLLM  # noqa: E402
from vllm_adapters.llamaindex.rerank import VLLMRerank  # noqa: E402

__all__ = ["VLLM", "VLLMEmbedding", "VLLMRerank"]
