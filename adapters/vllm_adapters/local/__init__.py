"""A real vLLM on this machine, CPU only, with small models: to try things, to test, for CI.

`LocalVLLM` is the way in; `vllm-adapters serve` does the same from a terminal.
"""

from __future__ import annotations

from vllm_adapters.local.server import LocalVLLM

__all__ = ["LocalVLLM"]
