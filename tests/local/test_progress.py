import io

import pytest
from rich.console import Console

from vllm_adapters.local.progress import Progress


def test_without_a_terminal_each_step_is_one_line(capsys):
    progress = Progress()
    with progress.step("installing"):
        progress.now("Collecting torch")
    progress.say("done [in] 3 s")
    assert capsys.readouterr() == ("", "installing ...\ndone [in] 3 s\n")


def test_quiet_says_nothing(capsys):
    progress = Progress(quiet=True)
    with progress.step("installing"):
        progress.now("Collecting torch")
        progress.say("done")
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_the_live_line_fits(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        "rich.console.Console",
        lambda **_: Console(file=screen, force_terminal=True, width=60, color_system=None),
    )
    progress = Progress()
    with progress.step("installing"):
        progress.now("Downloading [torch] " + "x" * 200)
        progress.say("a line that stays")
    shown = screen.getvalue()
    assert "a line that stays\n" in shown
    assert "Downloading [torch] xxx" in shown
    assert "x" * 60 not in shown


def test_a_step_that_fails_ends_its_line():
    progress = Progress(quiet=True)
    with pytest.raises(RuntimeError), progress.step("installing"):
        raise RuntimeError
