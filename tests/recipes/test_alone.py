"""Every recipe as its user has it: copied alone into an empty folder, and only what it asks for is installed.

``make recipes``. Each set of dependencies gets a fresh environment with this project's wheel; where uv is installed,
``uv run`` does the same from the header.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RECIPES = ROOT / "recipes"
PIP = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
pytestmark = pytest.mark.fresh_environment


def needs(program: Path) -> list[str]:
    """What the header of a recipe asks for."""
    header = re.match(r"# /// script\n((?:# .*\n)+)# ///\n", program.read_text(encoding="utf-8"))
    assert header
    found: list[str] = tomllib.loads(re.sub(r"^# ", "", header[1], flags=re.M))["dependencies"]
    return found


class Environments:
    """One environment for each set of dependencies, made when it is first asked for."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.wheels = home / "wheels"
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", self.wheels, ROOT)
        (self.wheel,) = self.wheels.glob("vllm_adapters-*.whl")

    def python(self, program: Path) -> Path:
        """The interpreter of the environment for a recipe."""
        ours, *others = needs(program)
        name = re.sub(r"\W+", "-", " ".join([ours, *others]))
        python = self.home / name / "bin" / "python"
        if not python.exists():
            run(sys.executable, "-m", "venv", self.home / name)
            run(python, *PIP, f"{self.wheel}{ours.removeprefix('vllm-adapters')}", *others)
        return python

    def way(self, how: str, program: Path) -> list[str | Path]:
        """The command that runs a recipe: ``python``, or ``uv run``."""
        if how == "pip":
            return [self.python(program)]
        fresh = ["--find-links", self.wheels, "--refresh-package", "vllm-adapters"]
        return ["uv", "run", "--quiet", "--python", sys.executable, *fresh]


def run(*command: object, cwd: Path | None = None, **environ: str) -> str:
    """What a command prints, if it succeeds; it sees nothing of this project."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=own | environ, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def environments(tmp_path_factory):
    return Environments(tmp_path_factory.mktemp("environments"))


@pytest.fixture
def tell(capsys):
    """Prints a row of the table."""

    def row(*cells: object) -> None:
        with capsys.disabled():
            print("\n", "  ".join(f"{cell!s:<44}" for cell in cells), end=" ")

    return row


def servers(recipe: Path) -> pytest.MarkDecorator:
    if recipe.stem.startswith("answer_from_documents"):
        return pytest.mark.vllm("tiny", "minilm", recorded=False)
    if recipe.stem.startswith("ask_about_an_image"):
        return pytest.mark.vllm("eye", recorded=False)
    if recipe.stem.startswith("serve_tenants"):
        return pytest.mark.vllm("tiny", lora=True, recorded=False)
    return pytest.mark.vllm("tiny", recorded=False)


@pytest.mark.parametrize("how", ["pip", "uv"])
@pytest.mark.parametrize(
    "recipe", [pytest.param(path, marks=servers(path), id=path.stem) for path in sorted(RECIPES.glob("*.py"))]
)
def test_runs_alone(recipe, how, vllm_url, vllm_urls, environments, printed, tell, tmp_path):
    if how == "uv" and not shutil.which("uv"):
        pytest.skip("uv is not installed")
    shutil.copy(recipe, tmp_path)
    addresses = {"VLLM_BASE_URL": vllm_url, "VLLM_EMBED_BASE_URL": vllm_urls.get("minilm", "")}
    command = environments.way(how, recipe)
    lines = run(*command, recipe.name, cwd=tmp_path, **addresses).splitlines()
    tell(recipe.name, " ".join([how, *needs(recipe)]), lines[-1])
    printed(recipe.stem, lines)
    if how == "pip":
        check_types(command[0], recipe.name, cwd=tmp_path)


def check_types(python, *programs, cwd):
    """Strictly, with nothing but what the recipe's environment has; mypy itself is in this one."""
    cache = ["--cache-dir", python.parent.parent / "mypy"]
    run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, *cache, *programs, cwd=cwd)


@pytest.mark.vllm("tiny", recorded=False)
def test_testing_runs_alone(vllm_url, environments, tell, tmp_path):
    folder = tmp_path / "testing"
    shutil.copytree(RECIPES / "testing", folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    python = environments.python(folder / "my_chain.py")
    for life in ([], ["--live"]):
        said = run(python, "-m", "pytest", *life, cwd=folder, VLLM_BASE_URL=vllm_url)
        tell(" ".join(["testing", *life]), " ".join(needs(folder / "my_chain.py")), said.splitlines()[-1])
        assert " 3 passed" in said
    check_types(python, "my_chain.py", "test_my_chain.py", cwd=folder)
