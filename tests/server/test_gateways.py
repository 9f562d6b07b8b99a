"""What a gateway hides is looked up another way, or named; readiness means that a model responds."""

import asyncio

import pytest

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.testing import FaultServer, faults, payloads

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = [{"role": "user", "content": "Hello"}]
MISSING = faults.error(404, "Not Found", shape="detail")


@pytest.fixture(params=["sync", "async"])
def call(request):
    """Calls a method of a server, or its async version."""

    def run(server, method, *args, **options):
        if request.param == "sync":
            return getattr(server, method)(*args, **options)
        return asyncio.run(getattr(server, f"a{method}")(*args, **options))

    return run


@pytest.fixture
def litellm():
    """A gateway as LiteLLM's: no version, its own routes, no tokens, cards with another name for the length."""
    card = {"id": "stub", "object": "model", "owned_by": "openai", "max_input_tokens": 2048}
    with FaultServer(version=None, models=[card]) as server:
        server.reply(faults.json_reply({"paths": {"/v1/chat/completions": {}, "/team/new": {}}}), "/openapi.json")
        server.reply(MISSING, "/tokenize")
        yield server


def test_capabilities_name_what_is_hidden(litellm, call):
    found = call(VLLMServer(litellm.url), "capabilities")
    assert (found.version, found.max_model_len, found.tasks) == (None, 2048, frozenset())
    assert found.hidden == {"version", "tasks"}
    assert "/team/new" in found.routes


def test_capabilities_without_a_list_of_routes(fault_server, call):
    fault_server.reply(MISSING, "/openapi.json")
    found = call(VLLMServer(fault_server.url), "capabilities")
    assert (found.version, found.hidden, found.routes) == ("0.32.0", {"tasks"}, frozenset())


def test_capabilities_of_vllm_itself_hide_nothing(fault_server, call):
    found = call(VLLMServer(fault_server.url), "capabilities")
    assert found.hidden == frozenset()
    assert "chat" in found.tasks


def test_capabilities_of_a_server_that_is_down_raise(fault_server, call):
    fault_server.reply(faults.error(500), "/version")
    with pytest.raises(e.ServerFailed):
        call(VLLMServer(fault_server.url, max_retries=0), "capabilities")


def test_messages_are_counted_by_their_usage(litellm, call):
    reply = payloads.chat("x")
    reply["usage"] = {"prompt_tokens": 12, "completion_tokens": 1, "total_tokens": 13}
    litellm.reply(faults.json_reply(reply), CHAT)
    options = {"messages": HELLO, "chat_template_kwargs": {"enable_thinking": False}}
    assert call(VLLMServer(litellm.url), "count_tokens", **options) == 12
    sent = litellm.posts(CHAT)[0].json
    assert (sent["messages"], sent["max_tokens"]) == (HELLO, 1)
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("route", [COMPLETIONS, EMBEDDINGS])
def test_prompt_is_counted_by_its_usage(litellm, call, route):
    if route == EMBEDDINGS:  # the model has no completions
        litellm.reply(MISSING, COMPLETIONS)
    assert call(VLLMServer(litellm.url), "count_tokens", "one two three") > 0
    body = litellm.posts(route)[0].json
    assert body["input" if route == EMBEDDINGS else "prompt"] == "one two three"


def test_tokens_themselves_are_not_available(litellm, call):
    with pytest.raises(e.WrongAddress, match="no route /tokenize"):
        call(VLLMServer(litellm.url), "tokenize", "one")


def test_other_errors_of_tokenize_are_raised(fault_server, call):
    fault_server.reply(faults.error(400, "bad"), "/tokenize")
    with pytest.raises(e.InvalidRequest, match="bad"):
        call(VLLMServer(fault_server.url), "count_tokens", "one")
    assert not fault_server.posts(COMPLETIONS)


@pytest.mark.parametrize(
    "behaviour",
    [
        faults.reply("Failed to build rerank response", 500, "text/plain; charset=utf-8"),
        faults.error(404, "The model `default` does not exist.", type="NotFoundError"),
    ],
    ids=["500", "404"],
)
def test_rerank_through_vllm_router(fault_server, call, behaviour):
    fault_server.reply(behaviour, "/v1/rerank")
    server = VLLMServer(fault_server.url, model="stub", max_retries=0)
    for _ in range(2):
        ranked = call(server, "rerank", "q", ["a", "bb"])
        assert sorted(item.index for item in ranked) == [0, 1]
    assert [post.route for post in fault_server.posts()] == ["/v1/rerank", "/v2/rerank", "/v2/rerank"]


def test_model_that_is_not_served_is_not_looked_for_elsewhere(fault_server, call):
    fault_server.reply(faults.error(404, "The model `other` does not exist."), "/v1/rerank")
    with pytest.raises(e.ModelNotServed):
        call(VLLMServer(fault_server.url, model="other"), "rerank", "q", ["a"])
    assert [post.route for post in fault_server.posts()] == ["/v1/rerank"]


# Readiness


ROUTER_HEALTH = faults.reply("All servers healthy", content_type="text/plain")


def test_server_is_ready_without_a_probe(fault_server, call):
    assert call(VLLMServer(fault_server.url), "is_ready") is True
    assert not fault_server.posts()


def test_gateway_is_ready_when_a_model_responds(fault_server, call):
    fault_server.reply(ROUTER_HEALTH, "/health")
    server = VLLMServer(fault_server.url, model="stub")
    assert call(server, "is_ready") is True
    assert fault_server.posts(CHAT)[0].json["max_tokens"] == 1


@pytest.mark.parametrize(
    "dead",
    [
        faults.reply("No available workers (all circuits open or unhealthy)", 503, "text/plain"),
        faults.reply("Request failed: error sending request for url", 500, "text/plain"),
        faults.html(502),
    ],
    ids=["503", "500", "502"],
)
def test_gateway_whose_servers_are_down_is_not_ready(fault_server, call, dead):
    fault_server.reply(ROUTER_HEALTH, "/health")
    fault_server.reply(dead)
    server = VLLMServer(fault_server.url, model="stub")
    assert call(server, "is_ready") is False
    method = "wait_until_ready"
    with pytest.raises(e.ServerTimeout, match="at last: "):
        call(server, method, 0.3, every=0.1)


def test_probe_of_a_model_without_chat(fault_server, call):
    fault_server.reply(ROUTER_HEALTH, "/health")
    for route in (CHAT, COMPLETIONS):
        fault_server.reply(MISSING, route)
    assert call(VLLMServer(fault_server.url, model="stub"), "is_ready") is True
    assert [post.route for post in fault_server.posts()] == [CHAT, COMPLETIONS, EMBEDDINGS]


def test_probe_may_be_chosen(fault_server, call):
    assert call(VLLMServer(fault_server.url, model="stub"), "is_ready", probe="completions") is True
    assert [post.route for post in fault_server.posts()] == [COMPLETIONS]
    fault_server.reply(MISSING, CHAT)
    with pytest.raises(e.WrongAddress):
        call(VLLMServer(fault_server.url, model="stub"), "is_ready", probe="chat")
