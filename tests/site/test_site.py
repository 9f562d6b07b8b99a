"""The built site loads nothing from another host, its links lead somewhere, and it is complete: ``make docs``."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"

LOADS = re.compile(r"<(?:script|img|iframe|source|video|audio|object)\b[^>]*?\s(?:src|data)=[\"']?([^\"'>\s]+)", re.S)
LOADED_LINK = re.compile(r"<link\b(?=[^>]*\brel=[\"']?[^\"'>]*(?:stylesheet|icon|load|fetch|connect))[^>]*>", re.S)
HREF = re.compile(r"\shref=[\"']?([^\"'>\s]+)")
LINK = re.compile(r"<a\b[^>]*?\shref=[\"']?([^\"'>\s]+)", re.S)
ANCHOR = re.compile(r"\s(?:id|name)=[\"']?([^\"'>\s]+)")


class Page(NamedTuple):
    """What a page loads, what it links to, and the anchors that it has."""

    loads: set[str]
    links: set[str]
    anchors: set[str]


def read(text):
    loads = {*LOADS.findall(text), *(HREF.search(link)[1] for link in LOADED_LINK.findall(text))}
    return Page(*({html.unescape(one) for one in found} for found in (loads, LINK.findall(text), ANCHOR.findall(text))))


@pytest.fixture(scope="module")
def files():
    """The paths of the site's files, relative to its root."""
    found = {path.relative_to(SITE).as_posix() for path in SITE.rglob("*") if path.is_file()}
    assert found, "The site is not built. Run make docs."
    return found


@pytest.fixture(scope="module")
def pages(files):
    """The pages by path."""
    return {file: read((SITE / file).read_text(encoding="utf-8")) for file in files if file.endswith(".html")}


def is_elsewhere(address):
    return bool(urlsplit(address).netloc)


def resolve(page, address):
    """The path of the file that an address on a page leads to."""
    path = unquote(urlsplit(address).path)
    if not path:
        return page
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)).lstrip("/")
    return posixpath.normpath(f"{target}/index.html") if path.endswith("/") or target == "." or path == ".." else target


def test_addresses_of_a_page_are_found():
    page = read("""<link rel="stylesheet" href="a.css"><link rel=canonical href=b><script src=c.js></script>
        <a class="x" href="d/#e">D</a><h2 id=f>F</h2><img alt="" src='g.svg'>""")
    assert page == ({"a.css", "c.js", "g.svg"}, {"d/#e"}, {"f"})
    assert resolve("x/index.html", "../y/#z") == "y/index.html"
    assert resolve("x/index.html", "..") == resolve("x/index.html", "../") == "index.html"
    assert resolve("x/index.html", "#z") == "x/index.html"


def test_nothing_is_loaded_from_another_host(files, pages):
    found = {(name, address) for name, page in pages.items() for address in page.loads if is_elsewhere(address)}
    for style in (file for file in files if file.endswith(".css")):
        text = (SITE / style).read_text(encoding="utf-8")
        addresses = re.findall(r"""(?:url\(|@import )["']?([^"')\s;]+)""", text)
        found |= {(style, address) for address in addresses if is_elsewhere(address)}
    assert found == set()


def test_what_pages_load_exists(files, pages):
    loaded = {resolve(name, address) for name, page in pages.items() for address in page.loads}
    assert len(loaded) > 5
    assert loaded - files == set()


def test_links_and_anchors_resolve(files, pages):
    broken = set()
    for name, page in pages.items():
        for address in page.links:
            if name == "404.html" or is_elsewhere(address) or address.startswith("mailto:"):
                continue  # addresses of 404.html begin at the root of the site
            file, anchor = resolve(name, address), unquote(urlsplit(address).fragment)
            if file not in files or (anchor and file in pages and anchor not in pages[file].anchors):
                broken.add((name, address))
    assert broken == set()


def test_llms_txt_lists_every_page_of_the_navigation():
    text = (SITE / "llms.txt").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[[^]]+\]\(([^)]+\.md)\)", text, re.M)
    assert all((SITE / one).is_file() for one in listed)
    config = (ROOT / "scripts" / "site" / "mkdocs.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", config, re.M)) <= set(listed)
    assert text.startswith("# vllm-adapters\n\n> The OpenAI SDK client")


def test_marks_of_tests_are_not_in_the_text():
    full = (SITE / "llms-full.txt").read_text(encoding="utf-8")
    assert re.findall(r"^<!-- (?:run|generated|end).*", full, re.M) == []


@pytest.mark.parametrize("name", ["ChatVLLM", "VLLMEmbeddings"])
def test_reference_has_types_and_defaults_of_fields(name):
    page = (SITE / "reference" / "langchain" / "index.html").read_text(encoding="utf-8")
    assert f'id="vllm_adapters.langchain.{name}"' in page
    section = page.split(f'id="vllm_adapters.langchain.{name}"')[1]
    assert "VLLMServer" in section.split("Parameters:")[0]
