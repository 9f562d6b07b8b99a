"""VLLMServer on real servers: vLLM's own endpoints, checked and typed."""

import copy
import pickle

import numpy as np
import pytest

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.testing import FaultServer

TEXTS = ["The sea is blue.", "Rome is in Italy.", "Water is wet."]
chat = pytest.mark.vllm("tiny")
minilm = pytest.mark.vllm("minilm")


@pytest.fixture
def server(vllm_url):
    with VLLMServer(vllm_url, max_retries=0) as server:
        yield server


@chat
def test_what_it_serves(server):
    (card,) = server.models()
    assert (card.id, card.parent) == ("tiny", None)
    assert card.max_model_len >= 1024
    assert server.version == "0.32.0"
    assert server.is_ready()
    found = server.capabilities()
    assert found.tasks >= {"chat", "completions"}
    assert "embeddings" not in found.tasks
    assert found.max_model_len == card.max_model_len


@chat
async def test_what_it_serves_async(server):
    assert await server.aversion() == "0.32.0"
    assert (await server.amodels())[0].id == "tiny"
    assert (await server.acapabilities()).tasks >= {"chat"}
    assert await server.ais_ready()
    assert await server.await_until_ready(5) is server


@chat
def test_tokens(server, sent):
    tokens = server.tokenize("hello there", return_token_strs=True)
    assert tokens.count == len(tokens.ids) == len(tokens.strings) == server.count_tokens("hello there")
    assert server.detokenize(tokens.ids) == "hello there"
    messages = [{"role": "user", "content": "hello there"}]
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    assert server.count_tokens(messages=messages) > tokens.count
    assert server.count_tokens(messages=messages, tools=[tool] * 3) > server.count_tokens(messages=messages)
    assert sent.last.path == "/tokenize"
    with pytest.raises(e.InvalidRequest, match="must be given"):
        server.tokenize()


@chat
async def test_tokens_async(server):
    tokens = await server.atokenize("hello there")
    assert tokens.count == await server.acount_tokens("hello there")
    assert await server.adetokenize(tokens.ids) == "hello there"


@chat
def test_counting_agrees_with_usage(server):
    messages = [{"role": "user", "content": "What is the capital of Japan?"}]
    reply = server.client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)
    assert reply.usage.prompt_tokens == server.count_tokens(messages=messages)


@minilm
def test_embed(server, sent):
    block = server.embed(TEXTS)
    assert (block.shape, block.dtype) == ((3, 384), np.float32)
    assert np.allclose(np.linalg.norm(block, axis=1), 1, atol=1e-4)
    assert np.allclose(server.embed(TEXTS[0]), block[:1], atol=1e-5)
    assert sent[-2].json == {"model": "minilm", "input": TEXTS, "encoding_format": "base64"}
    by_sdk = server.client.embeddings.create(model="minilm", input=TEXTS)
    assert np.allclose([item.embedding for item in by_sdk.data], block, atol=1e-5)


@minilm
async def test_embed_async(server):
    assert (await server.aembed(TEXTS)).shape == (3, 384)


@minilm
def test_a_text_that_is_too_long(server, sent):
    with pytest.raises(e.ContextLengthExceeded) as caught:
        server.embed("word " * 600)
    assert caught.value.max_model_len == 256
    assert server.embed("word " * 600, truncate_prompt_tokens=-1).shape == (1, 384)
    assert sent.last.json["truncate_prompt_tokens"] == -1


@minilm
def test_dimensions_need_a_matryoshka_model(server):
    with pytest.raises(e.FeatureNotEnabled, match="is_matryoshka"):
        server.embed("x", dimensions=64)


@minilm
def test_pooling(server):
    (vector,) = server.pooling("The sea is blue.", task="embed")
    assert vector.shape == (384,)
    assert np.allclose(vector, server.embed("The sea is blue.")[0], atol=1e-5)


@minilm
def test_a_chat_on_an_embedding_model(server):
    with pytest.raises(e.WrongAddress, match="has /v1/embeddings"):
        server.client.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "hi"}])


@minilm
def test_rerank_by_cosine(server, sent):
    ranking = server.rerank("Which city is in Italy?", TEXTS)
    assert ranking[0].text == "Rome is in Italy."
    assert sorted(document.index for document in ranking) == [0, 1, 2]
    assert [d.score for d in ranking] == sorted((d.score for d in ranking), reverse=True)
    assert len(server.rerank("Which city is in Italy?", TEXTS, top_n=1)) == 1
    assert sent.last.json["top_n"] == 1


@pytest.mark.vllm("cross-encoder")
async def test_scores_of_a_cross_encoder(server, sent):
    scores = server.score("blue", TEXTS)
    assert len(scores) == 3
    assert np.allclose(await server.ascore("blue", TEXTS), scores, atol=1e-5)
    ranking = await server.arerank("blue", TEXTS)
    assert np.allclose([scores[d.index] for d in ranking], [d.score for d in ranking], atol=1e-4)
    assert sent.bodies("/v1/score")[0] == {"model": "cross-encoder", "text_1": "blue", "text_2": TEXTS}
    with pytest.raises(e.UnknownParameter, match="`return_documents`"):
        server.rerank("blue", TEXTS, return_documents=False)


@pytest.mark.vllm("classifier")
async def test_classes(server):
    found = server.classify(TEXTS)
    assert [len(item.probs) for item in found] == [3, 3, 3]
    assert all(abs(sum(item.probs) - 1) < 1e-3 for item in found)
    assert {item.label for item in found} <= {"NEGATIVE", "NEUTRAL", "POSITIVE"}
    assert (await server.aclassify(TEXTS[0]))[0].label == found[0].label


@chat
def test_metrics(server):
    names = {family.name for family in server.metrics()}
    assert "vllm:num_requests_running" in names


@chat
def test_lora_that_is_off(server):
    with pytest.raises(e.FeatureNotEnabled, match="--enable-lora"):
        server.load_lora("mine", "somewhere")


def test_a_pickle_holds_no_key():
    server = VLLMServer("http://h:1", api_key="sk-canary", model="m", max_retries=7, default_headers={"X": "sk-canary"})
    assert server.async_client
    packed = pickle.dumps(server)
    assert b"canary" not in packed
    again = pickle.loads(packed)
    assert (again.base_url, again.model, again.client.max_retries) == ("http://h:1/v1", "m", 7)


def test_the_constructor_sends_nothing_and_shows_no_key():
    with FaultServer() as stub:
        server = VLLMServer(stub.url, api_key="sk-canary")
        assert "canary" not in f"{server!r}{server.client!r}{server.async_client!r}"
        assert not stub.requests


def test_copies_keep_the_key_that_pickles_leave_behind(make_fault_server):
    stub = make_fault_server(api_key="canary")
    server = VLLMServer(stub.url, api_key="canary", model="stub", max_retries=0)
    for twin in (copy.copy(server), copy.deepcopy(server), server.serving("stub")):
        assert twin.models()
    assert copy.copy(server.client).models.list()
    with pytest.raises(e.AuthenticationFailed):
        pickle.loads(pickle.dumps(server)).models()


def test_another_model_of_the_same_server(fault_server):
    server = VLLMServer(fault_server.url, model="stub")
    assert server.serving("lora").count_tokens("a b") > 0
    assert fault_server.posts("/tokenize")[-1].json["model"] == "lora"
    assert server.model == "stub"
