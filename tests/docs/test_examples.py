"""The Python code of README and docs compiles; what is marked is run, and prints what its comments say.

``<!-- run against: tiny -->`` before a block runs it against that model, recorded or live; ``<!-- run -->`` runs it
without a server.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from version_marks import output_is_that_of_the_docs

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- run(?: against: (?P<model>\S+))? -->\n)?```python\n(?P<code>.*?)^```$", re.M | re.S)
NEEDS = {"langchain": "langchain_openai", "llamaindex": "llama_index.llms.openai_like", "haystack": "haystack"}
PRINTS = re.compile(r"^\s*print\(.*\)  # (.+)$", re.M)


class Block(NamedTuple):
    """A block of Python code.

    Args:
        page: Its page.
        line: Its first line in the page.
        code: The code.
        model: The model that it is run against.
        runs: Whether it is run.
    """

    page: Path
    line: int
    code: str
    model: str | None
    runs: bool

    @property
    def id(self) -> str:
        """Page and imported names: stable when text above the block changes."""
        return "_".join(
            [self.page.stem, *re.findall(r"^from vllm_adapters\S* import ([\w, ]+)", self.code, re.M)]
        ).replace(", ", "_")

    def compile(self):
        return compile("\n" * (self.line - 1) + self.code, str(self.page), "exec")


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("code")) + 1
            found.append(Block(page, line, match["code"], match["model"], match[0].startswith("<!-- run")))
    return found


def cases(*, model: bool):
    for block in blocks():
        if block.runs and (block.model is not None) == model:
            marks = [pytest.mark.vllm(block.model)] if block.model else []
            yield pytest.param(block, id=block.id, marks=marks)


def run(block: Block) -> None:
    for package in re.findall(r"^from vllm_adapters\.(\w+) import", block.code, re.M):
        if package in NEEDS:
            pytest.importorskip(NEEDS[package])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block.compile(), {"__name__": "example"})
    assert printed.getvalue().splitlines() == PRINTS.findall(block.code)


def test_every_block_is_found():
    count = sum(page.read_text(encoding="utf-8").count("```python") for page in PAGES)
    marks = sum(page.read_text(encoding="utf-8").count("<!-- run") for page in PAGES)
    assert (len(blocks()), sum(block.runs for block in blocks())) == (count, marks)


def test_every_block_compiles():
    for block in blocks():
        block.compile()


@pytest.mark.parametrize("block", list(cases(model=True)))
@output_is_that_of_the_docs
def test_example(block):
    run(block)


@pytest.mark.parametrize("block", list(cases(model=False)))
def test_example_without_server(block):
    run(block)
