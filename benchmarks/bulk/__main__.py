"""Run a bulk job, kill it with SIGKILL three times, resume it, and count what is in its file.

    make bulk ARGS="--items 100000"                          # against a fault server
    make bulk ARGS="--items 2000 --url http://localhost:30000"   # against a server or a router

The exit code is 1 if an item is missing or doubled, failed, or has another item's reply, or if memory grew.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from vllm_adapters.testing import FaultServer, faults

GROWTH = 1.2  # of the memory from the first tenth of the items to the last
JOB = Path(__file__).with_name("job.py")


def _serve(pipe: Connection) -> None:
    with FaultServer() as server:
        overloaded = faults.error(429, "too many", retry_after=0.2)
        server.script("/v1/chat/completions", [*[faults.chat()] * 500, *[overloaded] * 50])
        pipe.send(server.url)
        while not pipe.poll(1):
            server.requests.clear()  # in memory; the file is what counts


@contextmanager
def stub() -> Iterator[str]:
    """Run a fault server in a process of its own."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(there,))
    process.start()
    yield here.recv()
    here.send(None)
    process.join()


def lines(file: Path) -> int:
    """Return the number of results in the file."""
    if not file.exists():
        return 0
    with file.open("rb") as content:
        return max(0, sum(1 for _ in content) - 1)


def main() -> int:
    """Run the job and print its figures."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--items", type=int, default=100_000)
    arguments.add_argument("--kills", type=int, default=3)
    arguments.add_argument("--concurrency", type=int, default=64)
    arguments.add_argument("--url", help="a server or a router; default: a fault server, which echoes its prompt")
    arguments.add_argument("--model", default="stub")
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "results.jsonl"
        if args.url:
            return run(args, args.url, file, echo=False)
        with stub() as url:
            return run(args, url, file, echo=True)


def run(args: argparse.Namespace, url: str, file: Path, *, echo: bool) -> int:
    """Run, kill and resume the job, then count."""
    command = [sys.executable, str(JOB), url, str(file), str(args.items), str(args.concurrency), args.model]
    began = time.monotonic()
    for kill in range(1, args.kills + 1):
        job = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while lines(file) < args.items * kill / (args.kills + 1):
            if job.poll() is not None:
                print(f"The job ended by itself: {job.returncode}")
                return 1
            time.sleep(0.5)
        job.send_signal(signal.SIGKILL)
        job.wait()
        print(f"killed with {lines(file)} of {args.items} results after {time.monotonic() - began:.0f} s", flush=True)
    last = subprocess.run(command, capture_output=True, text=True, check=False)
    if last.returncode:
        print(last.stderr[-2000:])
        return 1
    memory = [int(line.split()[2]) for line in last.stdout.splitlines() if line.startswith("rss ")]
    failed = [line for line in last.stdout.splitlines() if line.startswith("failed ")]
    print(f"resumed and done after {time.monotonic() - began:.0f} s; {last.stdout.splitlines()[-1]} in the last run")
    print(f"memory in MiB after each tenth of the last run: {', '.join(str(kib // 1024) for kib in memory)}")
    return count(file, args.items, echo=echo) or bool(failed) or memory[-1] > GROWTH * memory[0]


def count(file: Path, items: int, *, echo: bool) -> int:
    """Print how often each item is in the file, and return 1 unless each is there once."""
    seen: Counter[int] = Counter()
    wrong = 0
    with file.open(encoding="utf-8") as content:
        next(content)
        for line in content:
            result = json.loads(line)
            seen[result["index"]] += 1
            text = result["reply"]["choices"][0]["message"]["content"]
            wrong += echo and text != f"What is the capital of country {result['index']}?"
    missing = items - len(seen)
    doubled = sum(times > 1 for times in seen.values())
    print(f"{items} items: {missing} missing, {doubled} doubled, {wrong} with another item's reply")
    return int(bool(missing or doubled or wrong))


if __name__ == "__main__":
    sys.exit(main())
