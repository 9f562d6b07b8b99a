"""TCP ports of this machine."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from pathlib import Path

__all__ = ["free_port", "is_listening", "is_taken"]

_PORTS = range(20_000, 32_000)
"""Below the ports that Linux gives to outgoing connections."""
_LISTEN = "0A"  # the kernel's number for the state of a listening socket


def free_port() -> int:
    """Return a port that is free now, and that no outgoing connection gets until a server has started on it."""
    for port in random.sample(_PORTS, 100):
        if not is_taken(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_taken(port: int) -> bool:
    """Return whether a port is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: ignores lingering connections
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def is_listening(pid: int, port: int) -> bool:
    """Return whether a process or one of its children listens on a port, according to Linux's ``/proc``.

    A response from the port does not prove it: another server may already have been listening.
    """
    sockets = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if table.is_file():
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    return any(_has_open(process, sockets) for process in (pid, *_children(pid)))


def _has_open(pid: int, sockets: set[str]) -> bool:
    with contextlib.suppress(OSError):  # the process has just ended
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has just been closed
                if os.readlink(descriptor) in sockets:
                    return True
    return False


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):  # the process has just ended
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()]
    return []
