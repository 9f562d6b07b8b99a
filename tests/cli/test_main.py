"""The command line: exit codes, errors, and its output in pipes and terminals."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vllm_adapters import __version__
from vllm_adapters._cli.main import main
from vllm_adapters._demo import runner
from vllm_adapters.errors import ServerUnreachable


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"vllm-adapters {__version__}\n"


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "serve" in printed
    assert "demo" in printed
    assert "recipes" in printed
    assert "doctor" in printed


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 2
    printed = capsys.readouterr().err
    assert all(name in printed for name in ("serve", "demo", "recipes", "doctor"))


def test_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "vllm_adapters", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == f"vllm-adapters {__version__}"


def test_a_command_returns_its_exit_code(monkeypatch):
    monkeypatch.setattr(runner, "run_demo", lambda: 1)
    assert main(["demo"]) == 1


def test_vllm_errors_are_printed_in_one_line(monkeypatch, capsys):
    def fail():
        raise ServerUnreachable("No answer", hint="Is it running?", address="http://gpu:8000/v1")

    monkeypatch.setattr(runner, "run_demo", fail)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "vllm-adapters: No answer (server: http://gpu:8000/v1). Is it running?\n"


def test_other_errors_are_raised(monkeypatch):
    monkeypatch.setattr(runner, "run_demo", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


def test_keyboard_interrupt_is_exit_code_130(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_demo", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_is_not_an_error():
    command = f"{sys.executable} -m vllm_adapters recipes show testing | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("# --- testing/my_chain.py\n", "")


def test_a_pipe_closed_during_a_table_is_exit_code_141():
    command = f"{sys.executable} -m vllm_adapters doctor http://127.0.0.1:9; echo $? >&2"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        running.stdout.close()
        assert running.stderr.read() == "141\n"


def test_a_full_disk_is_reported_in_one_line():
    with open("/dev/full", "w") as full:
        for command in (["recipes", "list"], ["doctor", "http://127.0.0.1:9"]):
            done = subprocess.run(
                [sys.executable, "-m", "vllm_adapters", *command], stdout=full, stderr=subprocess.PIPE, text=True
            )
            assert (done.returncode, done.stderr) == (1, "vllm-adapters: [Errno 28] No space left on device\n")


def test_signs_are_escaped_if_the_terminal_cannot_encode_them():
    done = subprocess.run(
        [sys.executable, "-m", "vllm_adapters", "doctor", "http://127.0.0.1:9"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (2, "")
    assert r"\u2717  reachable" in done.stdout


def test_demo_names_the_unreachable_server(monkeypatch, capsys):
    monkeypatch.setenv("VLLM_BASE_URL", "http://127.0.0.1:9")
    assert main(["demo"]) == 1
    stderr = capsys.readouterr().err
    assert "starting no server" in stderr
    assert "The server did not respond" in stderr
    assert "http://127.0.0.1:9/v1" in stderr
