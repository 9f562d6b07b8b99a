"""The measurements in the documentation: saved with ``--save`` by their programs, read by ``make readme``."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("measured.json")


def machine() -> str:
    """Return what figures depend on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"Python {platform.python_version()}, {platform.system()} on {platform.machine()}, {cores} cores"


def load() -> dict[str, Any]:
    """Return the last results of each measurement."""
    results: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return results


def save(name: str, results: dict[str, Any]) -> None:
    """Save ``results`` as the last ones of the measurement ``name``."""
    known = load() if FILE.exists() else {}
    text = json.dumps({**known, name: results}, indent=2, sort_keys=True)
    FILE.write_text(text + "\n", encoding="utf-8")
