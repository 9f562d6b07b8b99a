"""What a given server can and cannot do, found out by trying, and the flag that would change it.

`examine` is the way in; `vllm-adapters doctor` does the same from a terminal.
"""

from __future__ import annotations

from vllm_adapters.doctor.model import Check, Finding, Report, Result, Verdict
from vllm_adapters.doctor.runner import examine

__all__ = ["Check", "Finding", "Report", "Result", "Verdict", "examine"]
