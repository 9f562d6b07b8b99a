"""LangChain on vLLM: ``pip install 'vllm-adapters[langchain]'``."""

from vllm_adapters._optional import require

require("langchain_core", "langchain")
require("langchain_openai", "langchain")

from vllm_adapters.langchain.audio import VLLMAudioParser  # noqa: E402  # after the one clear line
from vllm_adapters.langchain.chat_models import ChatVLLM  # noqa: E402
from vllm_adapters.langchain.embeddings import VLLMEmbeddings  # noqa: E402
from vllm_adapters.langchain.llms import VLLM  # noqa: E402
from vllm_adapters.langchain.rerank import VLLMRerank  # noqa: E402

__all__ = ["VLLM", "ChatVLLM", "VLLMAudioParser", "VLLMEmbeddings", "VLLMRerank"]
