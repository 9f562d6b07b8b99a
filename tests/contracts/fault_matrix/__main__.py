"""Shows what every path makes of every fault: ``python -m fault_matrix [room or fault ...]``.

On a terminal that is too narrow for the errors' names, the cells hold their capitals, and a legend explains them.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from fault_matrix.grid import LIMIT, ROOMS, TRAPS, Cell, Count, Fault, Path, Room, count, run
from fault_matrix.rows import FAULTS
from fault_matrix.scene import SETTINGS

RETRIES = (0, 1, 3)


def main(wanted: Sequence[str]) -> int:
    """Print a table for each room; returns 1 if a cell is neither correct nor an error that is right for it.

    Args:
        wanted: titles of rooms, parts of faults' names; default all.
    """
    os.environ.update(TRAPS)
    logging.disable(logging.ERROR)  # of broken tool calls and texts, which are meant to be
    console = Console(width=None if sys.stdout.isatty() else 400)
    began, tried, wrong, counts = time.monotonic(), 0, [], []
    titles = {room.title for room in ROOMS}
    words = set(wanted) - titles
    faults = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    _introduce(console)
    for room in ROOMS:
        if not room.there or (titles & set(wanted) and room.title not in wanted):
            continue
        total = sum(len(path.ways) for fault in faults for path in room.paths if fault.on(path.scene))
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(room.title, total=total)
            cells = run(room.paths, faults, lambda p=progress, t=task: p.advance(t))
        _show(room, faults, cells, console)
        tried += total
        if not words:
            with console.status(f"{room.title}: counting requests"):
                counts += [(room.title, each) for retries in RETRIES for each in count(room.paths, retries)]
        wrong += [(room.title, *place, cell) for place, ways in cells.items() for cell in ways if not cell.passed]
    if counts:
        console.print(_counted(counts))
    _explain(wrong, console)
    off = [each for _, each in counts if not each.passed]
    requests = f", {len(counts) - len(off)} of {len(counts)} counts of requests" if counts else ""
    console.print(f"{tried - len(wrong)} of {tried} cells right{requests}, {time.monotonic() - began:.0f} s")
    return 1 if wrong or off else 0


def _introduce(console: Console) -> None:
    limits = SETTINGS["timeout"]
    console.print(
        "Every cell asks a server that fails so, sync and async, with "
        f"{limits.connect:g} s to connect, {limits.idle:g} s of silence, {limits.total:g} s in all and "
        f"{SETTINGS['max_retries']} retry. Right is the correct answer, where there can be one, or an error of "
        f"vllm_adapters.errors that is right for the fault, within {LIMIT:g} s and the right number of requests. "
        "Two outcomes in a cell are sync / async; an empty cell cannot happen.\n",
        highlight=False,
    )


def _show(
    room: Room, faults: Sequence[Fault], cells: Mapping[tuple[Fault, Path], list[Cell]], console: Console
) -> None:
    table = _table(room, faults, cells, str)
    if Console(width=1000).measure(table).maximum <= console.width:
        console.print(table)
        return
    named: dict[str, str] = {}
    console.print(_table(room, faults, cells, lambda text: _capitals(text, named)))
    columns = [f"{place} {path.name}" for place, path in enumerate(room.paths, 1)]
    console.print(", ".join(columns), highlight=False)
    console.print(", ".join(f"{short} {name}" for short, name in sorted(named.items())), highlight=False)


def _table(
    room: Room,
    faults: Sequence[Fault],
    cells: Mapping[tuple[Fault, Path], list[Cell]],
    say: Callable[[str], str],
) -> Table:
    table = Table(title=room.title, title_justify="left", title_style="bold")
    table.add_column("fault", no_wrap=True)
    for place, path in enumerate(room.paths, 1):
        table.add_column(path.name if say is str else str(place), no_wrap=True)
    for fault in faults:
        table.add_row(fault.name, *(_shown(cells.get((fault, path)), say) for path in room.paths))
    return table


def _capitals(text: str, named: dict[str, str]) -> str:
    """``SU`` for ``ServerUnreachable``; what is wrong stays as it is."""
    if not re.fullmatch(r"[A-Z]\w+( \(\w+\))?", text):
        return "ok" if text == "correct" else text
    name = text.split(" ")[0]
    letters = "".join(letter for letter in name if letter.isupper())
    short = letters if named.get(letters, name) == name else name[:3]
    named[short] = name
    return short


def _shown(ways: Sequence[Cell] | None, say: Callable[[str], str]) -> Text:
    """A cell of the table: one text where sync and async agree."""
    if ways is None:
        return Text("", "dim")
    texts = list(dict.fromkeys(cell.text for cell in ways))
    style = "bold red" if not all(cell.passed for cell in ways) else "green" if texts == ["correct"] else "cyan"
    return Text(" / ".join(map(say, texts)), style)


def _counted(counts: Sequence[tuple[str, Count]]) -> Table:
    table = Table(title="POSTs of one call", title_justify="left", title_style="bold")
    table.add_column("path", no_wrap=True)
    for retries in RETRIES:
        table.add_column(f"500 for ever, max_retries={retries}", justify="right")
    table.add_column(f"broken after a token, max_retries={RETRIES[-1]}", justify="right")
    paths = dict.fromkeys((title, each.path) for title, each in counts)
    for title, path in paths:
        mine = [each for room, each in counts if (room, each.path) == (title, path)]
        failing = [sorted({each.failing for each in mine if each.retries == retries}) for retries in RETRIES]
        begun = sorted({each.begun for each in mine if each.begun is not None})
        style = "green" if all(each.passed for each in mine) else "bold red"
        texts = [" / ".join(map(str, found)) for found in (*failing, begun)]
        table.add_row(f"{title} {path.name}", *(Text(text, style) for text in texts))
    return table


def _explain(wrong: Sequence[tuple[str, Fault, Path, Cell]], console: Console) -> None:
    for title, fault, path, cell in wrong:
        console.print(f"\n{title} {path.name}, {fault.name}: {cell.text}", style="bold", markup=False)
        console.print(cell.note, markup=False, highlight=False)


sys.exit(main(sys.argv[1:]))
