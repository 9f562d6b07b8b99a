"""``VLLMServer``: vLLM's own endpoints, readiness, the served models, and sharing of clients."""

import asyncio
import copy
import pickle

import numpy as np
import pytest
from packaging.version import Version

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.testing import faults
from vllm_adapters.types import Capabilities, ModelCard

TEXTS = ["The sea is blue.", "Rome is in Italy.", "Water is wet."]
chat = pytest.mark.vllm("tiny")
minilm = pytest.mark.vllm("minilm")


@pytest.fixture
def server(vllm_url):
    with VLLMServer(vllm_url, max_retries=0) as server:
        yield server


@chat
def test_capabilities(server, vllm_version):
    (card,) = server.models()
    assert (card.id, card.parent) == ("tiny", None)
    assert card.max_model_len >= 1024
    assert server.version == str(vllm_version)
    assert server.is_ready()
    found = server.capabilities()
    assert found.tasks >= {"chat", "completions"}
    if vllm_version >= Version("0.16"):  # older servers have all routes, whatever their model
        assert "embeddings" not in found.tasks
    assert found.max_model_len == card.max_model_len


@chat
async def test_capabilities_async(server, vllm_version):
    assert await server.aversion() == str(vllm_version)
    assert (await server.amodels())[0].id == "tiny"
    assert (await server.acapabilities()).tasks >= {"chat"}
    assert await server.ais_ready()
    assert await server.await_until_ready(5) is server


@chat
def test_tokenize(server, sent):
    tokens = server.tokenize("hello there", return_token_strs=True)
    assert tokens.count == len(tokens.ids) == len(tokens.strings) == server.count_tokens("hello there")
    assert server.detokenize(tokens.ids) == "hello there"
    messages = [{"role": "user", "content": "hello there"}]
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    assert server.count_tokens(messages=messages) > tokens.count
    assert server.count_tokens(messages=messages, tools=[tool] * 3) > server.count_tokens(messages=messages)
    assert sent.last.path == "/tokenize"
    with pytest.raises(e.InvalidRequest, match="Either `prompt` or `messages` must be given"):
        server.tokenize()


@chat
async def test_tokenize_async(server):
    tokens = await server.atokenize("hello there")
    assert tokens.count == await server.acount_tokens("hello there")
    assert await server.adetokenize(tokens.ids) == "hello there"


@chat
def test_count_tokens_equals_usage(server):
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
def test_too_long_text_raises(server, sent):
    with pytest.raises(e.ContextLengthExceeded) as caught:
        server.embed("word " * 600)
    assert caught.value.max_model_len == 256
    assert server.embed("word " * 600, truncate_prompt_tokens=-1).shape == (1, 384)
    assert sent.last.json["truncate_prompt_tokens"] == -1


@minilm
def test_dimensions_require_a_matryoshka_model(server):
    with pytest.raises(e.FeatureNotEnabled, match="is_matryoshka"):
        server.embed("x", dimensions=64)


@minilm
def test_pooling(server):
    (vector,) = server.pooling("The sea is blue.", task="embed")
    assert vector.shape == (384,)
    assert np.allclose(vector, server.embed("The sea is blue.")[0], atol=1e-5)


@minilm
def test_chat_with_an_embedding_model_raises(server, vllm_version):
    with pytest.raises(e.WrongAddress) as caught:
        server.client.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "hi"}])
    if vllm_version < Version("0.16"):
        assert "The model does not support Chat Completions API" in str(caught.value)
    else:
        assert f"this vLLM {vllm_version} has /v1/embeddings" in str(caught.value)


@minilm
def test_rerank_by_cosine(server, sent):
    ranking = server.rerank("Which city is in Italy?", TEXTS)
    assert ranking[0].text == "Rome is in Italy."
    assert sorted(document.index for document in ranking) == [0, 1, 2]
    assert [d.score for d in ranking] == sorted((d.score for d in ranking), reverse=True)
    assert len(server.rerank("Which city is in Italy?", TEXTS, top_n=1)) == 1
    assert sent.last.json["top_n"] == 1


