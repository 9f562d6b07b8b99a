"""The notebooks in ``recipes/notebooks``: the pages on each framework, as cells.

``tests/recipes/test_notebooks.py`` compares them with the pages, and runs them in ``make live``; with
``--record`` it writes them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "recipes" / "notebooks"
NAMES = ("client", "langchain", "llamaindex", "haystack")
EXTRAS = {"client": "", "langchain": "[langchain]' 'langchain", "llamaindex": "[llamaindex]", "haystack": "[haystack]"}

SECTION = re.compile(r"^## (?P<title>.+)\n(?P<body>(?:(?!^## ).*\n)*)", re.M)
BLOCK = re.compile(r"^<!-- run against: .*-->\n```python\n(?P<code>.*?)^```$", re.M | re.S)
SERVERS = """\
Start the servers in a terminal, and this notebook with their addresses:

```sh
vllm-adapters serve --port 8000        # or, on a GPU: vllm serve MODEL
vllm-adapters serve minilm --port 8001 # embeddings and rerank
VLLM_BASE_URL=http://localhost:8000 VLLM_EMBED_BASE_URL=http://localhost:8001 jupyter lab
```"""


def cells(name: str) -> list[tuple[str, str]]:
    """Return kind and source of each cell, from the page of a framework."""
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    title = re.findall(r"^# (.+)$", page, re.M)[0]
    install = f"```sh\npip install 'vllm-adapters{EXTRAS[name]}' jupyterlab\n```"
    found = [("markdown", f"# {title} on vLLM\n\n{install}\n\n{SERVERS}")]
    for section in SECTION.finditer(page.split("\n## In detail\n")[0]):
        for block in BLOCK.finditer(section["body"]):
            code = re.sub(r"^asyncio\.run\((.*)\)$", r"await \1", block["code"].strip(), flags=re.M)
            if "asyncio." not in code:
                code = re.sub(r"^import asyncio\n+", "", code, flags=re.M)
            found += [("markdown", f"## {section['title']}"), ("code", code)]
    return found


def build(name: str) -> dict[str, Any]:
    """Return a notebook without outputs."""
    notebook_cells = []
    for number, (kind, source) in enumerate(cells(name)):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        notebook_cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": notebook_cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def outputs(notebook: dict[str, Any]) -> list[str]:
    """Return what each code cell of a notebook printed."""
    return [
        "".join("".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]
