"""Texts, lists of texts, and what is neither, for every method that takes them."""

import numpy as np
import pytest

from vllm_adapters import Embedder, VLLMServer, VLLMTokenizer, errors
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
    "embedder": lambda server, texts: Embedder(server).embed(texts).vectors,
    "embedder, keep_going": lambda server, texts: Embedder(server).embed(texts, keep_going=True).vectors,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("texts", [None, 5, b"abc", {"a": 1}, {"a"}, ["a", None], ["a", b"b"]], ids=repr)
def test_what_is_no_text_raises(server, fault_server, name, texts):
    with pytest.raises(TypeError, match="must be a"):
        CALLS[name](server, texts)
    assert not fault_server.posts()


@pytest.mark.parametrize("name", ["rerank", "detokenize", "embedder", "embedder, keep_going"])
def test_one_text_where_a_list_is_needed_raises(server, fault_server, name):
    with pytest.raises(TypeError, match="must be a sequence of"):
        CALLS[name](server, "abc")
    assert not fault_server.posts()


@pytest.mark.parametrize("name", ["embed", "classify", "score, first", "score, second"])
def test_one_text_is_one_text(server, fault_server, name):
    assert len(CALLS[name](server, "abc")) == 1
    assert "abc" in fault_server.posts()[-1].json.values() or ["abc"] in fault_server.posts()[-1].json.values()


@pytest.mark.parametrize("name", ["embed", "pooling", "classify", "score, second", "rerank", "embedder"])
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


ONE_TEXT = {
    "tokenize": lambda server, text: server.tokenize(text),
    "count_tokens": lambda server, text: server.count_tokens(text),
    "tokenizer.encode": lambda server, text: VLLMTokenizer(server).encode(text),
    "tokenizer.count": lambda server, text: VLLMTokenizer(server).count(text),
    "tokenizer": lambda server, text: VLLMTokenizer(server)(text),
}


@pytest.mark.parametrize("name", ONE_TEXT)
@pytest.mark.parametrize("text", [["a"], [], 5, b"abc", {}], ids=repr)
def test_one_text_must_be_a_str(server, fault_server, name, text):
    with pytest.raises(TypeError, match="must be a str"):
        ONE_TEXT[name](server, text)
    assert not fault_server.posts()


CONVERSATIONS = {
    "tokenize": lambda server, messages, tools: server.tokenize(messages=messages, tools=tools),
    "count_messages": lambda server, messages, tools: VLLMTokenizer(server).count_messages(messages, tools),
}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("items", ["abc", ["abc"], b"abc", 5, {}, [None]], ids=repr)
def test_messages_and_tools_must_be_lists_of_dicts(server, fault_server, name, items):
    with pytest.raises(TypeError, match="`messages"):
        CONVERSATIONS[name](server, items, None)
    with pytest.raises(TypeError, match="`tools"):
        CONVERSATIONS[name](server, HELLO, items)
    assert not fault_server.posts()


def test_replies_of_the_sdk_are_messages(server, fault_server):
    message = server.client.chat.completions.create(model="tiny", messages=HELLO).choices[0].message
    assert server.count_tokens(messages=[*HELLO, message]) == VLLMTokenizer(server).count_messages([*HELLO, message])
    assert fault_server.posts("/tokenize")[-1].json["messages"][1]["role"] == "assistant"


@pytest.mark.parametrize("top_n", [-1, 1.5, "2", True])
def test_top_n_must_be_a_number_of_documents(server, fault_server, top_n):
    with pytest.raises(errors.InvalidRequest, match="`top_n` must be a positive integer"):
        server.rerank("a", ["b"], top_n=top_n)
    assert len(server.rerank("a", ["b", "c"], top_n=0)) == 2


def test_texts_that_are_no_pairs_raise(server, fault_server):
    with pytest.raises(errors.InvalidRequest, match="`text_1` has 2 texts and `text_2` has 3"):
        server.score(["a", "b"], ["c", "d", "e"])
    assert not fault_server.posts()


@pytest.mark.parametrize("name", ["batch_size", "max_concurrency"])
def test_sizes_of_the_embedder_must_be_positive_ints(server, name):
    for number in (1.5, "8", True, None):
        with pytest.raises(TypeError, match=f"`{name}` must be an int"):
            Embedder(server, **{name: number})
    for number in (0, -1):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1"):
            Embedder(server, **{name: number})
