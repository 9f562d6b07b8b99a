"""Haystack components for vLLM: ``pip install 'vllm-adapters[haystack]'``."""

from vllm_adapters._optional import require

require("haystack", "haystack")

from vllm_adapters.haystack.chat_generator import VLLMChatGenerator  # noqa: E402  # after the hint for pip
from vllm_adapters.haystack.embedders import VLLMDocumentEmbedder, VLLMTextEmbedder  # noqa: E402
from vllm_adapters.haystack.ranker import VLLMRanker  # noqa: E402
from vllm_adapters.haystack.token_counter import VLLMTokenCounter  # noqa: E402
from vllm_adapters.haystack.transcriber import VLLMTranscriber  # noqa: E402

__all__ = [
    "VLLMChatGenerator",
    "VLLMDocumentEmbedder",
    "VLLMRanker",
    "VLLMTextEmbedder",
    "VLLMTokenCounter",
    "VLLMTranscriber",
]
