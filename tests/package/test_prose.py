"""The check of prose notices what it should, and leaves code alone."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("proselint")
spec = importlib.util.spec_from_file_location("check_prose", Path(__file__).parents[2] / "scripts" / "check_prose.py")
check_prose = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_prose)


def found(text):
    return [message for _, message in check_prose.own_style(check_prose.prose(text))]


@pytest.mark.parametrize(
    "text",
    [
        "Every method has a lane.",
        "This is no schema.",
        "Mend the server.",
        "A [server](x.md) that fails on order.",
        f"One {'long ' * 60}sentence.",
    ],
)
def test_what_the_style_does_not_allow_is_found(text):
    assert found(text)


@pytest.mark.parametrize(
    "text",
    [
        "There is no retry. It is no longer sent.",
        "`lane` is a name.",
        "```python\ntwin = 1\n```",
        "Prints:\n\n>>> lane\n1\n",
        "| a table | lane |",
    ],
)
def test_code_and_plain_sentences_are_left_alone(text):
    assert found(text) == []


def test_lines_keep_their_numbers():
    text = "```sh\na\nb\n```\n\nA lane.\n"
    plain = check_prose.prose(text)
    [(position, _)] = check_prose.own_style(plain)
    assert plain.count("\n", 0, position) == 5
