"""Every link, path and command of the documentation exists."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from vllm_adapters._cli.main import main

ROOT = Path(__file__).parent.parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
CODE_BLOCK = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r'\]\(([^)\s]+)(?: "[^"]*")?\)')
PACKAGE = ROOT / "adapters" / "vllm_adapters"


def prose(page):
    """The text of a page without its code blocks."""
    return CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them. A second heading of the same name has none here."""
    headings = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text) for text in re.findall(r"^#+ (.+)$", prose(page), re.M)]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_links_resolve():
    broken = []
    for page in PAGES:
        for target in LINK.findall(prose(page)):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            if anchor.startswith("vllm_adapters."):  # made from docstrings: `make docs` checks it
                anchor = ""
            if not re.match(r"\w+://|DOCUMENTATION|REPOSITORY", target) and not (
                file.exists() and (not anchor or anchor in anchors(file))
            ):
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_navigation_lists_every_page():
    config = (ROOT / "scripts" / "site" / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", config, re.M)
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in DOCS}
    pages = {page for page in pages if not page.startswith("listings/")}
    assert pages | {"contributing.md", "changelog.md"} == set(listed)
    assert len(listed) == len(set(listed))


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_commands_exist():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    code = "\n".join([*CODE_BLOCK.findall(text), *re.findall(r"`([^`\n]+)`", text)])
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"\bmake ([a-z][\w-]*)", code)) <= targets
    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as printed:
        main(["--help"])
    commands = set(re.findall(r"^    ([a-z]+) ", printed.getvalue(), re.M))
    assert set(re.findall(r"vllm-adapters ([a-z]+)\b", code)) == commands


def tree():
    """The paths of the tree in CONTRIBUTING.md: names until two spaces, then what they are."""
    [block] = re.findall(
        r"^```text\n(adapters/.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S
    )
    parents: list[tuple[int, Path]] = []
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip())
        parents = [(depth, path) for depth, path in parents if depth < indent]
        parent = parents[-1][1] if parents else ROOT
        names = re.split(r"  +", line.strip())[0].split()
        yield from (parent / name for name in names)
        if len(names) == 1 and names[0].endswith("/"):
            parents.append((indent, parent / names[0]))


def test_tree_of_contributing_is_the_package():
    paths = set(tree())
    assert [str(path.relative_to(ROOT)) for path in paths if not path.exists()] == []
    modules = {path for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert {path.name for path in modules - paths} <= {"__init__.py", "__main__.py", "_version.py"}
