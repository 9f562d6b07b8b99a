"""What this process holds."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOM = {"files": 8, "sockets": 8, "threads": 2, "tasks": 0}
"""By how much a count may differ that does not grow: by requests of one call that share a connection, or do not."""
SHARES = {"objects": 0.02, "MB": 0.1}
"""By what share the others may."""


def held() -> dict[str, float]:
    """Open files and sockets, threads, unfinished tasks, Python's objects, and resident memory."""
    gc.collect()
    files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _there(fd)]
    things = gc.get_objects()
    return {
        "files": len(files),
        "sockets": sum(name.startswith("socket") for name in files),
        "threads": threading.active_count(),
        "tasks": sum(issubclass(type(thing), asyncio.Task) and not thing.done() for thing in things),
        "objects": len(things),
        "MB": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6,
    }


def leaks(warm: Mapping[str, float], end: Mapping[str, float]) -> Sequence[str]:
    """What has grown."""
    return [name for name in end if end[name] > warm[name] * (1 + SHARES.get(name, 0)) + ROOM.get(name, 0)]


def _there(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")