@pytest.mark.vllm("cross-encoder")
async def test_score_and_rerank_with_a_cross_encoder(server, sent):
    scores = server.score("blue", TEXTS)
    assert len(scores) == 3
    assert np.allclose(await server.ascore("blue", TEXTS), scores, atol=1e-5)
    ranking = await server.arerank("blue", TEXTS)
    assert np.allclose([scores[d.index] for d in ranking], [d.score for d in ranking], atol=1e-4)
    assert sent.bodies("/v1/score")[0] == {"model": "cross-encoder", "text_1": "blue", "text_2": TEXTS}
    with pytest.raises(e.UnknownParameter, match="`return_documents`"):
        server.rerank("blue", TEXTS, return_documents=False)


@pytest.mark.vllm("classifier")
async def test_classify(server):
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
def test_lora_that_is_not_enabled_raises(server):
    with pytest.raises(e.FeatureNotEnabled, match="--enable-lora"):
        server.load_lora("mine", "somewhere")


def test_pickle_has_no_credentials():
    server = VLLMServer("http://h:1", api_key="sk-canary", model="m", max_retries=7, default_headers={"X": "sk-canary"})
    assert server.async_client
    packed = pickle.dumps(server)
    assert b"canary" not in packed
    loaded = pickle.loads(packed)
    assert (loaded.base_url, loaded.model, loaded.client.max_retries) == ("http://h:1/v1", "m", 7)


def test_copies_keep_the_key(make_fault_server):
    stub = make_fault_server(api_key="canary")
    server = VLLMServer(stub.url, api_key="canary", model="stub", max_retries=0)
    for copied in (copy.copy(server), copy.deepcopy(server), server.serving("stub")):
        assert copied.models()
    assert copy.copy(server.client).models.list()
    with pytest.raises(e.AuthenticationFailed, match="rejected the API key"):
        pickle.loads(pickle.dumps(server)).models()


def test_serving_uses_another_model(fault_server):
    server = VLLMServer(fault_server.url, model="stub")
    assert server.serving("lora").count_tokens("a b") > 0
    assert fault_server.posts("/tokenize")[-1].json["model"] == "lora"
    assert server.model == "stub"


# Without a real server


def test_wait_until_ready(fault_server):
    server = VLLMServer(fault_server.url)
    fault_server.script("/health", [faults.loading(), faults.hang_up()])
    assert server.wait_until_ready(60, every=0.05) is server
    assert len(fault_server.requests) == 3
    fault_server.reply(faults.loading(), "/health")
    with pytest.raises(e.ServerTimeout, match=r"The server was not ready within 0\.3 s"):
        asyncio.run(server.await_until_ready(0.3, every=0.05))


@pytest.mark.parametrize("behaviour", [faults.loading(), faults.hang_up(), faults.error(500)])
def test_failing_server_is_not_ready(fault_server, behaviour):
    fault_server.reply(behaviour, "/health")
    server = VLLMServer(fault_server.url)
    assert server.is_ready() is asyncio.run(server.ais_ready()) is False


def test_rejected_key_raises_instead_of_not_ready(fault_server):
    fault_server.reply(faults.error(401, "Unauthorized", shape="string"), "/health")
    with pytest.raises(e.AuthenticationFailed, match="rejected the API key"):
        VLLMServer(fault_server.url).is_ready()


CARDS = [
    {"id": "base", "root": "org/base", "parent": None, "max_model_len": 4096},
    {"id": "lora", "root": "/lora", "parent": "base", "max_model_len": None},
    {"id": "no-length", "root": "x", "parent": None, "max_model_len": 0},
]


@pytest.mark.parametrize(("model", "length"), [(None, 4096), ("base", 4096), ("lora", 4096), ("no-length", None)])
def test_context_length_is_that_of_the_base_model(make_fault_server, model, length):
    server = VLLMServer(make_fault_server(models=CARDS).url, model=model)
    assert server.context_length() == asyncio.run(server.acontext_length()) == length


