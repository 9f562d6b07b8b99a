"""Run a bulk job, kill it with SIGKILL three times, resume it, and count what is in its file.

    make bulk                                       # 100,000 prompts, against a fault server
    make bulk ARGS="--live"                         # 2,000, against two `tiny` behind vllm-router
    make bulk ARGS="--ray"                          # 10,000, the Ray Data recipe, against two fault servers
    make bulk ARGS="--items 500 --url http://localhost:30000 --model tiny"

``--save`` saves the figures for the documentation (then: ``make readme``). The exit code is 1 if an item is missing or
doubled, failed, or has another item's reply, or if memory grew.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import measured

from bulk import job_killed, ray_killed
from bulk.figures import Figures
from bulk.servers import replicas, stub

ITEMS = {"stub": 100_000, "live": 2_000, "ray": 10_000, "url": 2_000}


def main() -> int:
    """Run the job, and print its figures."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    server = arguments.add_mutually_exclusive_group()
    server.add_argument("--live", action="store_true", help="against two `tiny` behind vllm-router (VLLM_REPLICAS)")
    server.add_argument("--ray", action="store_true", help="run the recipe answer_many_with_ray")
    server.add_argument("--url", help="against a server or a router; default: a fault server, which echoes its prompt")
    arguments.add_argument("--items", type=int)
    arguments.add_argument("--concurrency", type=int, help="requests at once; not with --ray")
    arguments.add_argument("--model")
    arguments.add_argument("--save", action="store_true", help="save the figures for the documentation")
    args = arguments.parse_args()
    kind = "live" if args.live else "ray" if args.ray else "url" if args.url else "stub"
    items = args.items or ITEMS[kind]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if args.ray:
            figures = ray_killed.run([stack.enter_context(stub()) for _ in range(2)], folder, items)
        else:
            url = args.url or stack.enter_context(replicas() if args.live else stub())
            model = args.model or ("stub" if kind == "stub" else "tiny")
            concurrency = args.concurrency or (32 if args.live else 64)
            figures = job_killed.run(url, model, folder / "results.jsonl", items, concurrency, echo=kind == "stub")
    return finish(figures, kind, save=args.save)


def finish(figures: Figures, kind: str, *, save: bool) -> int:
    """Print the figures, and return the exit code."""
    print("\n".join(figures.lines()))
    for problem in figures.problems():
        print(f"WRONG  {problem}")
    if save:
        measured.save(f"bulk {kind}", figures.as_dict())
    return int(bool(figures.problems()))


if __name__ == "__main__":
    sys.exit(main())
