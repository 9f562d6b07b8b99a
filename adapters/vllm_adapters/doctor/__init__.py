"""Check what a running vLLM server supports, and which flags would add what is missing.

``examine`` runs the checks from Python; ``vllm-adapters doctor`` runs them from a terminal.
"""

from __future__ import annotations

from vllm_adapters.doctor.model import Check, Finding, Report, Result, Verdict
from vllm_adapters.doctor.runner import examine

__all__ = ["Check", "Finding", "Report", "Result", "Verdict", "examine"]
