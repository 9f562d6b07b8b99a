"""The Python code of README and docs compiles; what is marked is run, and prints what its comments say.

``<!-- run against: tiny -->`` before a block runs it against that model, recorded or live; ``tiny minilm`` are two
servers, of which the second is ``VLLM_EMBED_BASE_URL``. ``<!-- run -->`` runs it without a server.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from version_marks import output_is_that_of_the_docs

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "listings" not in page.parts),  # see test_listings.py
]
BLOCK = re.compile(r"^(?:<!-- run(?: against: (?P<models>[\w -]+?))? -->\n)?```python\n(?P<code>.*?)^```$", re.M | re.S)
NEEDS = {"langchain": "langchain_openai", "llamaindex": "llama_index.llms.openai_like", "haystack": "haystack"}
PRINTS = re.compile(r"^\s*(?:print\(.*\)  # |# Prints: )(.+)$", re.M)
HEADING = re.compile(r"^#+ (.+)$", re.M)


class Block(NamedTuple):
    """A block of Python code.

    Args:
        page: Its page.
        line: Its first line in the page.
        code: The code.
        heading: The heading above it.
        models: The models that it is run against.
        runs: Whether it is run.
    """

    page: Path
    line: int
    code: str
    heading: str
    models: list[str]
    runs: bool

    @property
    def id(self) -> str:
        """Page and imported names: stable when text above the block changes."""
        names = re.findall(r"^from vllm_adapters\S* import ([\w, ]+)", self.code, re.M)
        return "_".join([self.page.stem, *names]).replace(", ", "_")

    def compile(self):
        return compile("\n" * (self.line - 1) + self.code, str(self.page), "exec")


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("code")) + 1
            heading = HEADING.findall(text[: match.start()])[-1]
            models = (match["models"] or "").split()
            found.append(Block(page, line, match["code"], heading, models, match[0].startswith("<!-- run")))
    return found


def cases(*, model: bool):
    found = [block for block in blocks() if block.runs]
    counts = Counter(block.id for block in found)
    for block in found:
        if bool(block.models) == model:
            heading = re.sub(r"\W+", "-", block.heading.lower()).strip("-")
            name = block.id if counts[block.id] == 1 else f"{block.id}_{heading}"
            yield pytest.param(block, id=name, marks=[pytest.mark.vllm(*block.models)] if model else [])


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
def test_example(block, vllm_urls, monkeypatch):
    if len(block.models) > 1:
        monkeypatch.setenv("VLLM_EMBED_BASE_URL", vllm_urls[block.models[1]])
    run(block)


@pytest.mark.parametrize("block", list(cases(model=False)))
def test_example_without_server(block):
    run(block)
