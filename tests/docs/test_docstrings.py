"""The examples of docstrings are run: against cassettes by default, live with ``--live``."""

import ast
import doctest
import inspect
from pathlib import Path

import pytest

import vllm_adapters

PACKAGE = Path(vllm_adapters.__file__).parent
FRAMEWORK = {
    "haystack": "haystack",
    "langchain": "langchain_openai",
    "llamaindex": "llama_index.llms.openai_like",
}
SERVER = {"vllm serve an embedding model": "minilm", "vllm serve a reranker": "cross-encoder"}


def examples():
    """Docstrings with an example, read without importing them: not every framework is installed everywhere."""
    for file in sorted(PACKAGE.rglob("*.py")):
        module = file.relative_to(PACKAGE).with_suffix("").parts
        if module[0] in ("local", "testing", "_demo", "__main__", "_cli"):
            continue  # these have no server to talk to: their own tests run them
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            documented = isinstance(node, ast.ClassDef | ast.FunctionDef)
            text = (ast.get_docstring(node) or "") if documented else ""
            if ">>>" in text:
                kind = next((kind for said, kind in SERVER.items() if said in text), "tiny")
                name = ".".join([*module, node.name])
                yield pytest.param(module[0], text, id=name, marks=pytest.mark.vllm(kind))


@pytest.mark.parametrize(("room", "text"), list(examples()))
def test_example(room, text, vllm_url):
    if room in FRAMEWORK:
        pytest.importorskip(FRAMEWORK[room])
    text = text.replace("http://localhost:8000", vllm_url.removesuffix("/v1"))
    test = doctest.DocTestParser().get_doctest(text, {}, room, None, 0)
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failed = runner.run(test, out=said.append).failed
    assert not failed, "".join(said)


def test_public_classes_begin_with_an_example():
    import vllm_adapters as package

    for name in package.__all__:
        thing = getattr(package, name)
        if inspect.isclass(thing):
            assert ">>>" in thing.__doc__.split("Args:")[0], name
