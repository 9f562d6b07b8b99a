"""Haystack on vLLM: ``pip install 'vllm-adapters[haystack]'``."""

from vllm_adapters._optional import require

require("haystack", "haystack")

from vllm_adapters.haystack.chat import VLLMChatGenerator  # noqa: E402  # after the one clear line

__all__ = ["VLLMChatGenerator"]
