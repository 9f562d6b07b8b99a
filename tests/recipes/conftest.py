"""What the recipes are, and what they print."""

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest

RECIPES = Path(__file__).parent.parent.parent / "recipes"
FRAMEWORKS = {"langchain": "langchain_openai", "llamaindex": "llama_index.core", "haystack": "haystack"}
PRINTED = tomllib.loads((Path(__file__).parent / "printed.toml").read_text(encoding="utf-8"))


@pytest.fixture
def cook(capsys, monkeypatch):
    """Runs a recipe and returns the lines it printed."""

    def run(name: str, *arguments: object, **environ: str) -> list[str]:
        for framework, module in FRAMEWORKS.items():
            if name.endswith(framework):
                pytest.importorskip(module)
        for variable, value in environ.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(RECIPES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    for variable in ("VLLM_MODEL", "VLLM_EMBED_BASE_URL", "VLLM_RERANK_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    return run


@pytest.fixture
def printed():
    """Checks the lines that a recipe printed, run as its header says."""

    def check(name: str, lines: list[str]) -> None:
        expected = PRINTED.get(name) or PRINTED[name.partition("_in_")[0]]
        lines = [line for line in lines if line.strip()]
        assert len(lines) == len(expected), lines
        for line, pattern in zip(lines, expected, strict=True):
            assert re.fullmatch(pattern, line.strip()), f"{line!r} is not {pattern!r}"

    return check
