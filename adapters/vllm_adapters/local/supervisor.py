"""Stands between a Python program and the vLLM it started, so that no server outlives the program.

Run as `python -I supervisor.py LOG COMMAND...` with standard input and output as pipes. It starts COMMAND in a
session of its own, writes COMMAND's process id on a line, and waits. When its standard input ends, or the
program that started it is gone however that came about, or COMMAND ends by itself, it ends COMMAND with all
its descendants, and then itself with COMMAND's exit code. It needs only the standard library, and Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 10.0  # seconds between SIGTERM and SIGKILL


def prctl(option: int, value: int) -> None:
    """Linux's prctl(2)."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl failed")


def descendants() -> list[int]:
    """All processes below this one, found through /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):  # it ended meanwhile
                # The name in parentheses may itself hold spaces and parentheses.
                parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = children.get(os.getpid(), [])[:]
    for pid in found:  # grows while it is walked
        found += children.get(pid, [])
    return found


def reap() -> None:
    """Collects descendants that ended after their parent did: this process adopted them."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def end(server: subprocess.Popen[bytes]) -> int:
    """Ends the server and everything it started; returns its exit code."""
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(PATIENCE)
    if server.poll() is None:
        server.kill()
        server.wait()
    # The server's own children have had their notice: what is left gets a moment, then is killed.
    deadline = time.monotonic() + 2.0
    while pids := descendants():
        if time.monotonic() > deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(0.05)
    return server.returncode


def main() -> int:
    """Entry point."""
    parent = os.getppid()
    # Children of the server whose parent dies come to this process, where they are found.
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    with Path(sys.argv[1]).open("ab") as log:
        server = subprocess.Popen(  # noqa: S603 - the command is this script's purpose
            sys.argv[2:],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Should this process be killed, the server still gets a signal.
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.flush()
    while server.poll() is None and not stopped and os.getppid() == parent:
        ready, _, _ = select.select([sys.stdin], [], [], 0.25)
        if ready and not os.read(sys.stdin.fileno(), 1024):
            break
    code = end(server)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
