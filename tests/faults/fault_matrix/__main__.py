"""Shows what every path makes of every fault: ``python -m fault_matrix [room or fault ...]``."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from fault_matrix.grid import ROOMS, TRAPS, Cell, Fault, Path, Room, run
from fault_matrix.rows import FAULTS


def main(wanted: Sequence[str]) -> int:
    """Print a table for each room; returns 1 if a cell is neither correct nor an error that is right for it.

    Args:
        wanted: titles of rooms, parts of faults' names; default all.
    """
    os.environ.update(TRAPS)
    logging.disable(logging.WARNING)  # of broken tool calls, which are meant to be
    console = Console(width=None if sys.stdout.isatty() else 400)
    began, count, wrong = time.monotonic(), 0, []
    titles = {room.title for room in ROOMS}
    words = set(wanted) - titles
    faults = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    for room in ROOMS:
        if not room.there or (titles & set(wanted) and room.title not in wanted):
            continue
        total = sum(len(path.ways) for fault in faults for path in room.paths if fault.on(path.scene))
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(room.title, total=total)
            cells = run(room.paths, faults, lambda p=progress, t=task: p.advance(t))
        console.print(_table(room, faults, cells))
        count += total
        wrong += [(room.title, *place, cell) for place, ways in cells.items() for cell in ways if not cell.passed]
    _explain(wrong, console)
    console.print(f"{count - len(wrong)} of {count} cells right, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def _table(room: Room, faults: Sequence[Fault], cells: Mapping[tuple[Fault, Path], list[Cell]]) -> Table:
    table = Table(title=room.title, title_justify="left", title_style="bold")
    table.add_column("fault", overflow="fold")
    for path in room.paths:
        table.add_column(path.name, overflow="fold")
    for fault in faults:
        table.add_row(fault.name, *(_shown(cells.get((fault, path))) for path in room.paths))
    return table


def _shown(ways: Sequence[Cell] | None) -> Text:
    """A cell of the table: one text where sync and async agree."""
    if ways is None:
        return Text("", "dim")
    texts = list(dict.fromkeys(cell.text for cell in ways))
    style = "bold red" if not all(cell.passed for cell in ways) else "green" if texts == ["correct"] else "cyan"
    return Text(" / ".join(texts), style)


def _explain(wrong: Sequence[tuple[str, Fault, Path, Cell]], console: Console) -> None:
    for title, fault, path, cell in wrong:
        console.print(f"\n{title} {path.name}, {fault.name}: {cell.text}", style="bold", markup=False)
        console.print(cell.note, markup=False, highlight=False)


sys.exit(main(sys.argv[1:]))
