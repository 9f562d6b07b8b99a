"""The notebooks are the pages on each framework, and contain what a real run printed."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("notebooks", ROOT / "scripts" / "notebooks.py")
notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebooks)

PRINTS = re.compile(r"^\s*(?:print\(.*\)  # |# Prints: )(.+)$", re.M)
NEEDS = {"client": "openai", "langchain": "langchain.agents", "llamaindex": "llama_index.llms.openai_like"}


def path(name):
    return notebooks.NOTEBOOKS / f"{name}.ipynb"


def read(name):
    return json.loads(path(name).read_text(encoding="utf-8"))


def sources(notebook):
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_notebook_is_the_page(name):
    assert sources(read(name)) == notebooks.cells(name), (
        "Run make live ARGS='tests/recipes/test_notebooks.py --record'."
    )


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_notebook_contains_what_it_printed(name):
    notebook = read(name)
    code = [source for kind, source in sources(notebook) if kind == "code"]
    assert len(code) >= 5
    for source, printed in zip(code, notebooks.outputs(notebook), strict=True):
        assert printed.replace("\n", "") == "".join(PRINTS.findall(source))
    assert [output for cell in notebook["cells"] for output in cell.get("outputs", []) if "ename" in output] == []


@pytest.mark.parametrize("name", notebooks.NAMES)
@pytest.mark.vllm("tiny", "minilm", recorded=False)
def test_notebook_runs(name, vllm_urls, monkeypatch, request):
    pytest.importorskip(NEEDS.get(name, name))
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("VLLM_EMBED_BASE_URL", vllm_urls["minilm"])
    notebook = nbformat.from_dict(notebooks.build(name))
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", record_timing=False, coalesce_streams=True
    ).execute()
    for cell in notebook.cells:
        cell.get("outputs", [])[:] = [one for one in cell.get("outputs", []) if one.get("name") != "stderr"]
    if request.config.getoption("--record"):
        notebooks.NOTEBOOKS.mkdir(exist_ok=True)
        path(name).write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    else:
        assert notebooks.outputs(notebook) == notebooks.outputs(read(name))


def test_there_is_a_notebook_for_each_framework():
    assert {file.stem for file in notebooks.NOTEBOOKS.glob("*.ipynb")} == set(notebooks.NAMES)
