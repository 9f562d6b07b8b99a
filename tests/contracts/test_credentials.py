"""Credentials are exposed nowhere: ``pytest tests/contracts/test_credentials.py -s`` lists the places."""

import logging
import traceback
from importlib import import_module

import pytest

from credential_places.common import HEADERS, KEY, TOKEN
from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.testing import faults

SETTINGS = {"api_key": KEY, "default_headers": HEADERS, "max_retries": 0}
HELLO = {"model": "stub", "messages": [{"role": "user", "content": "x"}]}

FRAMEWORKS = {
    "on_client": "openai",
    "on_langchain": "langchain_openai",
    "on_llamaindex": "llama_index",
    "on_haystack": "haystack",
}
LEAST_PLACES = {"on_client": 290, "on_langchain": 345, "on_llamaindex": 260, "on_haystack": 280}
"""Fewer places than this mean that some are no longer checked; the exact numbers depend on the SDK's version."""


@pytest.mark.parametrize("module", FRAMEWORKS)
def test_credentials_are_exposed_nowhere(make_fault_server, module, caplog):
    pytest.importorskip(FRAMEWORKS[module])
    server, contents = make_fault_server(), {}
    with caplog.at_level(logging.DEBUG):
        for place, text in import_module(f"credential_places.{module}").places(server):
            contents[place] = contents.get(place, "") + text
    contents["all loggers at DEBUG"] = "\n".join(f"{r.name} {r.getMessage()} {vars(r)}" for r in caplog.records)
    contents["all loggers at DEBUG, as pytest prints them"] = caplog.text
    print(f"\n{module}: {len(contents)} places", *contents, sep="\n  ")
    assert len(contents) >= LEAST_PLACES[module]
    loggers = "\n".join(record.name for record in caplog.records)
    assert all(logger in loggers for logger in ("openai", "http", "httpcore"))
    sent = [request.headers for request in server.posts()]
    assert {headers["authorization"] for headers in sent} == {f"Bearer {KEY}"}, "the key was not sent"
    assert {headers["x-gateway-token"] for headers in sent} == {TOKEN}
    assert [place for place, text in contents.items() if KEY in text or TOKEN in text] == []


@pytest.mark.parametrize(
    "key", [f"{KEY} x", f"{KEY}\n{KEY}", f"a\t{KEY}", f"{KEY}\u00a0x", f"{KEY}ü", f"\x00{KEY}"], ids=ascii
)
@pytest.mark.parametrize("make", [VLLMClient, AsyncVLLMClient])
def test_an_invalid_key_is_rejected_without_being_quoted(make, key):
    with pytest.raises(e.AuthenticationFailed, match="whitespace") as caught:
        make("http://h:1", api_key=key)
    text = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert "canary" not in text


@pytest.mark.parametrize(
    "address", ["me:canary@gpu:8000", "http://me:canary@gpu:8000", "http://me:canary/9@gpu", "ftp://me:canary@gpu"]
)
def test_an_address_with_a_password_is_rejected_without_being_quoted(address):
    with pytest.raises(e.WrongAddress) as caught:
        VLLMServer(address)
    text = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert "canary" not in text


@pytest.mark.parametrize("address", ["gpu:8000", "http://gpu:port", "http://[::1", "https://"])
def test_an_invalid_address_is_quoted(address):
    with pytest.raises(e.WrongAddress, match="is not a valid server address") as caught:
        VLLMServer(address)
    assert repr(address) in str(caught.value)


def test_white_space_around_a_key_is_removed(fault_server):
    VLLMClient(fault_server.url, api_key=f" {KEY}\r\n").chat.completions.create(**HELLO)
    assert fault_server.requests[-1].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("value", [f"{TOKEN}\nx: y", f"{TOKEN}ü", f"\x00{TOKEN}"], ids=ascii)
def test_an_invalid_header_is_rejected_without_being_quoted(fault_server, value):
    client = VLLMClient(fault_server.url, max_retries=0)
    for rejected in (
        lambda: VLLMClient(fault_server.url, default_headers={"X-Token": value}),
        lambda: client.chat.completions.create(**HELLO, extra_headers={"X-Token": value}),
        lambda: VLLMClient(fault_server.url, http_options={"headers": {"X-Token": value}}).models.list(),
    ):
        with pytest.raises(e.InvalidRequest, match="'X-Token'") as caught:
            rejected()
        assert "canary" not in "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert not fault_server.requests


def test_white_space_around_a_header_is_removed(fault_server):
    client = VLLMClient(fault_server.url, default_headers={"X-Token": f"{TOKEN}\n"})
    client.chat.completions.create(**HELLO, extra_headers={"X-Other": f" {TOKEN}\r\n"})
    sent = fault_server.requests[-1].headers
    assert (sent["x-token"], sent["x-other"]) == (TOKEN, TOKEN)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_keys_are_sent_to_the_configured_origin_only(fault_server, make_fault_server, status):
    other = make_fault_server()
    for target in (f"{other.url}/chat/completions", "https://127.0.0.1:9/v1/chat/completions", "//127.0.0.1:9/v1"):
        fault_server.reply(faults.redirect(target, status))
        with VLLMClient(fault_server.url, **SETTINGS) as client, pytest.raises(e.WrongAddress, match="redirects to"):
            client.chat.completions.create(**HELLO)
    assert other.requests == []
    assert other.connections == 0
