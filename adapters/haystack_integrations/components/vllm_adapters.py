"""The module that YAML names for the components: Haystack loads ``haystack_integrations`` without being configured."""

from vllm_adapters.haystack import (
    VLLMChatGenerator,
    VLLMDocumentEmbedder,
    VLLMRanker,
    VLLMTextEmbedder,
    VLLMTokenCounter,
)

__all__ = ["VLLMChatGenerator", "VLLMDocumentEmbedder", "VLLMRanker", "VLLMTextEmbedder", "VLLMTokenCounter"]
