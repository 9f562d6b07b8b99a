"""What a given server can and cannot do, found out by trying, and the flag that would change it.

`examine` is the way in; `vllm-adapters doctor` does the same from a terminal.
"""

from __future__ import annotations

from vllm_adapters.doctor.examination import examine
from vllm_adapters.doctor.findings import Check, Finding, Verdict
from vllm_adapters.doctor.report import Report, Result

__all__ = ["Check", "Finding", "Report", "Result", "Verdict", "examine"]
