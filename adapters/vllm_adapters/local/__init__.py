"""A real vLLM server on this machine's CPU, with small models, for trying things out, tests and CI.

``LocalVLLM`` runs it from Python; ``vllm-adapters serve`` runs it from a terminal.
"""

from __future__ import annotations

from vllm_adapters.local.server import LocalVLLM

__all__ = ["LocalVLLM"]
