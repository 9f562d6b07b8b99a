"""Imports point one way, and what nobody asked for is not loaded."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vllm_adapters

PACKAGE = Path(vllm_adapters.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FRAMEWORKS = frozenset({"langchain", "llamaindex", "haystack"})

# Each may import what stands in a line above its own; modules of one package may import each other.
LAYERS = [
    {"_version", "_optional", "_compat", "_pytest", "errors", "types", "params", "timeouts"},
    {"_request", "_transport", "_response"},
    {"_client", "client"},
    {"server"},
    {"embedder", "tokenizer"},
    FRAMEWORKS,
    {"doctor", "local", "testing"},
    {"_demo", "_cli", "__main__"},
]
HEIGHT = {"__init__": 0} | {name: height for height, layer in enumerate(LAYERS) for name in layer}
HEAVY = {"openai", "pydantic", "httpx", "httpx2", "rich", "numpy", "langchain_core", "llama_index", "haystack"}


def part(file: Path) -> str:
    """The part of the house a file belongs to: a module of the package, or a package in it."""
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """Line and part of each import of this package, inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            module = node.module or ""
            modules = [f"{module}.{alias.name}" for alias in node.names] if module == "vllm_adapters" else [module]
        for module in modules:
            if module.split(".")[0] == "vllm_adapters":
                yield node.lineno, module.removeprefix("vllm_adapters.").split(".")[0]


def id_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def test_imports_point_one_way():
    wrong = []
    for file in FILES:
        here = part(file)
        if here == "__init__":  # lazy: it imports a name when it is asked for
            continue
        assert here in HEIGHT, f"{here} has no layer yet: give it one in LAYERS"
        wrong += [
            f"{id_of(file)}:{line} imports {there}"
            for line, there in imported(file)
            if HEIGHT[there] > HEIGHT[here] and there != "_version"
        ]
    assert wrong == []


def test_framework_packages_never_import_one_another():
    importers = {
        part(file)
        for file in FILES
        for _, there in imported(file)
        if there in FRAMEWORKS and part(file) not in (there, "__init__")
    }
    assert importers <= {"_demo"}


def modules_after(code: str) -> set[str]:
    """The top-level names of all modules that a fresh Python has loaded after running ``code``."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    program = f"{code}\n{report}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import vllm_adapters; vllm_adapters.__version__; dir(vllm_adapters)",
        "from vllm_adapters._cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from vllm_adapters._cli.main import main\ntry: main(['serve', '--help'])\nexcept SystemExit: pass",
        "from vllm_adapters._cli.main import main\ntry: main(['doctor', '--help'])\nexcept SystemExit: pass",
        "from vllm_adapters._cli.main import main\nmain(['recipes', 'list'])",
    ],
    ids=["import", "help", "serve-help", "doctor-help", "recipes"],
)
def test_loads_nothing_heavy(code):
    loaded = modules_after(code)
    assert "vllm_adapters" in loaded
    assert loaded & HEAVY == set()


def test_the_core_loads_no_framework():
    loaded = modules_after("from vllm_adapters import AsyncVLLMClient, LocalVLLM, VLLMClient, VLLMError, VLLMServer")
    assert loaded & {"langchain_core", "langchain_openai", "llama_index", "haystack"} == set()
