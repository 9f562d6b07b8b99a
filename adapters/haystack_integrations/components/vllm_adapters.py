"""The name under which Haystack loads these components from YAML: it allows ``haystack_integrations`` unasked."""

from vllm_adapters.haystack import (
    VLLMChatGenerator,
)

__all__ = ["VLLMChatGenerator"]
