"""Supervise a server process, so that it never outlives the program that started it.

Run as ``python -I supervisor.py LOG COMMAND...`` with pipes as standard input and output. The supervisor starts
COMMAND in a new session, prints its process id, and waits until standard input is closed, the parent process has
ended for any reason, or COMMAND exits. It then terminates COMMAND with all its descendants, and exits with COMMAND's
exit code. It needs only the standard library, and Linux.
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
TERMINATION_TIMEOUT = 10.0  # seconds between SIGTERM and SIGKILL
DESCENDANTS_TIMEOUT = 2.0  # seconds between the end of the server and SIGKILL for its descendants


def prctl(option: int, value: int) -> None:
    """Call prctl(2) of Linux."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl failed")


def descendants() -> list[int]:
    """Return the ids of all descendants of this process, according to ``/proc``."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):  # the process has just ended
                # The name in parentheses may itself contain spaces and parentheses.
                parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    pids = children.get(os.getpid(), [])[:]
    for pid in pids:  # the list grows during the iteration
        pids += children.get(pid, [])
    return pids


def reap() -> None:
    """Reap descendants that outlived their parent: this process adopted them."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def terminate(server: subprocess.Popen[bytes]) -> int:
    """Terminate the server and all its descendants, and return its exit code."""
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(TERMINATION_TIMEOUT)
    if server.poll() is None:
        server.kill()
        server.wait()
    # The server has told its children to end. Those that do not are killed after a grace period.
    deadline = time.monotonic() + DESCENDANTS_TIMEOUT
    while pids := descendants():
        if time.monotonic() > deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(0.05)
    return server.returncode


def main() -> int:
    """Run the command until it exits or must be terminated, and return its exit code."""
    parent = os.getppid()
    # Descendants whose parent has ended become children of this process, where they are found.
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    with Path(sys.argv[1]).open("ab") as log:
        server = subprocess.Popen(  # noqa: S603 - running the command is the purpose of this script
            sys.argv[2:],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # If this process is killed, the server still gets a signal.
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.flush()
    while server.poll() is None and not stopped and os.getppid() == parent:
        ready, _, _ = select.select([sys.stdin], [], [], 0.25)
        if ready and not os.read(sys.stdin.fileno(), 1024):
            break
    code = terminate(server)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
