"""MkDocs hooks: pages made of other files of the repository, links to them, ``llms.txt``, and a check of the reference.

A page of ``docs/`` links to files of the repository as GitHub shows them, such as ``../recipes/x.py``. On the site
these links lead to pages that are made here: recipes, the changelog, and tests and other sources as they are.
"""

from __future__ import annotations

import ast
import logging
import os
import posixpath
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import recipe_pages

log = logging.getLogger("mkdocs.hooks.vllm_adapters")

ROOT = Path(__file__).parents[2]
DOCUMENTED = (
    "vllm_adapters",
    "vllm_adapters.errors",
    "vllm_adapters.types",
    "vllm_adapters.params",
    "vllm_adapters.langchain",
    "vllm_adapters.llamaindex",
    "vllm_adapters.haystack",
    "vllm_adapters.testing",
    "vllm_adapters.doctor",
    "vllm_adapters.local",
)
"""The import paths that users are told of. Each needs a page of the reference, and a docstring for each public name."""

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages that are other files of the repository. The README's place is the home page, which has more."""

LINK = re.compile(r'(\]\()([^)\s]+)((?: "[^"]*")?\))')
CODE_BLOCK = re.compile(r"^(`{3,}).*?^\1`*$", re.M | re.S)
MARK = re.compile(r"^<!-- (?:run|generated: \w+|end)\b.*?-->\n", re.M)

originals: dict[str, str] = {}
"""Path in the repository of each generated page's source, by the page's path in the site."""
texts: dict[str, str] = {}
"""Markdown of each page, for ``llms.txt``."""


def on_config(config: MkDocsConfig) -> None:
    """Take the addresses of repository and site from ``pyproject.toml``, and list the recipes in the navigation."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    settings = project["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    config.repo_url = os.environ.get("VLLM_ADAPTERS_REPOSITORY") or settings["repository"] or None
    config.site_url = os.environ.get("VLLM_ADAPTERS_DOCUMENTATION") or settings["documentation"] or None
    entry = next(entry for entry in config.nav or [] if "Recipes" in entry)
    groups = {group: [recipe_pages.path(one) for one in found] for group, found in recipe_pages.groups().items()}
    entry["Recipes"] = ["recipes.md", *({group: pages} for group, pages in groups.items())]


def on_pre_build(config: MkDocsConfig) -> None:
    """Warn of public names that the reference does not have; a strict build then fails."""
    pages = "".join(page.read_text(encoding="utf-8") for page in Path(config.docs_dir, "reference").glob("*.md"))
    for name in undocumented(DOCUMENTED, re.findall(r"^::: (\S+)$", pages, re.M)):
        log.warning(name)


def undocumented(modules: Iterable[str], referenced: Iterable[str]) -> Iterator[str]:
    """Yield what the reference lacks: modules without a page, and public names without a docstring."""
    package = griffe.load("vllm_adapters", search_paths=[str(ROOT / "adapters")], resolve_aliases=True)
    for name in modules:
        if name not in referenced:
            yield f"`{name}` is on no page of the reference. Add `::: {name}` to one."
        module = package[name.partition(".")[2]] if "." in name else package
        for exported in module.exports or []:
            if not str(exported).startswith("__"):
                yield from _without_docstring(module[str(exported)])


def _without_docstring(thing: Any) -> Iterator[str]:
    """Yield a message for a public object without a docstring, and for each of its public members without one."""
    if thing.is_alias:
        thing = thing.final_target
    is_field = thing.is_attribute and thing.parent.is_class  # documented by `Args:`, or a setting of the framework
    if not thing.has_docstring and not is_field:
        yield f"`{thing.path}` has no docstring. Write one."
    if thing.is_class or thing.is_module:
        for name, member in thing.members.items():
            if not name.startswith("_") and not member.is_alias:
                yield from _without_docstring(member)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages of recipes, of the changelog and of the other files of the repository that pages link to."""
    for source, page in PAGES.items():
        if source != "README.md":
            _add(files, config, page, (ROOT / source).read_text(encoding="utf-8"), source)
    for recipe in recipe_pages.all_recipes():
        source = recipe.path.relative_to(ROOT).as_posix()
        _add(files, config, recipe_pages.path(recipe), recipe_pages.content(recipe), source)
    wanted = {link for file in files.documentation_pages() for link in _links_out(file)}
    while wanted:
        source = wanted.pop()
        if (page := _page_of(source)) and page not in files.src_uris:
            wanted |= set(_children(source))
            _add(files, config, page, _source_content(source), source)
    return files


def _add(files: Files, config: MkDocsConfig, page: str, content: str, source: str) -> None:
    files.append(File.generated(config, page, content=content))
    originals[page] = source


def _original(page: str) -> str:
    """Return the path in the repository of the Markdown of a page."""
    return originals.get(page, f"docs/{page}")


def _target(link: str, page: str) -> str | None:
    """Return the path in the repository that a relative link leads to."""
    if "://" in link or link.startswith(("#", "mailto:", "/")):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(_original(page)), link.partition("#")[0]))


