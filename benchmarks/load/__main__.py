"""Stream through vllm-router to two replicas while one of them is killed and restarted, and count what is wrong.

    make load                                            # 500 streams at once for five minutes, two kills
    make load ARGS="--streams 100 --seconds 60 --kills 1"
    make load ARGS="--save"                              # and save the figures for the documentation (make readme)

The replica that is not killed is VLLM_BASE_URL, or started here. The exit code is 1 if a stream has lost or doubled
tokens, ends without an outcome, raises another error than a VLLMError, or lasts longer than its time limit and the
longest delay of the event loop, or if memory or open files have grown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measured
from gateways.start import BIN, responds, router
from processes import GROWTH, descendants, rss, wait_until_ended

from vllm_adapters import AsyncVLLMClient, LocalVLLM, Timeouts, VLLMError
from vllm_adapters.local.ports import free_port

TIMEOUTS = Timeouts(connect=10, idle=30, total=60)
MARGIN = 5  # seconds of a call beyond its time limit and the time for which the event loop did not run


class Replica:
    """The replica that is killed. It is started again at once."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "replica.log"
        self.start()

    def start(self) -> None:
        """Start it, without waiting until it is ready."""
        command = [str(BIN / "vllm-adapters"), "serve", "tiny", "--port", str(self.port)]
        with self.log.open("wb") as log:
            self.running = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """Kill vLLM and what started it with SIGKILL."""
        started = descendants(self.running.pid)
        for pid in [*started, self.running.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it has ended with another one
                continue
        self.running.wait()
        wait_until_ended(started)

    async def ready(self) -> None:
        """Wait until it is ready."""
        while not await asyncio.to_thread(responds, f"{self.url}/health"):
            if self.running.poll() is not None:
                raise RuntimeError(f"The replica ended:\n{self.log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(1)


@dataclass
class Tally:
    """What has happened."""

    started: int = 0
    whole: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    ids: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    longest: float = 0.0
    late: float = 0.0
    first_tokens: list[float] = field(default_factory=list)
    tokens: int = 0

    def count(self, name: str, tokens: int, usage: Any, reason: str | None) -> None:
        """Compare the tokens of a stream that ended as complete with the server's count."""
        self.whole += 1
        self.tokens += tokens
        if name in self.ids:
            self.wrong.append(f"{name} arrived twice")
        self.ids.add(name)
        if reason is None or usage is None:
            self.wrong.append(f"{name}: finish reason {reason}, usage {usage}")
            return
        self.lost += max(0, usage.completion_tokens - tokens)
        self.doubled += max(0, tokens - usage.completion_tokens)
        if usage.completion_tokens != tokens:
            self.wrong.append(f"{name}: {tokens} of {usage.completion_tokens} tokens")

    def figures(self) -> dict[str, Any]:
        """Return the counts, and percentiles of the time to the first token in seconds."""
        found = sorted(self.first_tokens)
        percentiles = {f"p{share}": round(found[len(found) * share // 100], 2) for share in (50, 99)} if found else {}
        return {
            "begun": self.started,
            "whole": self.whole,
            "errors": dict(self.errors.most_common()),
            "lost": self.lost,
            "doubled": self.doubled,
            "tokens": self.tokens,
            "first_token": percentiles,
            "longest": round(self.longest, 1),
            "late": round(self.late, 1),
        }


async def stream(client: AsyncVLLMClient, tally: Tally) -> None:
    """Read one stream."""
    tally.started += 1
    began, tokens, usage, reason, name = time.monotonic(), 0, None, None, ""
    try:
        chunks = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": f"{random.random()} Tell me a story"}],
            stream=True,
            max_tokens=64,
            temperature=1,
            stream_options={"include_usage": True},
            extra_body={"return_token_ids": True, "ignore_eos": True},
        )
        async for chunk in chunks:
            name, usage = chunk.id, chunk.usage or usage
            for choice in chunk.choices:
                received = len(getattr(choice, "token_ids", None) or ())
                if received and not tokens:
                    tally.first_tokens.append(time.monotonic() - began)
                tokens += received
                reason = choice.finish_reason or reason
        tally.count(name, tokens, usage, reason)
    except VLLMError as error:
        tally.errors[type(error).__name__] += 1
    except Exception as error:  # the run goes on, and fails at its end
        tally.errors["untyped"] += 1
        tally.wrong.append(f"{type(error).__name__}: {error}")
    tally.longest = max(tally.longest, time.monotonic() - began)


async def watch(tally: Tally) -> None:
    """Measure by how much the event loop is late: the servers leave this process too little of the machine."""
    while True:
        due = time.monotonic() + 0.1
        await asyncio.sleep(0.1)
        tally.late = max(tally.late, time.monotonic() - due)


def resources() -> dict[str, int]:
    """Return the memory of this process in MiB, and its open files."""
    return {"MiB": rss(), "files": len(list(Path("/proc/self/fd").iterdir()))}


async def load(args: argparse.Namespace, url: str, replica: Replica) -> tuple[dict[str, Any], list[str]]:
    """Run the streams and the kills; return the figures, and what is wrong."""
    tally, began, kills = Tally(), time.monotonic(), list[dict[str, int]]()
    end = began + args.seconds

    async def worker(client: AsyncVLLMClient) -> None:
        while time.monotonic() < end:
            await stream(client, tally)

    async def kill() -> None:
        for number in range(args.kills):
            await asyncio.sleep(max(0, began + args.seconds * (number + 0.5) / args.kills - time.monotonic()))
            await asyncio.to_thread(replica.kill)
            kills.append({"after": round(time.monotonic() - began)})
            print(f"{kills[-1]['after']} s: a replica is killed; {tally.whole} whole", flush=True)
            replica.start()
            await replica.ready()
            kills[-1]["back"] = round(time.monotonic() - began)
            print(f"{kills[-1]['back']} s: it is back; {tally.whole} whole, {dict(tally.errors)}", flush=True)

    async with AsyncVLLMClient(url, timeout=TIMEOUTS, max_retries=2) as client:
        killing, watching = asyncio.create_task(kill()), asyncio.create_task(watch(tally))
        workers = [asyncio.create_task(worker(client)) for _ in range(args.streams)]
        await asyncio.sleep(args.seconds / 5)
        before = resources()
        await asyncio.gather(*workers)
        lasted, after = time.monotonic() - began, resources()
    watching.cancel()
    await killing
    if tally.started != tally.whole + tally.errors.total():
        tally.wrong.append("a stream has no outcome")
    if not tally.whole:
        tally.wrong.append("no stream was whole")
    if tally.longest > (TIMEOUTS.total or 0) + tally.late + MARGIN:
        tally.wrong.append(f"a stream lasted {tally.longest:.0f} s")
    if after["MiB"] > GROWTH * before["MiB"] or after["files"] > before["files"] + args.streams:
        tally.wrong.append(f"memory or open files have grown: {before}, {after}")
    run = {"streams": args.streams, "seconds": round(lasted), "kills": kills, "machine": measured.machine()}
    figures = {**run, **tally.figures(), "limit": TIMEOUTS.total, "before": before, "after": after}
    return figures, tally.wrong


def rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the figures as rows of a table, for people and for the documentation."""
    kills = ", ".join(f"after {kill['after']} s, back after {kill['back']} s" for kill in figures["kills"])
    failed = ", ".join(f"{name} {count}" for name, count in figures["errors"].items())
    first, before, after = figures["first_token"], figures["before"], figures["after"]
    return [
        ("streams at once, seconds", f"{figures['streams']}, {figures['seconds']}"),
        ("a replica killed", kills or "never"),
        ("streams begun", f"{figures['begun']:,}"),
        ("whole", f"{figures['whole']:,}, of {figures['tokens']:,} tokens"),
        ("ended in a `VLLMError`", failed or "0"),
        ("tokens lost, tokens doubled", f"{figures['lost']}, {figures['doubled']}"),
        ("time to the first token, p50, p99", f"{first.get('p50')} s, {first.get('p99')} s"),
        (f"longest call, with a limit of {figures['limit']:.0f} s", f"{figures['longest']} s"),
        ("longest delay of the event loop", f"{figures['late']} s"),
        ("memory after a fifth, at the end", f"{before['MiB']} MiB, {after['MiB']} MiB"),
        ("open files after a fifth, at the end", f"{before['files']}, {after['files']}"),
    ]


def main() -> int:
    """Start the servers, and run the load."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--streams", type=int, default=500)
    arguments.add_argument("--seconds", type=float, default=300)
    arguments.add_argument("--kills", type=int, default=2)
    arguments.add_argument("--save", action="store_true", help="save the figures for the documentation")
    args = arguments.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kept = os.environ.get("VLLM_BASE_URL") or stack.enter_context(LocalVLLM("tiny")).client.vllm.root
        replica = Replica(folder)
        stack.callback(replica.kill)
        asyncio.run(replica.ready())
        url = stack.enter_context(router([kept.rstrip("/").removesuffix("/v1"), replica.url], folder))
        figures, wrong = asyncio.run(load(args, url, replica))
    for name, value in rows(figures):
        print(f"{name:40}{value}")
    print("\n".join(["WRONG:", *wrong[:20]]) if wrong else "Nothing lost, doubled, untyped, late or grown.")
    if args.save and not wrong:
        measured.save("load", {**figures, "rows": rows(figures)})
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