def test_context_length_of_an_unknown_model_raises(make_fault_server):
    server = VLLMServer(make_fault_server(models=CARDS).url, model="other")
    with pytest.raises(e.ModelNotServed, match=r"`other` is not served.*It serves: base, lora, no-length") as caught:
        server.context_length()
    assert caught.value.served == ("base", "lora", "no-length")


def test_model_name_is_known_after_a_look_up(fault_server):
    server = VLLMServer(fault_server.url)
    assert server.model_name == ""
    server.client.vllm.served_model()
    assert (server.model_name, server.serving("lora").model_name) == ("stub", "lora")
    assert len(fault_server.requests) == 1


def test_serving_shares_both_clients(fault_server):
    server = VLLMServer(fault_server.url)
    other = server.serving("lora")
    assert other.client is server.client
    assert other.async_client is server.async_client


@pytest.mark.parametrize("name", ["embed_dtype", "endianness", "encoding_format"])
def test_embed_with_another_format_raises(name):
    with pytest.raises(e.InvalidRequest, match=f"`{name}` cannot be set.*client.embeddings.create"):
        VLLMServer("http://localhost:9").embed("x", **{name: "float"})


def test_rerank_of_a_single_str_raises():
    with pytest.raises(TypeError, match=r"`documents` must be a sequence of str, not str\. Pass \[text\]"):
        VLLMServer("http://localhost:9").rerank("q", "text")


def test_unload_lora(fault_server):
    fault_server.reply(faults.reply("Success: LoRA adapter 'mine' removed.", content_type="text/plain"))
    assert "removed" in VLLMServer(fault_server.url).unload_lora("mine")
    [post] = fault_server.posts()
    assert (post.route, post.json) == ("/v1/unload_lora_adapter", {"lora_name": "mine"})


# connect


def test_connect_returns_the_given_server(fault_server):
    server = VLLMServer(fault_server.url, model="stub")
    assert VLLMServer.connect(server) is server
    assert VLLMServer.connect(server, fault_server.root) is server, "the same address in another form"
    lora = VLLMServer.connect(server, model="lora")
    assert (lora.model, lora.client) == ("lora", server.client)


def test_connect_makes_a_server_of_settings():
    server = VLLMServer.connect(None, "http://h:1", model="", max_retries=7, server_version="0.32.0")
    assert (server.base_url, server.model, server.client.max_retries) == ("http://h:1/v1", None, 7)
    assert str(server.client.vllm.info.version) == "0.32.0"


def test_connect_with_another_address_raises():
    with pytest.raises(ValueError, match=r"`server` \(http://h:1/v1\) and the base URL \(http://g:1\) are different"):
        VLLMServer.connect(VLLMServer("http://h:1"), "http://g:1")


@pytest.mark.parametrize(
    "setting",
    [
        {"default_headers": {"a": "1"}},
        {"default_query": {"a": "1"}},
        {"server_version": "0.32.0"},
        {"http_client": object()},
        {"async_http_client": object()},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_connect_with_settings_beside_a_server_raises(setting):
    [name] = setting
    with pytest.raises(ValueError, match=f"`{name}` cannot be set beside `server`"):
        VLLMServer.connect(VLLMServer("http://h:1"), **setting)


def test_tasks_follow_from_the_routes():
    cards = [ModelCard("base", 2048)]
    routes = {
        "/v1/chat/completions": "chat",
        "/v1/completions": "completions",
        "/v1/responses": "responses",
        "/v1/embeddings": "embeddings",
        "/rerank": "rerank",
        "/score": "score",
        "/classify": "classify",
        "/pooling": "pooling",
        "/v1/audio/transcriptions": "transcriptions",
        "/v1/audio/translations": "translations",
        "/v1/load_lora_adapter": "load_lora",
        "/tokenizer_info": "tokenizer_info",
    }
    for route, task in routes.items():
        assert set(Capabilities.from_responses("0.32.0", cards, {route: {}, "/health": {}}).tasks) == {task}
