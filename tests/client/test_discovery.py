"""Model, version and routes of a server are looked up once, only when they are needed, and shared."""

import asyncio
import threading

import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
HELLO = {"model": "stub", "messages": [{"role": "user", "content": "yes"}]}
CHOICE = {"structured_outputs": {"choice": ["yes"]}}


def routes(server):
    return [request.route for request in server.requests]


# The model


def test_model_must_be_given_when_several_are_served(ask, make_fault_server):
    server = make_fault_server(models=("a", "b"))
    with pytest.raises(e.ModelNotServed, match="Pass model=: a, b"):
        ask(server.url, model="")


def test_aliases_and_lora_adapters_are_not_further_models(ask, make_fault_server):
    lora = {"id": "lora", "object": "model", "parent": "base", "root": "/x", "max_model_len": None}
    alias = {"id": "alias", "object": "model", "parent": None, "root": "base", "max_model_len": 8}
    server = make_fault_server(models=("base", alias, lora))
    assert ask(server.url, model="").choices
    assert server.posts(CHAT)[0].json["model"] == "base"


def test_router_without_a_model_is_asked_again(fault_server):
    fault_server.script("/v1/models", [faults.json_reply({"object": "list", "data": []})])
    client = VLLMClient(fault_server.url)
    with pytest.raises(e.ModelNotServed, match="it serves none"):
        client.vllm.served_model()
    assert client.vllm.served_model() == "stub"


@pytest.mark.parametrize("cards", [5, "x", {"id": "x"}, [5], [{"name": "x"}], [{"id": None}]], ids=repr)
def test_malformed_model_cards_are_ignored(ask, fault_server, cards):
    fault_server.reply(faults.json_reply({"data": cards}), "/v1/models")
    with pytest.raises(e.ModelNotServed, match="it serves none"):
        ask(fault_server.url, model="")


def test_malformed_model_cards_do_not_hide_an_error(ask, fault_server):
    fault_server.reply(faults.error(404, "The model `stub` does not exist.", param="model"))
    fault_server.reply(faults.json_reply({"data": [{"name": "x"}]}), "/v1/models")
    with pytest.raises(e.ModelNotServed, match="The model `stub` does not exist"):
        ask(fault_server.url)


# The version


def test_new_fingerprint_resets_the_version(fault_server):
    versions = ("0.10.2", "0.10.2", "0.32.0", "0.32.0")
    replies = [{**payloads.chat("yes"), "system_fingerprint": f"vllm-{version}-x"} for version in versions]
    fault_server.script(CHAT, [faults.json_reply(reply) for reply in replies])
    fault_server.script("/version", [faults.json_reply({"version": v}) for v in ("0.10.2", "0.32.0")])
    client = VLLMClient(fault_server.url, max_retries=0)
    for _ in versions:
        client.chat.completions.create(**HELLO, extra_body=CHOICE)
    sent = [set(request.json) & {"guided_choice", "structured_outputs"} for request in fault_server.posts(CHAT)]
    assert sent == [{"guided_choice"}] * 3 + [{"structured_outputs"}]
    assert routes(fault_server).count("/version") == 2


def test_fingerprint_has_the_version_where_a_gateway_has_none(make_fault_server):
    server = make_fault_server(version=None)
    server.reply(faults.json_reply({**payloads.chat("hi"), "system_fingerprint": "vllm-0.21.0-x"}), CHAT)
    client = VLLMClient(server.url, max_retries=0)
    client.chat.completions.create(**HELLO, extra_body={"stop_token_ids": [1]})
    with pytest.raises(e.UnsupportedParameter, match=r"vLLM 0\.21\.0"):
        client.chat.completions.create(**HELLO, extra_body={"watermarking": True})


# How often


def test_nothing_is_looked_up_that_is_not_needed(fault_server):
    client = VLLMClient(fault_server.url, max_retries=0)
    for _ in range(3):
        client.chat.completions.create(**HELLO, extra_body={"top_k": 1})
    assert routes(fault_server) == [CHAT] * 3


def test_model_and_version_are_looked_up_once(fault_server):
    client = VLLMClient(fault_server.url, max_retries=0)
    for _ in range(3):
        client.chat.completions.create(**{**HELLO, "model": ""}, extra_body=CHOICE)
    assert routes(fault_server) == ["/v1/models", "/version", CHAT, CHAT, CHAT]


def test_concurrent_calls_look_up_once(fault_server):
    sync, several = VLLMClient(fault_server.url), AsyncVLLMClient(fault_server.url)
    request = {**HELLO, "model": "", "extra_body": CHOICE}
    threads = [threading.Thread(target=lambda: sync.chat.completions.create(**request)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def run():
        await asyncio.gather(*(several.chat.completions.create(**request) for _ in range(8)))

    asyncio.run(run())
    found = routes(fault_server)
    assert (found.count("/v1/models"), found.count("/version"), found.count(CHAT)) == (2, 2, 16)


@pytest.mark.parametrize("version", [None, "0.32.0"])
def test_clients_of_a_server_share_what_they_look_up(fault_server, version):
    server = VLLMServer(fault_server.url, server_version=version)
    assert asyncio.run(server.async_client.vllm.served_model()) == server.client.vllm.served_model() == "stub"
    assert routes(fault_server) == ["/v1/models"]
