"""Texts, lists of texts, and what is neither, for every method that takes them."""

import numpy as np
import pytest

from vllm_adapters import VLLMServer
from vllm_adapters.testing import faults


@pytest.fixture
def server(fault_server):
    with VLLMServer(fault_server.url) as server:
        yield server


CALLS = {
    "embed": lambda server, texts: server.embed(texts),
    "pooling": lambda server, texts: server.pooling(texts),
    "classify": lambda server, texts: server.classify(texts),
    "score, first": lambda server, texts: server.score(texts, "b"),
    "score, second": lambda server, texts: server.score("a", texts),
    "rerank": lambda server, texts: server.rerank("a", texts),
    "detokenize": lambda server, texts: server.detokenize(texts),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("texts", [None, 5, b"abc", {"a": 1}, ["a", None], ["a", b"b"]], ids=repr)
def test_what_is_no_text_raises(server, fault_server, name, texts):
    with pytest.raises(TypeError, match="must be a"):
        CALLS[name](server, texts)
    assert not fault_server.posts()


@pytest.mark.parametrize("name", ["rerank", "detokenize"])
def test_one_text_where_a_list_is_needed_raises(server, fault_server, name):
    with pytest.raises(TypeError, match="must be a sequence of"):
        CALLS[name](server, "abc")
    assert not fault_server.posts()


@pytest.mark.parametrize("name", ["embed", "classify", "score, first", "score, second"])
def test_one_text_is_one_text(server, fault_server, name):
    assert len(CALLS[name](server, "abc")) == 1
    assert "abc" in fault_server.posts()[-1].json.values() or ["abc"] in fault_server.posts()[-1].json.values()


@pytest.mark.parametrize("name", ["embed", "pooling", "classify", "score, second", "rerank"])
def test_no_texts_have_no_results_and_need_no_request(server, fault_server, name):
    assert len(CALLS[name](server, [])) == 0
    assert not fault_server.requests


async def test_no_texts_of_async_methods(server, fault_server):
    vectors = await server.aembed([], dimensions=8)
    assert vectors.shape == (0, 8)
    assert vectors.dtype == np.float32
    assert await server.arerank("a", []) == []
    assert not fault_server.requests


def test_iterators_and_arrays_are_lists(server, fault_server):
    assert len(server.rerank("a", iter(["b", "c"]))) == 2
    assert len(server.classify(np.array(["b", "c"]))) == 2
    fault_server.reply(faults.json_reply({"prompt": "ab"}), "/detokenize")
    assert server.detokenize(np.array([1, 2])) == "ab"
    assert fault_server.posts()[-1].json["tokens"] == [1, 2]


def test_query_must_be_a_text(server):
    with pytest.raises(TypeError, match="`query` must be a str, not NoneType"):
        server.rerank(None, ["a"])
