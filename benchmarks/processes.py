"""Processes on this machine (Linux): which has started which, and their memory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

GROWTH = 1.2
"""How much more memory a process may have at the end than after its first steps."""


def rss(pid: int | str = "self") -> int:
    """Return the memory of a process in MiB; 0 if it has ended."""
    lines = _read(pid, "status").decode(errors="replace").splitlines()
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS:")), 0)


def title(pid: int) -> str:
    """Return the command line of a process; nothing if it has ended."""
    return _read(pid, "cmdline").decode(errors="replace").replace("\0", " ")


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _read(int(entry.name), "stat").decode(errors="replace")):
            parents[int(entry.name)] = int(stat.rpartition(") ")[2].split()[1])
    found, new = set[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return sorted(found)


def wait_until_ended(pids: Iterable[int], seconds: float = 60) -> None:
    """Wait until processes that others have killed have ended.

    Raises:
        TimeoutError: One of them is still there after ``seconds``.
    """
    end = time.monotonic() + seconds
    while running := [pid for pid in pids if title(pid)]:
        if time.monotonic() > end:
            raise TimeoutError(f"Processes {running} have not ended within {seconds:.0f} s.")
        time.sleep(0.1)


def _read(pid: int | str, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return b""
