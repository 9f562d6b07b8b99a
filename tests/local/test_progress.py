"""Progress on standard error."""

import io

import pytest
from rich.console import Console

from vllm_adapters.local.progress import Progress


def test_each_step_is_one_line_without_a_terminal(capsys):
    progress = Progress()
    with progress.step("installing"):
        progress.update("Collecting torch")
    progress.print("done [in] 3 s")
    assert capsys.readouterr() == ("", "installing ...\ndone [in] 3 s\n")


def test_quiet_prints_nothing(capsys):
    progress = Progress(quiet=True)
    with progress.step("installing"):
        progress.update("Collecting torch")
        progress.print("done")
    assert capsys.readouterr() == ("", "")


def test_live_line_fits_the_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        "rich.console.Console",
        lambda **_: Console(file=screen, force_terminal=True, width=60, color_system=None),
    )
    progress = Progress()
    with progress.step("installing"):
        progress.update("Downloading [torch] " + "x" * 200)
        progress.print("a permanent line")
    output = screen.getvalue()
    assert "a permanent line\n" in output
    assert "Downloading [torch] xxx" in output
    assert "x" * 60 not in output


def test_failed_step_propagates_its_error():
    progress = Progress(quiet=True)
    with pytest.raises(RuntimeError), progress.step("installing"):
        raise RuntimeError
