"""The examples of docstrings are run, recorded or live, and public classes begin with one."""

from __future__ import annotations

import ast
import doctest
import inspect
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from version_marks import output_is_that_of_the_docs

import vllm_adapters
from vllm_adapters import VLLMError

PACKAGE = Path(vllm_adapters.__file__).parent
FRAMEWORKS = {
    "haystack": "haystack",
    "langchain": "langchain_openai",
    "llamaindex": "llama_index.llms.openai_like",
}
MODELS = {"vllm serve an embedding model": "minilm", "vllm serve a reranker": "cross-encoder"}
WITHOUT_SERVER = "testing"
TESTED_ELSEWHERE = ("local", "_demo", "_cli", "__main__")

PUBLIC = ["", ".errors", ".types", ".testing", ".doctor", ".local", *(f".{name}" for name in FRAMEWORKS)]
"""The documented modules with classes; those of ``.params`` are mixed into others."""
RETURNED = {
    "vllm_adapters.types",
    "vllm_adapters.doctor.model",
    "vllm_adapters.testing._exchange",
    "vllm_adapters.testing.sent",
}
"""Modules whose classes users do not create: the example is where they come from."""


def docstrings():
    """Names and docstrings with an example, read without an import: not every framework is installed everywhere."""
    for file in sorted(PACKAGE.rglob("*.py")):
        module = file.relative_to(PACKAGE).with_suffix("").parts
        if module[0] in TESTED_ELSEWHERE:
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            text = ast.get_docstring(node) if isinstance(node, ast.ClassDef | ast.FunctionDef) else None
            if text and ">>>" in text:
                yield module[0], ".".join([*module, node.name]), text


def cases(*, server):
    for package, name, text in docstrings():
        if server == (package != WITHOUT_SERVER):
            model = next((model for comment, model in MODELS.items() if comment in text), "tiny")
            yield pytest.param(package, text, id=name, marks=[pytest.mark.vllm(model)] if server else [])


def run(package, text):
    if package in FRAMEWORKS:
        pytest.importorskip(FRAMEWORKS[package])
    test = doctest.DocTestParser().get_doctest(text, {}, package, None, 0)
    output = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not runner.run(test, out=output.append).failed, "".join(output)


@pytest.mark.parametrize(("package", "text"), list(cases(server=True)))
@output_is_that_of_the_docs
def test_example(package, text, vllm_url):
    run(package, text.replace("http://localhost:8000", vllm_url.removesuffix("/v1")))


@pytest.mark.parametrize(("package", "text"), list(cases(server=False)))
def test_example_without_server(package, text):
    run(package, text)


def public_classes():
    """The classes that the documented modules export, as far as their frameworks are installed."""
    for name in PUBLIC:
        needs = FRAMEWORKS.get(name.removeprefix("."))
        if needs is None or find_spec(needs.split(".")[0]) is not None:
            module = import_module(f"vllm_adapters{name}")
            found = [getattr(module, exported) for exported in module.__all__]
            yield from (thing for thing in found if inspect.isclass(thing))


def test_public_classes_begin_with_an_example():
    without = [
        cls.__qualname__
        for cls in public_classes()
        if ">>>" not in (cls.__doc__ or "").split("Args:")[0]
        and cls.__module__ not in RETURNED
        and not (issubclass(cls, VLLMError) and cls is not VLLMError)  # the base class has the example of all
    ]
    assert without == []
