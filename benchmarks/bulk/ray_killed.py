"""The recipe ``answer_many_with_ray``, with its driver killed three times, and a worker before and after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from processes import descendants, rss, title, wait_until_ended

from bulk.figures import Figures, lines

RECIPE = Path(__file__).parent.parent.parent / "recipes" / "answer_many_with_ray.py"
WORKER = "ray::MapWorker(MapBatches(Answer))"
KILLS = (("worker", 0.1), ("driver", 0.15), ("driver", 0.25), ("driver", 0.35), ("worker", 0.45))
"""What is killed, and after which share of the items. The last run is the longest: memory is measured in it."""
STEPS = 8


def run(urls: Sequence[str], folder: Path, items: int) -> Figures:
    """Run, kill and resume the recipe, then count.

    Raises:
        RuntimeError: The recipe ended by itself, or failed.
    """
    part = max(10, items // 100)
    environment = {"VLLM_BASE_URL": " ".join(urls), "VLLM_MODEL": "stub", "ITEMS": str(items), "PART": str(part)}
    command = [sys.executable, str(RECIPE), str(folder)]
    figures, began = Figures(items), time.monotonic()
    with (folder / "ray.log").open("wb") as log:

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=log, text=True
            )

        job = start()
        for what, share in KILLS:
            _wait(job, folder, round(items * share))
            workers = _workers(job.pid)
            victim = workers[0] if what == "worker" else job.pid
            os.kill(victim, signal.SIGKILL)
            figures.killed.append((what, done := _done(folder)))
            print(f"{what} killed with {done} of {items} results, {time.monotonic() - began:.0f} s", flush=True)
            if what == "driver":
                job.wait()
                wait_until_ended(workers)  # Ray ends them; they may finish a part before
                job = start()
        figures.memory = {"driver": [], "largest worker": []}
        first = _done(folder) + 2 * part  # a worker has died, and its successor is as warm as the others then
        for step in range(STEPS):
            _wait(job, folder, first + (items - part - first) * step // (STEPS - 1))
            figures.memory["driver"].append(rss(job.pid))
            figures.memory["largest worker"].append(max(map(rss, _workers(job.pid)), default=0))
        printed, _ = job.communicate()
    if job.returncode:
        raise RuntimeError(f"The last run failed: {(folder / 'ray.log').read_text(errors='replace')[-3000:]}")
    figures.seconds = time.monotonic() - began
    counts = printed.splitlines()[-1]  # "1500 answered before, 8500 now, 0 failed"; before it are Ray's messages
    print(counts)
    figures.asked = int(counts.split()[3])
    files = [(int(file.stem.removeprefix("part-")) * part, file) for file in folder.glob("part-*.jsonl")]
    figures.count(files, lambda item: f"What is {item} plus one?")
    return figures


def _wait(job: subprocess.Popen[str], folder: Path, results: int) -> None:
    """Wait until there are so many results, and the job has workers."""
    while _done(folder) < results or not _workers(job.pid):
        if job.poll() is not None:
            log = (folder / "ray.log").read_text(errors="replace")[-3000:]
            raise RuntimeError(f"The recipe ended by itself: {job.returncode}\n{log}")
        time.sleep(0.3)


def _done(folder: Path) -> int:
    return sum(map(lines, folder.glob("part-*.jsonl")))


def _workers(pid: int) -> list[int]:
    """Return the recipe's workers; Ray starts them."""
    return [child for child in descendants(pid) if title(child).startswith(WORKER)]
