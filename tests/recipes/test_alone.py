"""Every recipe as its users run it: copied into an empty folder, with only its requirements installed.

``make recipes``. Each set of requirements gets a fresh environment with a wheel of this project. If uv is installed,
``uv run`` does the same from the header.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RECIPES = ROOT / "recipes"
PIP = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
pytestmark = pytest.mark.fresh_environment


class Environments:
    """One environment per set of requirements, created on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", self.wheels, ROOT)
        (self.wheel,) = self.wheels.glob("vllm_adapters-*.whl")

    def python(self, requirements: list[str]) -> Path:
        """Return the interpreter of the environment with these requirements."""
        ours, *others = requirements
        name = re.sub(r"\W+", "-", " ".join([ours, *others]))
        python = self.folder / name / "bin" / "python"
        if not python.exists():
            run(sys.executable, "-m", "venv", self.folder / name)
            run(python, *PIP, f"{self.wheel}{ours.removeprefix('vllm-adapters')}", *others)
        return python

    def command(self, tool: str, requirements: list[str]) -> list[str | Path]:
        """Return the command that runs a recipe: ``python``, or ``uv run``."""
        if tool == "pip":
            return [self.python(requirements)]
        fresh = ["--find-links", self.wheels, "--refresh-package", "vllm-adapters"]
        return ["uv", "run", "--quiet", "--python", sys.executable, *fresh]


def run(*command: object, cwd: Path | None = None, **environ: str) -> str:
    """Run a command without access to this project; return its output."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=own | environ, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Environments:
    return Environments(tmp_path_factory.mktemp("environments"))


@pytest.fixture
def print_row(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Prints a row of a table, past pytest's capturing."""

    def row(*cells: object) -> None:
        with capsys.disabled():
            print("\n", "  ".join(f"{cell!s:<44}" for cell in cells), end=" ")

    return row


def servers(recipe: Path) -> pytest.MarkDecorator:
    if recipe.stem.startswith(("answer_from_documents", "search_hybrid")):
        return pytest.mark.vllm("tiny", "minilm", recorded=False)
    if recipe.stem.startswith("ask_about_an_image"):
        return pytest.mark.vllm("eye", recorded=False)
    if recipe.stem.startswith("serve_tenants"):
        return pytest.mark.vllm("tiny", lora=True, recorded=False)
    return pytest.mark.vllm("tiny", recorded=False)


PROGRAMS = sorted(RECIPES.glob("*.py"))


@pytest.mark.parametrize("tool", ["pip", "uv"])
@pytest.mark.parametrize("recipe", [pytest.param(path, marks=servers(path), id=path.stem) for path in PROGRAMS])
def test_runs_alone(recipe, tool, vllm_url, vllm_urls, environments, requirements, check_output, print_row, tmp_path):
    if tool == "uv" and not shutil.which("uv"):
        pytest.skip("uv is not installed")
    shutil.copy(recipe, tmp_path)
    addresses = {"VLLM_BASE_URL": vllm_url, "VLLM_EMBED_BASE_URL": vllm_urls.get("minilm", "")}
    command = environments.command(tool, requirements(recipe))
    lines = run(*command, recipe.name, cwd=tmp_path, **addresses).splitlines()
    print_row(recipe.name, " ".join([tool, *requirements(recipe)]), lines[-1])
    check_output(lines)
    if tool == "pip":
        check_types(command[0], recipe.name, cwd=tmp_path)


def check_types(python, *programs, cwd):
    """Run mypy strictly, against the packages in the recipe's environment; mypy itself is in this one."""
    cache = ["--cache-dir", python.parent.parent / "mypy"]
    run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, *cache, *programs, cwd=cwd)


@pytest.mark.vllm("tiny", recorded=False)
def test_testing_runs_alone(vllm_url, environments, requirements, print_row, tmp_path):
    folder = tmp_path / "testing"
    shutil.copytree(RECIPES / "testing", folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    needs = requirements(folder / "my_chain.py")
    python = environments.python(needs)
    for flags in ([], ["--live"]):
        printed = run(python, "-m", "pytest", *flags, cwd=folder, VLLM_BASE_URL=vllm_url)
        print_row(" ".join(["testing", *flags]), " ".join(needs), printed.splitlines()[-1])
        assert " 3 passed" in printed
    check_types(python, "my_chain.py", "test_my_chain.py", cwd=folder)
