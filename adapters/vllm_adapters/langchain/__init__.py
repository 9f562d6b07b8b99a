"""LangChain on vLLM: ``pip install 'vllm-adapters[langchain]'``."""

from vllm_adapters._optional import require

require("langchain_core", "langchain")
require("langchain_openai", "langchain")

from vllm_adapters.langchain.chat import ChatVLLM  # noqa: E402  # after the one clear line

__all__ = ["ChatVLLM"]
