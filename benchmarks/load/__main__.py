"""Stream through vllm-router to two replicas while one of them is killed and restarted, and count what is wrong.

    make load                                            # 500 streams at once for five minutes, two kills
    make load ARGS="--streams 100 --seconds 60 --kills 1"

The replica that is not killed is VLLM_BASE_URL, or started here. The exit code is 1 if a stream has lost or doubled
tokens, ends without an outcome, raises another error than a VLLMError, or lasts longer than its time limit.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from gateways.start import BIN, free_port, process, responds

from vllm_adapters import AsyncVLLMClient, LocalVLLM, Timeouts, VLLMError

TIMEOUTS = Timeouts(connect=10, idle=30, total=60)
LIMIT = 65  # seconds of a call: its total time limit, and a margin for a busy machine


class Replica:
    """The replica that is killed. It is started again at once."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = (folder / "replica.log").open("wb")
        self.start()

    def start(self) -> None:
        """Start it, without waiting until it is ready."""
        command = [BIN / "vllm-adapters", "serve", "tiny", "--port", str(self.port)]
        self.running = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def kill(self) -> None:
        """Kill it with SIGKILL; its supervisor ends vLLM then."""
        self.running.send_signal(signal.SIGKILL)
        self.running.wait()

    async def ready(self) -> None:
        """Wait until it is ready."""
        while not await asyncio.to_thread(responds, f"{self.url}/health"):
            if self.running.poll() is not None:
                raise RuntimeError(f"The replica ended: {self.running.returncode}")
            await asyncio.sleep(1)


@dataclass
class Tally:
    """What has happened."""

    started: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    ids: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    longest: float = 0.0
    tokens: int = 0

    def fail(self, what: str) -> None:
        """Note what is wrong."""
        self.wrong.append(what)


async def stream(client: AsyncVLLMClient, tally: Tally) -> None:
    """Read one stream, and compare its tokens with the server's count."""
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
                tokens += len(getattr(choice, "token_ids", None) or ())
                reason = choice.finish_reason or reason
        tally.outcomes["complete"] += 1
        tally.tokens += tokens
        if name in tally.ids:
            tally.fail(f"{name} arrived twice")
        tally.ids.add(name)
        if reason is None or usage is None or usage.completion_tokens != tokens:
            tally.fail(f"{name}: {tokens} tokens, finish reason {reason}, usage {usage}")
    except VLLMError as error:
        tally.outcomes[type(error).__name__] += 1
    except Exception as error:  # the run goes on, and fails at its end
        tally.outcomes["untyped"] += 1
        tally.fail(f"{type(error).__name__}: {error}")
    tally.longest = max(tally.longest, time.monotonic() - began)


def memory() -> tuple[int, int]:
    """Return the memory of this process in MiB, and its open files."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 2**20, len(list(Path("/proc/self/fd").iterdir()))


async def load(args: argparse.Namespace, url: str, replica: Replica) -> int:
    """Run the streams and the kills, and print what has happened."""
    tally, began = Tally(), time.monotonic()
    end = began + args.seconds

    async def worker(client: AsyncVLLMClient) -> None:
        while time.monotonic() < end:
            await stream(client, tally)

    async def kills() -> None:
        for number in range(args.kills):
            await asyncio.sleep(max(0, began + args.seconds * (number + 0.5) / args.kills - time.monotonic()))
            await asyncio.to_thread(replica.kill)
            killed = time.monotonic()
            print(f"{killed - began:.0f} s: a replica is killed; {dict(tally.outcomes)}", flush=True)
            replica.start()
            await replica.ready()
            print(f"{time.monotonic() - began:.0f} s: it is back", flush=True)

    async with AsyncVLLMClient(url, timeout=TIMEOUTS, max_retries=2) as client:
        killing = asyncio.create_task(kills())
        workers = [asyncio.create_task(worker(client)) for _ in range(args.streams)]
        await asyncio.sleep(args.seconds / 5)
        before = memory()
        await asyncio.gather(*workers)
        lasted, after = time.monotonic() - began, memory()
    if tally.started != tally.outcomes.total():
        tally.fail("a stream has no outcome")
    if tally.longest > LIMIT:
        tally.fail(f"a stream lasted {tally.longest:.0f} s")
    print(f"{tally.started} streams in {lasted:.0f} s, {args.streams} at once: {dict(tally.outcomes)}")
    print(f"{tally.tokens} tokens; the longest call {tally.longest:.1f} s of {TIMEOUTS.total} s")
    print(f"memory and open files after a fifth {before}, at the end {after}")
    print("\n".join(["wrong:", *tally.wrong[:20]]) if tally.wrong else "nothing lost, doubled or untyped", flush=True)
    await killing
    return int(bool(tally.wrong))


def main() -> int:
    """Start the servers, and run the load."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--streams", type=int, default=500)
    arguments.add_argument("--seconds", type=float, default=300)
    arguments.add_argument("--kills", type=int, default=2)
    args = arguments.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kept = os.environ.get("VLLM_BASE_URL") or stack.enter_context(LocalVLLM("tiny")).client.vllm.root
        replica = Replica(folder)
        stack.callback(replica.kill)
        asyncio.run(replica.ready())
        port = free_port()
        workers = [kept.rstrip("/").removesuffix("/v1"), replica.url]
        command = [BIN / "vllm-router", "--worker-urls", *workers, "--port", port, "--prometheus-port", free_port()]
        url = f"http://127.0.0.1:{port}"
        stack.enter_context(process(command, f"{url}/health", folder / "router.log"))
        return asyncio.run(load(args, url, replica))


if __name__ == "__main__":
    sys.exit(main())
