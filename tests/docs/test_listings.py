"""The pages for other projects' documentation have the fields that each requires, and their code runs."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from version_marks import output_is_that_of_the_docs

ROOT = Path(__file__).parents[2]
LISTINGS = ROOT / "docs" / "listings"
PRINTS = re.compile(r"^\s*(?:print\(.*\)  # |# Prints: )(.+)$", re.M)
CODE = re.compile(r"^(?P<indent> *)```python.*\n(?P<code>(?:.*\n)*?)(?P=indent)```$", re.M)
PLACEHOLDERS = {"REPOSITORY": "https://example.org/org/vllm-adapters", "DOCUMENTATION": "https://docs.example.org"}


def read(name):
    text = (LISTINGS / name).read_text(encoding="utf-8")
    for word, address in PLACEHOLDERS.items():
        text = text.replace(word, address)
    return text


def front_matter(text):
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def headings(text):
    return re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)


def code(text):
    return "\n".join(textwrap.dedent(match["code"]) for match in CODE.finditer(text))


@pytest.mark.parametrize(
    ("name", "required"),
    [
        (
            "langchain/chat.mdx",
            ["Overview", "Details", "Features", "Setup", "Credentials", "Installation", "Instantiation", "Invocation"],
        ),
        (
            "langchain/embeddings.mdx",
            ["Overview", "Setup", "Credentials", "Installation", "Instantiation", "Indexing and retrieval"],
        ),
    ],
)
def test_langchain_page_has_the_sections_of_the_template(name, required):
    text = read(name)
    assert front_matter(text).keys() == {"title", "description"}
    found = headings(text)
    assert [heading for heading in found if heading in required] == required
    assert found[-1] == "API reference"


def test_langchain_features_are_filled_in():
    text = read("langchain/chat.mdx")
    table = text.split("### Features\n")[1].strip().splitlines()
    head, _, row = (re.split(r" *\| *", line.strip("| ")) for line in table[:3])
    assert len(head) == len(row) == 9
    assert set(row) <= {"✅", "❌"}


def test_langchain_rows_have_the_keys_of_the_file():
    rows = yaml.safe_load(read("langchain/integration_external_docs.yaml"))["python"]
    for kind, keys in {
        "chat": {"stream", "tool_calling", "structured_output", "multimodal"},
        "embeddings": set(),
    }.items():
        for row in rows[kind]:
            assert row.keys() == {"name", "pypi", "docs_url", *keys}
            assert row["docs_url"].startswith("https://")
            pytest.importorskip("langchain_openai")
            assert hasattr(import_module("vllm_adapters.langchain"), row["name"])


def test_haystack_page_has_the_front_matter_and_sections_of_the_draft():
    text = read("haystack/vllm-adapters.md")
    fields = front_matter(text)
    keys = [
        "layout",
        "name",
        "description",
        "authors",
        "pypi",
        "repo",
        "type",
        "report_issue",
        "logo",
        "version",
        "toc",
    ]
    assert list(fields) == keys
    assert (fields["layout"], fields["type"], fields["toc"]) == ("integration", "Model Provider", True)
    assert fields["authors"][0].keys() == {"name", "socials"}
    assert fields["logo"].startswith("/logos/")
    assert headings(text)[1:] == [
        "Overview", "Installation", "Usage", "Components", "Use the chat generator", "License"
    ]  # fmt: skip
    assert set(re.findall(r"`(VLLM\w+)`", text)) == set(public_names("haystack"))


def public_names(package):
    source = (ROOT / "adapters" / "vllm_adapters" / package / "__init__.py").read_text(encoding="utf-8")
    return re.findall(r'"(\w+)"', source.split("__all__")[1])


def test_llamahub_metadata_names_every_class():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    hub = project["tool"]["llamahub"]
    assert hub.keys() == {"contains_example", "import_path", "class_authors"}
    assert set(hub["class_authors"]) == set(public_names("llamaindex"))
    pytest.importorskip("llama_index")
    assert all(hasattr(import_module(hub["import_path"]), name) for name in hub["class_authors"])


def test_vllm_page_has_the_sections_of_its_siblings():
    assert headings(read("vllm/vllm-adapters.md")) == ["vllm-adapters", "Prerequisites", "Deploy"]


@pytest.mark.vllm("tiny")
@pytest.mark.parametrize(
    "name", ["langchain/chat.mdx", "llamahub/README.md", "haystack/vllm-adapters.md", "vllm/vllm-adapters.md"]
)
@output_is_that_of_the_docs
def test_code_of_a_chat_page_prints_what_it_says(name, vllm_url):
    run(name, vllm_url)


@pytest.mark.vllm("minilm")
def test_code_of_the_embeddings_page_prints_what_it_says(vllm_url):
    run("langchain/embeddings.mdx", vllm_url)


def run(name, url):
    source = code(read(name)).replace("http://localhost:8000", url.removesuffix("/v1"))
    framework = re.search(r"from vllm_adapters\.(\w+) import", source)[1]
    pytest.importorskip(
        {"langchain": "langchain_openai", "llamaindex": "llama_index", "haystack": "haystack"}[framework]
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, name, "exec"), {"__name__": "example"})
    expected = PRINTS.findall(source)
    assert expected
    assert printed.getvalue().replace("\n", "") == "".join(expected)  # a stream ends without a line break
