"""The OpenAI SDK client, taught to speak vLLM once, plugged into LangChain, LlamaIndex and Haystack.

Framework-free names are imported from here and loaded on first use; framework classes live in
``vllm_adapters.langchain``, ``vllm_adapters.llamaindex`` and ``vllm_adapters.haystack``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vllm_adapters._version import __version__

if TYPE_CHECKING:
    from vllm_adapters.client import AsyncVLLMClient, VLLMClient
    from vllm_adapters.embedder import Embedder
    from vllm_adapters.errors import VLLMError
    from vllm_adapters.local import LocalVLLM
    from vllm_adapters.server import VLLMServer
    from vllm_adapters.timeouts import Timeouts
    from vllm_adapters.tokenizer import VLLMTokenizer

__all__ = [
    "AsyncVLLMClient",
    "Embedder",
    "LocalVLLM",
    "Timeouts",
    "VLLMClient",
    "VLLMError",
    "VLLMServer",
    "VLLMTokenizer",
    "__version__",
]

_HOME = {
    "AsyncVLLMClient": "client",
    "Embedder": "embedder",
    "LocalVLLM": "local",
    "Timeouts": "timeouts",
    "VLLMClient": "client",
    "VLLMError": "errors",
    "VLLMServer": "server",
    "VLLMTokenizer": "tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
