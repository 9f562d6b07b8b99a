"""Make thousands of mixed calls, as fast as the servers respond, through a proxy that injects faults.

    make soak ARGS="--calls 3600 --faults 0.2 --seed 1 --minutes 20"

The servers are VLLM_BASE_URL (chat) and VLLM_EMBED_BASE_URL (embeddings); fault servers if they are not set. The exit
code is 1 if an answer was wrong, an error was not a VLLMError, a call took too long, or if the process holds more
files, sockets, threads, tasks, objects or memory at the end than after the warm-up.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence

# Before the frameworks are imported.
os.environ |= {"HAYSTACK_TELEMETRY_ENABLED": "False", "LANGSMITH_TRACING": "false"}

import measured
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from soak.expected import Expected
from soak.paths import Connection, all_paths
from soak.proxy import Proxy
from soak.resources import leaks, measure
from soak.runner import Soak, Tally
from vllm_adapters import Timeouts
from vllm_adapters import errors as vllm_errors

TIMEOUTS = Timeouts(connect=5, idle=5, total=15)
LIMIT = 17  # seconds of a call: its total time limit, and a margin for a busy machine
ROUNDS, WARM_UP = 10, 3


def main() -> int:
    """Run the soak and print its results."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "--calls", type=int, default=3600, help="number of calls (default 3600: one per second for an hour)"
    )
    arguments.add_argument(
        "--minutes", type=float, default=30, help="minutes after which no call is started (default 30)"
    )
    arguments.add_argument(
        "--faults", type=float, default=0.2, help="share of the responses with a fault (default 0.2)"
    )
    arguments.add_argument("--seed", type=int, default=0, help="seed of calls and faults (default 0)")
    arguments.add_argument("--save", action="store_true", help="save the results for the documentation (make readme)")
    args = arguments.parse_args()
    random.seed(args.seed)
    began = time.monotonic()
    with (
        Proxy(os.environ.get("VLLM_BASE_URL"), args.faults, args.seed) as chat_proxy,
        Proxy(os.environ.get("VLLM_EMBED_BASE_URL"), args.faults, args.seed + 1) as pooling_proxy,
    ):
        expected = Expected.from_servers(chat_proxy.server, pooling_proxy.server)
        connection = Connection(chat_proxy.url, pooling_proxy.url, TIMEOUTS)
        with Soak(all_paths(connection), expected, LIMIT, args.seed) as soak:
            try:
                warm, end = run(soak, args.calls, began + 60 * args.minutes, (chat_proxy, pooling_proxy), args.faults)
            except TimeoutError:  # recorded for each call
                warm = end = {}
    grown = leaks(warm, end)
    print_results(soak.tally, warm, end, grown)
    faults = Counter(chat_proxy.faults) + Counter(pooling_proxy.faults)
    minutes = round((time.monotonic() - began) / 60, 1)
    print(f"responses by fault: {', '.join(f'{count} {name}' for name, count in faults.most_common())}")
    print(f"{minutes} minutes; leaks: {', '.join(grown) or 'none'}")
    if args.save:
        total = soak.tally.by_outcome
        errors = {name: count for name, count in total.items() if name in vars(vllm_errors)}
        longest = round(max(soak.tally.longest.values()), 1)
        figures = {
            "calls": total.total(),
            "correct": total["correct"],
            "cancelled": total["cancelled"],
            "errors": errors,
        }
        failed = {"failures": len(soak.tally.failures), "longest": longest, "limit": TIMEOUTS.total}
        measured.save("soak", {**figures, **failed, "minutes": minutes, "warm": warm, "end": end})
    return 1 if grown or soak.tally.failures else 0


def run(
    soak: Soak, calls: int, until: float, proxies: Sequence[Proxy], faults: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Run all rounds; return the resources after the warm-up and at the end.

    Raises:
        TimeoutError: A call hangs.
    """
    counts: list[dict[str, float]] = []
    columns = TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("calls", total=calls + 2 * soak.settling)

        def tick() -> None:
            progress.update(bar, completed=soak.tally.outcomes.total())

        for number in range(1, ROUNDS + 1):
            soak.run(calls * number // ROUNDS - calls * (number - 1) // ROUNDS, until, tick)
            if number in (WARM_UP, ROUNDS):
                for proxy in proxies:  # otherwise the number of kept connections is random
                    proxy.set_share(0)
                soak.settle(tick)
                counts.append(measure())
                for proxy in proxies:
                    proxy.set_share(faults)
            shown = "  ".join(f"{name} {value:.0f}" for name, value in measure().items())
            total, failed = soak.tally.outcomes.total(), len(soak.tally.failures)
            progress.console.print(f"{total:6d} calls  failed {failed}  {shown}", soft_wrap=True, highlight=False)
    return counts[0], counts[1]


def print_results(tally: Tally, warm: Mapping[str, float], end: Mapping[str, float], grown: Sequence[str]) -> None:
    """Print the tables."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    total = tally.by_outcome
    named = ["correct", "cancelled", *sorted(set(total) - {"correct", "cancelled"})]
    table = Table(title="Calls", title_justify="left")
    for heading in ("", "calls", *named, "longest, s"):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for path in sorted(tally.longest):
        numbers = [tally.outcomes[path, outcome] for outcome in named]
        table.add_row(path, *(str(count or "") for count in (sum(numbers), *numbers)), f"{tally.longest[path]:.1f}")
    table.add_section()
    numbers = [total[outcome] for outcome in named]
    table.add_row("all", *map(str, (sum(numbers), *numbers)), f"{max(tally.longest.values()):.1f}")
    console.print(table)
    resources = Table(title="Resources", title_justify="left")
    for heading in ("", "after warm-up", "at the end", "growth"):
        resources.add_column(heading, justify="right" if heading else "left")
    for name in warm:
        row = f"{warm[name]:.0f}", f"{end[name]:.0f}", f"{end[name] - warm[name]:+.0f}"
        resources.add_row(name, *row, style="bold red" if name in grown else None)
    console.print(resources)
    for failure in tally.failures[:20]:
        console.print(failure, style="bold red", markup=False)


if __name__ == "__main__":
    sys.exit(main())
