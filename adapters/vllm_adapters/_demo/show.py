"""Runs the tour and shows what worked."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from textwrap import shorten
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vllm_adapters._demo.jobs import JOBS, SHOWN, Column, Job, NotThere
from vllm_adapters._demo.servers import Place, Places, by_task, servers
from vllm_adapters._demo.tape import TapedServer
from vllm_adapters._optional import is_installed
from vllm_adapters.errors import FeatureNotEnabled


class Room(NamedTuple):
    """A column of the tour.

    Args:
        title: Its heading.
        module: Where its ``COLUMN`` is.
        needs: What must be installed for it.
        extra: The extra of this package that installs it.
    """

    title: str
    module: str
    needs: str
    extra: str


ROOMS = (
    Room("client", "vllm_adapters._demo.on_client", "openai", ""),
    Room("LangChain", "vllm_adapters._demo.on_langchain", "langchain_openai", "langchain"),
    Room("LlamaIndex", "vllm_adapters._demo.on_llamaindex", "llama_index.llms.openai_like", "llamaindex"),
    Room("Haystack", "vllm_adapters._demo.on_haystack", "haystack", "haystack"),
)


@dataclass(frozen=True)
class Cell:
    """What came of one job in one room.

    Args:
        text: What the table says.
        state: ``ok``, ``failed``, or ``empty``: nothing to do there.
        note: What there is to say below the table.
        sent: The body of the last request.
    """

    text: str
    state: str = "ok"
    note: str = ""
    sent: Mapping[str, Any] = field(default_factory=dict)

    def rendered(self) -> Text:
        """The table's cell."""
        mark, style = {"ok": ("✓ ", "green"), "failed": ("✗ ", "bold red"), "empty": ("", "dim")}[self.state]
        text = shorten(self.text, 60, placeholder=" …")
        return Text.assemble((mark, style), (text, "" if self.state == "ok" else style))


Cells = Mapping[tuple[str, str], Cell]
"""Cells by titles of job and room."""


def run(console: Console | None = None, rooms: Sequence[Room] = ROOMS) -> int:
    """The whole tour; returns 1 if a cell failed or none worked, else 0."""
    console, progress = console or Console(), Console(stderr=True)
    began = time.monotonic()
    with servers(progress) as places:
        cells = walk(places, progress, rooms)
        show(cells, places, console, rooms)
    counts = {state: sum(cell.state == state for cell in cells.values()) for state in ("ok", "failed", "empty")}
    seconds = time.monotonic() - began
    console.print(
        f"\n{counts['ok']} worked, {counts['failed']} failed, {counts['empty']} not there, in {seconds:.0f} s."
    )
    return 0 if counts["ok"] and not counts["failed"] else 1


def walk(places: list[Place], progress: Console, rooms: Sequence[Room] = ROOMS) -> Cells:
    """Do every job in every room."""
    found = by_task(places)
    cells = {}
    for room in rooms:
        for job in JOBS:
            with progress.status(f"{room.title}: {job.title}"):
                cells[job.title, room.title] = visit(job, room, found)
    return cells


def visit(job: Job, room: Room, found: Places) -> Cell:
    """Do one job in one room; whatever goes wrong becomes the cell."""
    if not is_installed(room.needs):
        note = f"{room.needs} is not installed: pip install 'vllm-adapters[{room.extra}]'"
        return Cell("not installed", "empty", note)
    place = found.get(job.task)
    sent: list[dict[str, Any]] = []
    try:
        column: Column = import_module(room.module).COLUMN
        if place is None:
            return Cell("not served there", "empty")
        server = TapedServer(place.base_url)
        sent = server.sent
        with server:
            text = job.do(column, server, place.known)
    except NotThere as reason:
        return Cell(str(reason), "empty")
    except Exception as error:
        if isinstance(error, FeatureNotEnabled) and place and not place.known:
            return Cell("not switched on there", "empty", str(error))
        return Cell(type(error).__name__, "failed", str(error), sent[-1] if sent else {})
    return Cell(text, sent=sent[-1] if sent else {})


def show(cells: Cells, places: Sequence[Place], console: Console, rooms: Sequence[Room] = ROOMS) -> None:
    """The table, what went wrong, one exchange of each room, and who answered."""
    table = Table("", *(room.title for room in rooms), title="vllm-adapters: what works", title_justify="left")
    for job in JOBS:
        table.add_row(Text(job.title, "bold"), *(cells[job.title, room.title].rendered() for room in rooms))
    console.print()
    console.print(table)
    notes = {}
    for (job_title, room_title), cell in cells.items():
        where = room_title if cell.text == "not installed" else f"{room_title}, {job_title}"
        if cell.note:
            notes[f"{where}: {cell.text}: {cell.note}"] = cell.state
    for note, state in notes.items():
        console.print(Text(note, "red" if state == "failed" else "dim"), soft_wrap=True)
    console.print(f"\nOn the wire ({SHOWN}):", highlight=False)
    for room in rooms:
        cell = cells[SHOWN, room.title]
        if cell.sent:
            console.print(f"  [bold]{escape(room.title)}[/bold]")
            console.print(Text(f"    sent      {json.dumps(cell.sent, ensure_ascii=False)}"), soft_wrap=True)
            console.print(Text(f"    answered  {cell.text}"), soft_wrap=True)
    console.print()
    for place in places:
        console.print(Text(f"{', '.join(sorted(place.tasks & {job.task for job in JOBS}))}: {place}"), soft_wrap=True)
