"""``vllm-adapters recipes``: list, show and copy."""

from __future__ import annotations

import sys
from pathlib import Path

from vllm_adapters._cli.main import main

RECIPES = Path(__file__).parent.parent.parent / "recipes"


def test_list_prints_one_line_per_recipe(capsys):
    assert main(["recipes", "list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    names = {path.stem for path in RECIPES.iterdir() if path.suffix == ".py" or path.is_dir()} - {"__pycache__"}
    assert set(listed) == names
    assert listed["constrain_a_reply"].startswith("Constrain a reply to")


def test_list_is_grouped_and_wrapped_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["recipes", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("                ") for line in lines)
    assert [line for line in lines if line and not line.startswith(" ")] == [
        *("The client", "LangChain", "LlamaIndex", "Haystack", "Folders"),
        "vllm-adapters recipes show NAME, or copy NAME [DIR]",
    ]
    at = lines.index
    assert (
        at("LangChain") < next(n for n, line in enumerate(lines) if "move_from_chatopenai" in line) < at("LlamaIndex")
    )


def test_list_fits_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["recipes", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert any(line.startswith("  constrain_a_reply: Constrain a reply") for line in lines)


def test_show_prints_the_file(capsys):
    assert main(["recipes", "show", "constrain_a_reply.py"]) == 0
    assert capsys.readouterr().out == (RECIPES / "constrain_a_reply.py").read_text(encoding="utf-8")


def test_show_and_copy_a_folder(tmp_path, capsys):
    assert main(["recipes", "show", "testing"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# --- testing/my_chain.py\n# /// script")
    assert '# --- testing/pyproject.toml\n[tool.pytest.ini_options]\nvllm_cassettes = "cassettes"\n' in printed
    assert main(["recipes", "copy", "testing", str(tmp_path)]) == 0
    copied = {path.name for path in (tmp_path / "testing").iterdir()}
    assert copied == {"my_chain.py", "test_my_chain.py", "pyproject.toml", "cassettes"}


def test_copy_does_not_overwrite(tmp_path, capsys):
    target = tmp_path / "new" / "constrain_a_reply.py"
    assert main(["recipes", "copy", "constrain_a_reply", str(target.parent)]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert target.read_bytes() == (RECIPES / target.name).read_bytes()
    target.write_text("mine", encoding="utf-8")
    assert main(["recipes", "copy", "constrain_a_reply", str(target.parent)]) == 1
    assert "already exists" in capsys.readouterr().err
    assert target.read_text(encoding="utf-8") == "mine"


def test_copy_to_a_file_prints_the_header_in_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["recipes", "copy", "constrain_a_reply", str(tmp_path / "mine.py")]) == 0
    path, _, needs, *_ = capsys.readouterr().out.splitlines()
    assert (path, needs) == (str(tmp_path / "mine.py"), "Needs:  pip install vllm-adapters")
    assert main(["recipes", "copy", "serve", path]) == 1
    assert "Cannot copy to" in capsys.readouterr().err


def test_an_unknown_recipe_suggests_similar_names(capsys):
    assert main(["recipes", "show", "constrain"]) == 1
    assert "Did you mean constrain_a_reply?" in capsys.readouterr().err
    assert main(["recipes", "show", "move_from_openailke"]) == 1
    assert "Did you mean move_from_openailike" in capsys.readouterr().err
    assert main(["recipes", "show", "xyzzy"]) == 1
    assert "vllm-adapters recipes list" in capsys.readouterr().err
