"""The resources that this process holds."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

TOLERANCE = {"files": 8, "sockets": 8, "threads": 2, "tasks": 0}
"""Growth of a count that is not a leak: requests of one call may or may not share a connection."""
RELATIVE_TOLERANCE = {"objects": 0.02, "MB": 0.1}
"""Relative growth that is not a leak, for the others."""


def measure() -> dict[str, float]:
    """Return the number of open files, sockets, threads, unfinished tasks and Python objects, and the memory in MB."""
    gc.collect()
    files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _exists(fd)]
    objects = gc.get_objects()
    return {
        "files": len(files),
        "sockets": sum(name.startswith("socket") for name in files),
        "threads": threading.active_count(),
        "tasks": sum(issubclass(type(item), asyncio.Task) and not item.done() for item in objects),
        "objects": len(objects),
        "MB": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6,
    }


def leaks(warm: Mapping[str, float], end: Mapping[str, float]) -> Sequence[str]:
    """Return the resources that have grown by more than the tolerance."""
    return [
        name for name in end if end[name] > warm[name] * (1 + RELATIVE_TOLERANCE.get(name, 0)) + TOLERANCE.get(name, 0)
    ]


def _exists(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")
