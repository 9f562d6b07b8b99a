"""The name under which Haystack loads these components from YAML: it allows ``haystack_integrations`` unasked."""

from vllm_adapters.haystack import (
    VLLMChatGenerator,
    VLLMDocumentEmbedder,
    VLLMRanker,
    VLLMTextEmbedder,
    VLLMTokenCounter,
)

__all__ = ["VLLMChatGenerator", "VLLMDocumentEmbedder", "VLLMRanker", "VLLMTextEmbedder", "VLLMTokenCounter"]
