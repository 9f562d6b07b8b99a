"""The module that YAML names for the components: Haystack loads ``haystack_integrations`` without being configured."""

from haystack import component

from vllm_adapters.haystack import (
    VLLMChatGenerator,
    VLLMDocumentEmbedder,
    VLLMRanker,
    VLLMTextEmbedder,
    VLLMTokenCounter,
    VLLMTranscriber,
)

__all__ = [
    "VLLMChatGenerator",
    "VLLMDocumentEmbedder",
    "VLLMRanker",
    "VLLMTextEmbedder",
    "VLLMTokenCounter",
    "VLLMTranscriber",
]

for _class in (VLLMChatGenerator, VLLMDocumentEmbedder, VLLMRanker, VLLMTextEmbedder, VLLMTranscriber):
    component.registry[f"{__name__}.{_class.__name__}"] = (
        _class  # they are registered under the modules that define them
    )
