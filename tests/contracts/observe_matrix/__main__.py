"""Prints what each instrumentation makes of each class: ``python -m observe_matrix [--save] [instrumentation ...]``.

Exits 1 if a result differs from what it is without instrumentation, or a call is not recorded, or by two spans that
count its tokens.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from observe_matrix.instrumentations import ALL

SAVED = Path(__file__).parent / "observed.json"
RIGHT = {
    "whole": "one two three",
    "streamed": "one two three",
    "cut": "IncompleteStream",
    "error event": "ServerFailed",
    "cancelled": "left",
}
WITHOUT_SPANS = ("none", "langsmith", "langsmith-environment")  # LangSmith's are runs, not spans
Cells = list[dict[str, Any]]


def run(name: str) -> Cells:
    """Return the cells of an instrumentation."""
    program = [sys.executable, "-W", "ignore", "-m", "observe_matrix.process", name]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    cells: Cells = json.loads(done.stdout.splitlines()[-1])
    return cells


def counting(cell: Mapping[str, Any]) -> list[str]:
    """Return who counts the tokens of a call."""
    return [span["by"] for span in cell["spans"] if span["tokens"]]


def problem(name: str, cell: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a cell."""
    if cell["result"] != RIGHT[cell["reply"]]:
        return f"{cell['result']}, not {RIGHT[cell['reply']]}"
    if name in WITHOUT_SPANS or cell["reply"] not in ("whole", "streamed"):
        return None
    allowed = 2 if (ALL[name].title, cell["framework"]) in TWICE else 1
    if not cell["spans"]:
        return "no span"
    return f"counted by {', '.join(counting(cell))}" if len(counting(cell)) > allowed else None


TWICE = {
    # It does not make its span the current one, so that no other instrumentation can see it.
    ("OpenInference, langchain", "LangChain"),
    # Its span is the current one until a method returns a stream, whose request is sent when it is read.
    ("OpenInference, llama-index", "LlamaIndex"),
}


def summary(cells: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return for each framework who records a whole reply."""
    found: dict[str, str] = {}
    for cell in cells:
        if cell["reply"] == "whole" and cell["mode"] == "sync":
            names = {"ours" if span["by"] == "vllm_adapters" else "its own" for span in cell["spans"]}
            found[cell["framework"]] = " and ".join(sorted(names, reverse=True)) or "-"
    return found


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="make observe", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="instrumentation", help=f"default: all of {', '.join(ALL)}")
    parser.add_argument("--save", action="store_true", help="keep the result for the documentation")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 200)
    table, problems, saved = Table("instrumentation", "framework", *RIGHT), 0, {}
    for name in given.names or ALL:
        cells = run(name)
        frameworks = list(dict.fromkeys(cell["framework"] for cell in cells))
        for framework in frameworks:
            row = []
            for reply in RIGHT:
                both = [cell for cell in cells if (cell["framework"], cell["reply"]) == (framework, reply)]
                wrong = [f"{cell['mode']}: {found}" for cell in both if (found := problem(name, cell))]
                problems += len(wrong)
                row.append("\n".join(wrong) or RIGHT[reply])
            table.add_row(name, framework, *row)
        saved[name] = {
            "title": ALL[name].title,
            "cells": len(cells),
            "right": sum(problem(name, cell) is None for cell in cells),
            "recorded": summary(cells),
        }
    console.print(table)
    console.print(f"{sum(row['cells'] for row in saved.values())} cells, {problems} of them wrong")
    if given.save:
        saved = (json.loads(SAVED.read_text(encoding="utf-8")) if SAVED.exists() else {}) | saved
        SAVED.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
