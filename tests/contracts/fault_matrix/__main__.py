"""Prints the outcome of every path with every fault: ``python -m fault_matrix [--save] [framework or fault ...]``.

``--save`` saves the outcomes of a whole run for the documentation (then: make readme).
On a terminal that is too narrow for the names of the errors, the cells show their capitals, with a legend below.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as File

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from fault_matrix.grid import (
    FRAMEWORKS,
    HOSTILE_ENVIRONMENT,
    Cell,
    Count,
    Fault,
    Framework,
    Path,
    count_requests,
    run_cells,
)
from fault_matrix.operations import TIMEOUTS
from fault_matrix.rows import FAULTS

RETRIES = (0, 1, 3)
OUTCOMES = File(__file__).parent / "outcomes.json"

Cells = Mapping[tuple[Fault, Path], list[Cell]]


def main(selection: Sequence[str]) -> int:
    """Print one table per framework.

    Args:
        selection: Titles of frameworks, parts of the names of faults; default all. ``--save`` saves the outcomes.

    Returns:
        The exit code: 1 if a cell is neither correct nor an error that is right for its fault.
    """
    os.environ.update(HOSTILE_ENVIRONMENT)
    logging.disable(logging.ERROR)  # broken tool calls and texts are expected here
    console = Console(width=None if sys.stdout.isatty() else 400)
    began, total, failed, counts = time.monotonic(), 0, [], []
    outcomes: dict[str, Cells] = {}
    titles = {framework.title for framework in FRAMEWORKS}
    words = set(selection) - titles - {"--save"}
    faults = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    _print_introduction(console)
    for framework in FRAMEWORKS:
        if not framework.installed or (titles & set(selection) and framework.title not in selection):
            continue
        paths = framework.paths
        size = sum(len(path.variants) for fault in faults for path in paths if fault.on(path.operation))
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(framework.title, total=size)
            cells = run_cells(paths, faults, lambda p=progress, t=task: p.advance(t))
        outcomes[framework.title] = cells
        _print_table(framework, faults, cells, console)
        total += size
        if not words:
            with console.status(f"{framework.title}: counting requests"):
                counts += [(framework.title, each) for retries in RETRIES for each in count_requests(paths, retries)]
        failed += [(framework.title, *place, cell) for place, each in cells.items() for cell in each if not cell.passed]
    if counts:
        console.print(_count_table(counts))
    _print_failures(failed, console)
    wrong = [each for _, each in counts if not each.passed]
    requests = f", {len(counts) - len(wrong)} of {len(counts)} request counts" if counts else ""
    if "--save" in selection:
        _save(outcomes, total, len(failed))
    console.print(f"{total - len(failed)} of {total} cells passed{requests}, in {time.monotonic() - began:.0f} s")
    return 1 if failed or wrong else 0


def _save(outcomes: Mapping[str, Cells], total: int, failed: int) -> None:
    """Write the different outcomes of each fault in each framework."""
    rows: dict[str, dict[str, list[str]]] = {}
    for title, cells in outcomes.items():
        for (fault, _), each in cells.items():
            row = rows.setdefault(fault.name, {})
            row[title] = list(dict.fromkeys([*row.get(title, ()), *(cell.text for cell in each)]))
    found = {"cells": total, "passed": total - failed, "outcomes": rows}
    OUTCOMES.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _print_introduction(console: Console) -> None:
    console.print(
        "Every cell sends a request to a server with the fault of its row, sync and async. Where a time limit must end "
        f"the request, it is {TIMEOUTS['idle'].idle:g} s between two pieces of a response or "
        f"{TIMEOUTS['total'].total:g} s in total; there is one retry. A cell passes with the correct answer, if there "
        "can be one, or with an error of vllm_adapters.errors that is right for the fault, within twice the total time "
        "limit and with the right number of requests. Two outcomes in a cell are sync / async. "
        "A cell is empty if the fault cannot occur.\n",
        highlight=False,
    )


def _print_table(
    framework: Framework,
    faults: Sequence[Fault],
    cells: Cells,
    console: Console,
) -> None:
    table = _table(framework, faults, cells, str)
    if Console(width=1000).measure(table).maximum <= console.width:
        console.print(table)
        return
    legend: dict[str, str] = {}
    console.print(_table(framework, faults, cells, lambda text: _abbreviate(text, legend)))
    columns = [f"{number} {path.name}" for number, path in enumerate(framework.paths, 1)]
    console.print(", ".join(columns), highlight=False)
    console.print(", ".join(f"{short} {name}" for short, name in sorted(legend.items())), highlight=False)


def _table(
    framework: Framework,
    faults: Sequence[Fault],
    cells: Cells,
    format_text: Callable[[str], str],
) -> Table:
    table = Table(title=framework.title, title_justify="left", title_style="bold")
    table.add_column("fault", no_wrap=True)
    for number, path in enumerate(framework.paths, 1):
        table.add_column(path.name if format_text is str else str(number), no_wrap=True)
    for fault in faults:
        table.add_row(fault.name, *(_format_cell(cells.get((fault, path)), format_text) for path in framework.paths))
    return table


def _abbreviate(text: str, legend: dict[str, str]) -> str:
    """Return ``SU`` for ``ServerUnreachable``; texts of failed cells stay unchanged."""
    if not re.fullmatch(r"[A-Z]\w+( \(\w+\))?", text):
        return "ok" if text == "correct" else text
    name = text.split(" ")[0]
    letters = "".join(letter for letter in name if letter.isupper())
    short = letters if legend.get(letters, name) == name else name[:3]
    legend[short] = name
    return short


def _format_cell(variants: Sequence[Cell] | None, format_text: Callable[[str], str]) -> Text:
    """Return a cell of the table; sync and async share one text if they agree."""
    if variants is None:
        return Text("", "dim")
    texts = list(dict.fromkeys(cell.text for cell in variants))
    style = "bold red" if not all(cell.passed for cell in variants) else "green" if texts == ["correct"] else "cyan"
    return Text(" / ".join(map(format_text, texts)), style)


def _count_table(counts: Sequence[tuple[str, Count]]) -> Table:
    table = Table(title="POST requests of one call", title_justify="left", title_style="bold")
    table.add_column("path", no_wrap=True)
    for retries in RETRIES:
        table.add_column(f"always 500, max_retries={retries}", justify="right")
    table.add_column(f"stream broken after a token, max_retries={RETRIES[-1]}", justify="right")
    paths = dict.fromkeys((title, each.path) for title, each in counts)
    for title, path in paths:
        own = [each for framework, each in counts if (framework, each.path) == (title, path)]
        failing = [sorted({each.failing for each in own if each.retries == retries}) for retries in RETRIES]
        begun = sorted({each.begun for each in own if each.begun is not None})
        style = "green" if all(each.passed for each in own) else "bold red"
        texts = [" / ".join(map(str, numbers)) for numbers in (*failing, begun)]
        table.add_row(f"{title} {path.name}", *(Text(text, style) for text in texts))
    return table


def _print_failures(failed: Sequence[tuple[str, Fault, Path, Cell]], console: Console) -> None:
    for title, fault, path, cell in failed:
        console.print(f"\n{title} {path.name}, {fault.name}: {cell.text}", style="bold", markup=False)
        console.print(cell.note, markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
