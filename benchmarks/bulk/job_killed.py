"""``BulkChat`` in a process that is killed three times."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from bulk.figures import Figures, lines

JOB = Path(__file__).with_name("job.py")
KILLS = 3


def run(url: str, model: str, file: Path, items: int, concurrency: int, *, echo: bool) -> Figures:
    """Run, kill and resume the job, then count.

    Raises:
        RuntimeError: The job ended by itself, or failed.
    """
    command = [sys.executable, str(JOB), url, str(file), str(items), str(concurrency), model]
    figures, began = Figures(items), time.monotonic()
    for kill in range(1, KILLS + 1):
        job = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while lines(file) < items * kill / (KILLS + 1):
            if job.poll() is not None:
                raise RuntimeError(f"The job ended by itself: {job.returncode}")
            time.sleep(0.5)
        job.send_signal(signal.SIGKILL)
        job.wait()
        figures.killed.append(("job", lines(file)))
        print(f"killed with {lines(file)} of {items} results, {time.monotonic() - began:.0f} s", flush=True)
    last = subprocess.run(command, capture_output=True, text=True, check=False)
    if last.returncode:
        raise RuntimeError(f"The last run failed: {last.stderr[-2000:]}")
    figures.seconds = time.monotonic() - began
    reported = [line.split(maxsplit=2) for line in last.stdout.splitlines()]
    figures.memory["job"] = [int(line[2]) for line in reported if line[0] == "rss"]
    figures.asked = next(int(line[1]) for line in reported if line[0] == "asked")
    figures.count([(0, file)], (lambda item: f"What is the capital of country {item}?") if echo else None)
    return figures
