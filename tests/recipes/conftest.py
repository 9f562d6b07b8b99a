"""Fixtures that run a recipe and check what it prints."""

import json
import re
import runpy
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("mcp"):
    import_module("mcp.client.stdio")  # it keeps the sys.stderr of its import, which must outlast a test

RECIPES = Path(__file__).parent.parent.parent / "recipes"
MODULES = {
    "vllm-adapters[langchain]": "langchain_openai",
    "vllm-adapters[llamaindex]": "llama_index.core",
    "vllm-adapters[haystack]": "haystack",
    "langchain>=1.4,<2": "langchain.agents",
    "deepagents>=0.7,<0.8": "deepagents",
    "hayhooks>=2.1,<3": "hayhooks",
    "langchain-mcp-adapters>=0.3,<0.4": "langchain_mcp_adapters",
    "langchain-qdrant>=1.1,<2": "langchain_qdrant",
    "langgraph-checkpoint-sqlite>=3,<4": "langgraph.checkpoint.sqlite",
    "llama-index-tools-mcp>=0.4,<0.5": "llama_index.tools.mcp",
    "llama-index-vector-stores-qdrant>=0.10,<0.11": "llama_index.vector_stores.qdrant",
    "mcp-haystack>=2,<3": "haystack_integrations.tools.mcp",
    "qdrant-haystack>=13.1,<14": "haystack_integrations.document_stores.qdrant",
    "ray[data]>=2.50,<3": "ray.data",
}
"""A module of each requirement, to find out whether it is installed."""
PRINTED = Path(__file__).parent / "outputs.json"
"""What recipes printed when their tests were recorded; the documentation shows it."""
OUTPUTS = tomllib.loads((Path(__file__).parent / "printed.toml").read_text(encoding="utf-8"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", 'recipe(name): the recipe of a test; "{framework}" stands for the parameter of that name'
    )


@pytest.fixture
def recipe(request: pytest.FixtureRequest) -> Path:
    """The recipe of a test, from its marker."""
    name: str = request.node.get_closest_marker("recipe").args[0]
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    return RECIPES / f"{name.format(**parameters)}.py"


@pytest.fixture
def requirements() -> Callable[[Path], list[str]]:
    """A function that returns the requirements in a recipe's header."""

    def read(program: Path) -> list[str]:
        header = re.match(r"# /// script\n((?:# .*\n)+)# ///\n", program.read_text(encoding="utf-8"))
        assert header, "the script header is missing"
        found: list[str] = tomllib.loads(re.sub(r"^# ", "", header[1], flags=re.M))["dependencies"]
        return found

    return read


@pytest.fixture
def run_recipe(
    recipe: Path,
    requirements: Callable[[Path], list[str]],
    capfd: pytest.CaptureFixture[str],  # of the descriptors: an MCP server writes to them, too
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., list[str]]]:
    """A function that runs the recipe of the test and returns the lines it printed; the test must call it."""
    calls = 0

    def run(*arguments: object, **environ: str) -> list[str]:
        nonlocal calls
        calls += 1
        for requirement in requirements(recipe):
            if requirement in MODULES:
                pytest.importorskip(MODULES[requirement])
        for variable, value in environ.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setattr(sys, "argv", [recipe.name, *map(str, arguments)])
        runpy.run_path(str(recipe), run_name="__main__")
        return capfd.readouterr().out.splitlines()

    for variable in ("VLLM_MODEL", "VLLM_EMBED_BASE_URL", "VLLM_RERANK_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    yield run
    assert calls, "the test did not run its recipe"


@pytest.fixture
def same_as_shown(request: pytest.FixtureRequest, recipe: Path) -> Callable[[list[str]], None]:
    """A function that compares the lines of the recipe with the documentation's; ``--record`` writes them."""

    def compare(lines: list[str]) -> None:
        printed = [line.rstrip() for line in lines]
        outputs = json.loads(PRINTED.read_text(encoding="utf-8"))
        if request.config.getoption("--record"):
            outputs = dict(sorted({**outputs, recipe.stem: printed}.items()))
            PRINTED.write_text(json.dumps(outputs, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        elif not request.config.getoption("--live"):
            assert outputs[recipe.stem] == printed, "Record the test: the documentation shows another output."

    return compare


@pytest.fixture
def check_output(recipe: Path, same_as_shown: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """A function that compares the lines of the recipe with ``printed.toml``; blank lines do not count.

    They are what the recording printed, too.
    """

    def check(printed: list[str]) -> None:
        expected = OUTPUTS.get(recipe.stem) or OUTPUTS[recipe.stem.partition("_in_")[0]]
        lines = [line for line in printed if line.strip()]
        assert len(lines) == len(expected), lines
        for line, pattern in zip(lines, expected, strict=True):
            assert re.fullmatch(pattern, line.strip()), f"{line!r} does not match {pattern!r}"
        same_as_shown(printed)

    return check
