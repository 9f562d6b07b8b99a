"""Redirects stay within the origin, loopback has no proxy, and users may bring options or HTTP clients."""

import asyncio

import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters._compat import http
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"
HELLO = {"model": "stub", "messages": [{"role": "user", "content": "hi"}]}


def answer(client):
    return client.chat.completions.create(**HELLO).choices[0].message.content


async def aanswer(client):
    return (await client.chat.completions.create(**HELLO)).choices[0].message.content


def test_redirect_to_another_origin_raises(ask, fault_server, make_fault_server):
    other = make_fault_server()
    fault_server.reply(faults.redirect(f"{other.url}/chat/completions?token=secret"))
    with pytest.raises(e.WrongAddress, match=f"The server redirects to {other.url}/chat/completions") as caught:
        ask(fault_server.url)
    assert "secret" not in str(caught.value)
    assert not other.requests


def test_redirect_within_the_origin_is_followed(ask, fault_server):
    fault_server.script(CHAT, [faults.redirect(f"{fault_server.url}/chat/completions?moved=1")])
    assert ask(fault_server.url).choices[0].message.content == "one two three four five"
    assert [post.path for post in fault_server.posts()] == [CHAT, f"{CHAT}?moved=1"]


def test_endless_redirects_raise(ask, fault_server):
    fault_server.reply(faults.redirect(f"{fault_server.url}/chat/completions"))
    with pytest.raises(e.WrongAddress, match="The server redirects to"):
        ask(fault_server.url)
    assert len(fault_server.posts()) < 10


def test_proxies_of_the_environment_are_not_used_for_loopback(ask, fault_server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert ask(fault_server.url).choices


@pytest.mark.parametrize("limits", [{"max_connections": 2}, None])
def test_http_options_are_those_of_the_http_client(fault_server, limits):
    options = {"headers": {"x-team": "search"}, **({"limits": limits} if limits else {})}
    assert answer(VLLMClient(fault_server.url, http_options=options)) == "hi"
    aclient = AsyncVLLMClient(fault_server.url, http_options=options)
    assert [asyncio.run(aanswer(aclient)) for _ in range(3)] == ["hi"] * 3
    assert [request.headers["x-team"] for request in fault_server.posts(CHAT)] == ["search"] * 4


def test_proxy_of_http_options_is_used(fault_server):
    with pytest.raises(e.ServerUnreachable, match="Is it running"):
        answer(VLLMClient(fault_server.url, max_retries=0, http_options={"proxy": "http://127.0.0.1:9"}))


def test_http_clients_of_the_user_are_used(fault_server):
    with http.Client(headers={"x-mine": "sync"}) as client:
        clients = {"http_client": client, "async_http_client": http.AsyncClient(headers={"x-mine": "async"})}
        server = VLLMServer(fault_server.url, **clients)
        server.models()
        asyncio.run(server.amodels())
    assert [request.headers["x-mine"] for request in fault_server.requests] == ["sync", "async"]


def test_closed_client_connects_again(fault_server):
    client, aclient = VLLMClient(fault_server.url), AsyncVLLMClient(fault_server.url)

    async def run():
        for _ in range(2):
            assert await aanswer(aclient) == "hi"
            await aclient.close()

    for _ in range(2):
        assert answer(client) == "hi"
        client.close()
    asyncio.run(run())


async def test_server_closes_its_connections(fault_server):
    async with VLLMServer(fault_server.url) as server:
        assert await server.amodels()
        connections = server.async_client._client
    assert connections.is_closed
