"""An hour's worth of mixed calls, as fast as the servers answer, over a line that breaks at random.

    make soak ARGS="--calls 3600 --faults 0.2 --seed 1 --minutes 20"

The servers are VLLM_BASE_URL (chat) and VLLM_EMBED_BASE_URL (embeddings), stand-ins without. Exit code 1 when an
answer was wrong, an error none of ours, a call too long, or when this process holds more at the end than when it had
warmed up: files, sockets, threads, tasks, objects, memory.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence

os.environ |= {"HAYSTACK_TELEMETRY_ENABLED": "False", "LANGSMITH_TRACING": "false"}  # before they are imported

import measured
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from soak.held import held, leaks
from soak.proxy import Proxy
from soak.questions import Right
from soak.running import Soak, Tally
from soak.ways import Line, all_ways
from vllm_adapters import Timeouts
from vllm_adapters import errors as vllm_errors

LIMITS = Timeouts(connect=5, idle=5, total=15)
MOST = 17  # seconds that a call may take: its total limit, and a little for a busy machine
ROUNDS, WARM = 10, 3  # it is warm after the third round


def main() -> int:
    """Run, and show what came of it."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--calls", type=int, default=3600, help="how many (default 3600: one a second for an hour)")
    arguments.add_argument("--minutes", type=float, default=30, help="no more calls after that (default 30)")
    arguments.add_argument("--faults", type=float, default=0.2, help="share of the replies to spoil (default 0.2)")
    arguments.add_argument("--seed", type=int, default=0, help="of calls and faults (default 0)")
    arguments.add_argument("--save", action="store_true", help="keep the figures for the README (make readme)")
    given = arguments.parse_args()
    random.seed(given.seed)
    began = time.monotonic()
    with (
        Proxy(os.environ.get("VLLM_BASE_URL"), given.faults, given.seed) as talks,
        Proxy(os.environ.get("VLLM_EMBED_BASE_URL"), given.faults, given.seed + 1) as embeds,
    ):
        right = Right.learn(talks.server, embeds.server)
        with Soak(all_ways(Line(talks.url, embeds.url, LIMITS)), right, MOST, given.seed) as soak:
            try:
                warm, end = run(soak, given.calls, began + 60 * given.minutes, (talks, embeds), given.faults)
            except TimeoutError:  # noted, call by call
                warm = end = {}
    grown = leaks(warm, end)
    show(soak.tally, warm, end, grown)
    faults = Counter(talks.faults) + Counter(embeds.faults)
    minutes = round((time.monotonic() - began) / 60, 1)
    print(f"replies passed on: {', '.join(f'{count} {name}' for name, count in faults.most_common())}")
    print(f"{minutes} minutes; leaks: {', '.join(grown) or 'none'}")
    if given.save:
        total = soak.tally.by_outcome
        errors = {name: count for name, count in total.items() if name in vars(vllm_errors)}
        longest = round(max(soak.tally.longest.values()), 1)
        figures = {"calls": total.total(), "right": total["right"], "left": total["left"], "errors": errors}
        failed = {"failures": len(soak.tally.failures), "longest": longest, "limit": LIMITS.total}
        measured.save("soak", {**figures, **failed, "minutes": minutes, "warm": warm, "end": end})
    return 1 if grown or soak.tally.failures else 0


def run(
    soak: Soak, calls: int, until: float, lines: Sequence[Proxy], faults: float
) -> tuple[dict[str, float], dict[str, float]]:
    """All rounds; what was held when warm, and at the end.

    Raises:
        TimeoutError: A call hangs.
    """
    counts: list[dict[str, float]] = []
    columns = TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("calls", total=calls + 2 * soak.settling)

        def tick() -> None:
            progress.update(bar, completed=soak.tally.outcomes.total())

        for place in range(1, ROUNDS + 1):
            soak.run(calls * place // ROUNDS - calls * (place - 1) // ROUNDS, until, tick)
            if place in (WARM, ROUNDS):
                for line in lines:  # or which connections are kept would be a matter of chance
                    line.spoil(0)
                soak.settle(tick)
                counts.append(held())
                for line in lines:
                    line.spoil(faults)
            shown = "  ".join(f"{name} {value:.0f}" for name, value in held().items())
            total, failed = soak.tally.outcomes.total(), len(soak.tally.failures)
            progress.console.print(f"{total:6d} calls  failed {failed}  {shown}", soft_wrap=True, highlight=False)
    return counts[0], counts[1]


def show(tally: Tally, warm: Mapping[str, float], end: Mapping[str, float], grown: Sequence[str]) -> None:
    """The tables."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    total = tally.by_outcome
    named = ["right", "left", *sorted(set(total) - {"right", "left"})]
    table = Table(title="Calls", title_justify="left")
    for heading in ("", "calls", *named, "longest, s"):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for way in sorted(tally.longest):
        found = [tally.outcomes[way, outcome] for outcome in named]
        table.add_row(way, *(str(count or "") for count in (sum(found), *found)), f"{tally.longest[way]:.1f}")
    table.add_section()
    found = [total[outcome] for outcome in named]
    table.add_row("all", *map(str, (sum(found), *found)), f"{max(tally.longest.values()):.1f}")
    console.print(table)
    holds = Table(title="Held", title_justify="left")
    for heading in ("", "warm", "end", "growth"):
        holds.add_column(heading, justify="right" if heading else "left")
    for name in warm:
        row = f"{warm[name]:.0f}", f"{end[name]:.0f}", f"{end[name] - warm[name]:+.0f}"
        holds.add_row(name, *row, style="bold red" if name in grown else None)
    console.print(holds)
    for failure in tally.failures[:20]:
        console.print(failure, style="bold red", markup=False)


if __name__ == "__main__":
    sys.exit(main())
