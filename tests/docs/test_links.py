"""Every link, path and command of the documentation exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
CODE_BLOCK = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r'\]\(([^)\s]+)(?: "[^"]*")?\)')
PACKAGE = ROOT / "adapters" / "vllm_adapters"


def prose(page):
    """The text of a page without its code blocks."""
    return CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    found = []
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    broken = []
    for target in LINK.findall(prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_index_lists_every_page():
    listed = set(LINK.findall(prose(ROOT / "docs" / "index.md")))
    assert {page.name for page in DOCS} - {"index.md"} <= listed


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    code = "\n".join([*CODE_BLOCK.findall(text), *re.findall(r"`([^`\n]+)`", text)])
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    targets |= {"test-alone-llamaindex", "test-alone-haystack"}
    assert set(re.findall(r"\bmake ([a-z][\w-]*)", code)) <= targets
    commands = {"demo", "doctor", "recipes", "serve"}
    assert set(re.findall(r"vllm-adapters ([a-z]+)\b", code)) <= commands


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
