"""The examples of docstrings are run: against cassettes by default, live with ``--live``."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import vllm_adapters

FRAMEWORK = {
    "haystack": "haystack",
    "langchain": "langchain_openai",
    "llamaindex": "llama_index.llms.openai_like",
}
SERVER = {"vllm serve an embedding model": "minilm", "vllm serve a reranker": "cross-encoder"}

# Haystack's components bear the name under which pipelines find them.
ELSEWHERE = {
    f"vllm_adapters.haystack.{module}": "haystack_integrations.components.vllm_adapters"
    for module in ("chat", "counter", "embedders", "ranker")
}


def examples():
    for module in pkgutil.walk_packages(vllm_adapters.__path__, "vllm_adapters."):
        room = module.name.split(".")[1]
        if room in ("local", "testing", "demo", "__main__", "cli") or ".make." in module.name:
            continue  # these have no server to talk to: their own tests run them
        if room in FRAMEWORK:
            try:
                importlib.import_module(FRAMEWORK[room])
            except ImportError:
                continue
        found = importlib.import_module(module.name)
        for name, thing in vars(found).items():
            text = inspect.getdoc(thing) or ""
            if getattr(thing, "__module__", None) == ELSEWHERE.get(module.name, module.name) and ">>>" in text:
                kind = next((kind for said, kind in SERVER.items() if said in text), "tiny")
                name = f"{module.name.removeprefix('vllm_adapters.')}.{name}"
                yield pytest.param(thing, id=name, marks=pytest.mark.vllm(kind))


@pytest.mark.parametrize("thing", list(examples()))
def test_example(thing, vllm_url):
    text = inspect.getdoc(thing).replace("http://localhost:8000", vllm_url.removesuffix("/v1"))
    test = doctest.DocTestParser().get_doctest(text, {}, thing.__qualname__, None, 0)
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
