"""The figures that the README shows: written by ``run.py --save`` and ``soak.py --save``, read by ``make readme``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("measured.json")


def load() -> dict[str, Any]:
    """What was measured last, by the name of the measurement."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def save(name: str, figures: dict[str, Any]) -> None:
    """Keep ``figures`` as the last ones of the measurement ``name``."""
    known = load() if FILE.exists() else {}
    text = json.dumps({**known, name: figures}, indent=2, sort_keys=True)
    FILE.write_text(text + "\n", encoding="utf-8")
