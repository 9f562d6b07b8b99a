"""Hours of mixed calls through a proxy that breaks them at random: every answer right or a typed error, nothing leaks.

    python benchmarks/soak.py [--seconds 60] [--faults 0.2]

The server is VLLM_BASE_URL, or a stand-in without one. The proxy is a process of its own. Every tenth of the time the
open files, connections, threads, tasks and memory of this process are counted; the calls stop for that. Exit code 1
when there are more files at the end than when it had warmed up, memory has grown by more than a tenth since, an answer
was wrong, or an error was none of ours.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vllm_adapters import AsyncVLLMClient, Timeouts, VLLMClient, VLLMError
from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.testing import FaultServer

PROMPT = "What is the capital of Japan?"
ASKED: dict[str, Any] = {
    "model": "",
    "messages": [{"role": "user", "content": PROMPT}],
    "max_tokens": 20,
    "temperature": 0,
}
LIMITS = Timeouts(connect=5, idle=3, total=10)
WORKERS, TASKS = 4, 8


def serve_proxy(url: str | None, share: float, told: Any) -> None:
    """Pass connections on to a server, one of its own without an address, and break a share of them."""
    url = url or FaultServer().start().url
    host, port = urlsplit(url).hostname, urlsplit(url).port

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = random.choice(["close", "reset", "hang", "html"]) if random.random() < share else None
        left = random.randrange(1500)
        with suppress(OSError, asyncio.IncompleteReadError):
            upstream, back = await asyncio.open_connection(host, port)

            async def forth() -> None:
                with suppress(OSError):
                    while data := await reader.read(65536):
                        back.write(data)
                        await back.drain()
                back.close()

            asking = asyncio.ensure_future(forth())
            while data := await upstream.read(65536):
                if fault == "html":
                    writer.write(
                        b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>"
                    )
                    break
                if fault and len(data) > left:
                    writer.write(data[:left])
                    await writer.drain()
                    if fault == "hang":
                        await asyncio.sleep(30)
                    if fault == "reset":
                        writer.transport.abort()
                    break
                left -= len(data)
                writer.write(data)
                await writer.drain()
            asking.cancel()
            back.close()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        told.put((url, server.sockets[0].getsockname()[1]))
        await server.serve_forever()

    asyncio.run(main())


class Soak:
    """The calls, and what came of them."""

    def __init__(self, url: str, expected: str) -> None:
        self.expected = expected
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.pause, self.stop = threading.Event(), threading.Event()
        self.resting = threading.Semaphore(0)
        given: dict[str, Any] = {"timeout": LIMITS, "max_retries": 1}
        self.client, self.aclient = VLLMClient(url, **given), AsyncVLLMClient(url, **given)
        self.llm = ChatVLLM(base_url=url, temperature=0, max_tokens=20, **given)

    def chat(self) -> str:
        return self.client.chat.completions.create(**ASKED).choices[0].message.content or ""

    def stream(self) -> str:
        chunks = self.client.chat.completions.create(**ASKED, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    def leave(self) -> None:
        for _ in self.client.chat.completions.create(**ASKED, stream=True):
            break

    def langchain(self) -> str:
        return str(self.llm.invoke(PROMPT).text)

    def langchain_stream(self) -> str:
        return "".join(str(chunk.text) for chunk in self.llm.stream(PROMPT))

    async def achat(self) -> str:
        return (await self.aclient.chat.completions.create(**ASKED)).choices[0].message.content or ""

    async def astream(self) -> str:
        chunks = await self.aclient.chat.completions.create(**ASKED, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

    async def cancel(self) -> None:
        task = asyncio.ensure_future(self.astream())
        await asyncio.sleep(random.random() / 5)
        task.cancel()
        with suppress(asyncio.CancelledError, VLLMError):
            await task

    def note(self, name: str, answer: str | Exception | None) -> None:
        if isinstance(answer, VLLMError):
            self.outcomes[type(answer).__name__] += 1
        elif isinstance(answer, Exception) or (answer is not None and answer != self.expected):
            self.wrong.append(f"{name}: {answer!r}")
        else:
            self.outcomes["left" if answer is None else "right"] += 1

    def in_thread(self) -> None:
        """Sync calls, until told to stop."""
        ways = [self.chat, self.stream, self.leave, self.langchain, self.langchain_stream]
        while not self.stop.is_set():
            way: Callable[[], str | None] = random.choice(ways)
            try:
                self.note(way.__name__, way())
            except Exception as error:
                self.note(way.__name__, error)
            self._rest()

    def in_loops(self) -> None:
        """Async calls, in one event loop after another."""
        while not self.stop.is_set():
            asyncio.run(self._several())
            self._rest()

    async def _several(self) -> None:
        ways = random.choices([self.achat, self.astream, self.cancel], k=TASKS)
        for way, answer in zip(ways, await asyncio.gather(*(w() for w in ways), return_exceptions=True), strict=True):
            self.note(way.__name__, answer)  # type: ignore[arg-type]

    def _rest(self) -> None:
        if self.pause.is_set():
            self.resting.release()
            while self.pause.is_set():
                time.sleep(0.05)

    def counted(self) -> dict[str, float]:
        """What this process holds while nobody calls."""
        self.pause.set()
        for _ in range(WORKERS + 1):
            self.resting.acquire()
        gc.collect()
        files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _there(fd)]
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        tasks = sum(isinstance(thing, asyncio.Task) and not thing.done() for thing in gc.get_objects())
        sockets = sum(name.startswith("socket") for name in files)
        self.pause.clear()
        return {
            "files": len(files),
            "sockets": sockets,
            "threads": threading.active_count(),
            "tasks": tasks,
            "MB": memory,
        }


def _there(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def main() -> int:
    """Run, and show what was counted."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=60, help="how long (default 60)")
    arguments.add_argument("--faults", type=float, default=0.2, help="share of connections that break (default 0.2)")
    given = arguments.parse_args()
    told = get_context("spawn").Queue()
    proxy = get_context("spawn").Process(
        target=serve_proxy, args=(os.environ.get("VLLM_BASE_URL"), given.faults, told), daemon=True
    )
    proxy.start()
    url, port = told.get()
    with VLLMClient(url) as client:  # past the proxy
        expected = client.chat.completions.create(**ASKED).choices[0].message.content or ""
    soak = Soak(f"http://127.0.0.1:{port}", expected)
    threads = [threading.Thread(target=soak.in_thread, daemon=True) for _ in range(WORKERS)]
    threads.append(threading.Thread(target=soak.in_loops, daemon=True))
    for thread in threads:
        thread.start()
    counts = []
    for tenth in range(1, 11):
        time.sleep(given.seconds / 10)
        counts.append(soak.counted())
        shown = "  ".join(f"{name} {value:.0f}" for name, value in counts[-1].items())
        print(f"{tenth * given.seconds / 10:6.0f} s  {sum(soak.outcomes.values()):6d} calls  {shown}", flush=True)
    soak.stop.set()
    for thread in threads:
        thread.join(30)
    proxy.kill()
    print(", ".join(f"{count} {name}" for name, count in soak.outcomes.most_common()))
    print("\n".join(soak.wrong[:20]))
    warm, last = counts[2], counts[-1]
    leaks = [name for name in ("files", "sockets", "threads", "tasks") if last[name] > warm[name] + WORKERS]
    leaks += ["memory"] if last["MB"] > 1.1 * warm["MB"] else []
    print(f"leaks: {', '.join(leaks) or 'none'}; wrong: {len(soak.wrong)}")
    return 1 if leaks or soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
