"""The README's code: it compiles, and what is marked so runs, and prints what it says it prints."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent.parent
README = TESTS.parent / "README.md"
BLOCK = re.compile(r"^(?:<!-- run against: (?P<model>\S+) -->\n)?```python\n(?P<code>.*?)^```$", re.M | re.S)
NEEDS = {"langchain": "langchain_openai", "llamaindex": "llama_index.llms.openai_like", "haystack": "haystack"}
PRINTS = re.compile(r"^\s*print\(.*\)  # (.+)$", re.M)


class Block(NamedTuple):
    """One block of Python, and the model it is run against, if it is run."""

    line: int
    code: str
    model: str | None


def blocks() -> list[Block]:
    text = README.read_text(encoding="utf-8")
    return [Block(text.count("\n", 0, m.start("code")) + 1, m["code"], m["model"]) for m in BLOCK.finditer(text)]


def first_import(block: Block) -> str:
    """A name for a block that survives new text above it."""
    return "_".join(re.findall(r"^from vllm_adapters\S* import (\w+)", block.code, re.M))


def test_every_block_is_found():
    assert README.read_text(encoding="utf-8").count("```python") == len(blocks())
    assert {block.model for block in blocks()} == {"tiny", "minilm", None}


@pytest.mark.parametrize("block", blocks(), ids=first_import)
def test_compiles(block):
    compile("\n" * (block.line - 1) + block.code, str(README), "exec")


def run(block: Block) -> None:
    for room in re.findall(r"^from vllm_adapters\.(\w+) import", block.code, re.M):
        if room in NEEDS:
            pytest.importorskip(NEEDS[room])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * (block.line - 1) + block.code, str(README), "exec"), {"__name__": "readme"})
    assert printed.getvalue().splitlines() == PRINTS.findall(block.code)


@pytest.mark.vllm("tiny")
@pytest.mark.parametrize("block", [b for b in blocks() if b.model == "tiny"], ids=first_import)
def test_chat_examples(block):
    run(block)


@pytest.mark.vllm("minilm")
@pytest.mark.parametrize("block", [b for b in blocks() if b.model == "minilm"], ids=first_import)
def test_embedding_examples(block):
    run(block)


def test_tables_are_as_made():
    script = TESTS.parent / "scripts" / "make_readme.py"
    spec = importlib.util.spec_from_file_location("make_readme", script)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    text = README.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- made: (\w+) -->", text)) == set(maker.SECTIONS)
    assert maker.make_sections(text) == text, "make readme"


def test_every_proof_of_the_parity_table_is_a_test():
    proofs = tomllib.loads((TESTS / "docs" / "parity.toml").read_text(encoding="utf-8"))
    for capability, tests in proofs.items():
        for part, test in tests.items():
            if test != "-":
                file, name = test.split("::")
                tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
                found = {
                    node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                }
                assert name in found, f"{capability}, {part}: {test}"


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)\s]+)", README.read_text(encoding="utf-8")):
        assert "://" in target or (README.parent / target.split("#")[0]).exists(), target