def _links_out(file: File) -> Iterator[str]:
    """Yield the files of the repository that a page links to and that the site has no page of yet."""
    for link in LINK.findall(_prose(file.content_string)):
        if (target := _target(link[1], file.src_uri)) and not target.startswith("docs/") and target not in PAGES:
            yield target


def _page_of(target: str) -> str | None:
    """Return the page of the site that a path in the repository leads to."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if target in PAGES:
        return PAGES[target]
    path = ROOT / target
    if path.parent == recipe_pages.RECIPES and (recipe := recipe_pages.find(path)):
        return recipe_pages.path(recipe)
    return f"source/{target}.md" if path.exists() else None


def _children(source: str) -> Iterator[str]:
    path = ROOT / source
    if path.is_dir():
        for child in sorted(path.iterdir()):
            if child.suffix in (".py", ".toml", ".json") and child.stat().st_size < 200_000:
                yield child.relative_to(ROOT).as_posix()


def _source_content(source: str) -> str:
    path = ROOT / source
    head = f"---\ntitle: {source}\nsearch: {{exclude: true}}\nhide: [navigation, toc]\n---\n\n# {source}\n\n"
    if path.is_dir():
        return head + "\n".join(
            f"- [{Path(child).name}]({Path(source).name}/{Path(child).name})" for child in _children(source)
        )
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return head + _python(text)
    language = {".toml": "toml", ".json": "json", ".yml": "yaml"}.get(path.suffix, "text")
    return f"{head}````{language}\n{text}\n````\n"


def _python(text: str) -> str:
    """Return the Markdown of a module: a block of code and an anchor for each function."""
    lines = text.splitlines()
    parts = []
    begin = 0
    for node in [*ast.parse(text).body, None]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node is None:
            end = min([node.lineno, *(one.lineno for one in node.decorator_list)]) - 1 if node else len(lines)
            if code := "\n".join(lines[begin:end]).strip("\n"):
                parts.append(f"````python\n{code}\n````")
            begin = end
        if node is not None:
            functions = [
                inner.name for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            parts.append("".join(f'<a id="{name}"></a>' for name in functions))
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links to files of the repository to their pages, and drop marks that are for tests."""
    uri = page.file.src_uri

    def replace(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        target = _target(link, uri)
        if target is None:
            return match[0]
        destination = _page_of(target)
        if destination is None:
            log.warning("%s links to `%s`, which does not exist.", uri, link)
            return match[0]
        anchor = link.partition("#")[2]
        if not anchor and destination.startswith("source/") and (name := re.search(r'"(\w+)"', after)):
            anchor = name[1]
        relative = posixpath.relpath(destination, posixpath.dirname(uri) or ".")
        return f"{before}{relative}{'#' + anchor if anchor else ''}{after}"

    pieces = []
    end = 0
    markdown = MARK.sub("", markdown)
    for block in CODE_BLOCK.finditer(markdown):
        pieces += [LINK.sub(replace, markdown[end : block.start()]), block[0]]
        end = block.end()
    pieces.append(LINK.sub(replace, markdown[end:]))
    text = "".join(pieces)
    if not uri.startswith("source/"):
        texts[uri] = text
    return text


def _prose(text: str) -> str:
    return CODE_BLOCK.sub("", text)


navigation: list[Navigation] = []


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> None:
    """Keep the navigation for ``llms.txt``."""
    navigation[:] = [nav]


def on_post_build(config: MkDocsConfig) -> None:
    """Write ``llms.txt``, ``llms-full.txt`` and the Markdown of each page beside it."""
    site = Path(config.site_dir)
    root = (config.site_url or "").rstrip("/")
    prefix = f"{root}/" if root else ""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    full = []
    for title, pages in _sections(navigation[0]):
        lines += ["", f"## {title}", ""]
        for page in pages:
            uri = page.file.src_uri
            text = texts[uri]
            (site / uri).parent.mkdir(parents=True, exist_ok=True)
            (site / uri).write_text(text, encoding="utf-8")
            lines.append(f"- [{page.title}]({prefix}{uri}){_summary(text)}")
            full.append(text.strip())
    (site / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (site / "llms-full.txt").write_text("\n\n".join(full) + "\n", encoding="utf-8")


def _sections(nav: Navigation) -> Iterator[tuple[str, list[Page]]]:
    yield "Start", [item for item in nav.items if isinstance(item, Page)]
    for item in nav.items:
        if isinstance(item, Section):
            yield item.title, list(_pages_of(item))


def _pages_of(section: Section) -> Iterator[Page]:
    for item in section.children:
        if isinstance(item, Page):
            yield item
        elif isinstance(item, Section):
            yield from _pages_of(item)


def _summary(text: str) -> str:
    """Return the first sentence of a page, as ``: sentence``."""
    prose = re.sub(r"\A---\n.*?\n---\n", "", _prose(text), flags=re.S)
    for paragraph in prose.split("\n\n"):
        words = " ".join(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", paragraph).split())
        if (words and words[0].isalpha()) or words.startswith("`"):
            return ": " + re.split(r"(?<=[.:])\s", words)[0].rstrip(":")
    return ""
