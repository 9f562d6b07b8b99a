"""A canary key is in no place where a key could be found. The places are those that ``PLACES`` and the tests name."""

import copy
import json
import logging
import pickle
import traceback

import pytest

from vllm_adapters import AsyncVLLMClient, Timeouts, VLLMClient, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.testing import faults, wire

KEY = "sk-canary-0123456789"
TOKEN = "canary-token-of-a-gateway"
GIVEN = {"api_key": KEY, "default_headers": {"X-Gateway-Token": TOKEN}, "max_retries": 0, "timeout": Timeouts(idle=0.5)}
HELLO = {"model": "stub", "messages": [{"role": "user", "content": "x"}]}

PLACES = {
    "repr": repr,
    "str": str,
    "format": "{}".format,
    "pickle": lambda part: repr(pickle.dumps(part)),
    "pickle of a copy": lambda part: repr(pickle.dumps(copy.copy(part))),
    "pickle of a deep copy": lambda part: repr(pickle.dumps(copy.deepcopy(part))),
    "an error that shows it": lambda part: str(ValueError(part)) + repr(KeyError(part)),
    "a log record": lambda part: logging.LogRecord("x", 10, "f", 1, "%s %r", (part, part), None).getMessage(),
    "a log of its fields, by name": lambda part: json.dumps({"part": part}, default=repr),
}
"""Where an object of ours may end up."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", [VLLMClient, AsyncVLLMClient, VLLMServer])
def test_no_key_in_what_is_shown_of_an_object(fault_server, place, make):
    part = make(fault_server.url, **GIVEN)
    shown = PLACES[place](part)
    assert fault_server.url in shown or place.startswith("pickle")
    assert "canary" not in shown


FAILURES = {
    "401": (faults.error(401, "Unauthorized", shape="string"), False),
    "404": (faults.error(404, "Not Found", shape="detail"), False),
    "500": (faults.error(500), False),
    "HTML": (faults.html(), False),
    "redirect": (faults.redirect("http://127.0.0.1:9/v1/chat/completions"), False),
    "timeout": (faults.hang(), False),
    "no answer": (faults.hang_up(), False),
    "truncated JSON": (faults.reply(b'{"id": '), False),
    "error event": (faults.error_event("dead", after=1), True),
    "cut stream": (faults.sse(*wire.chat_chunks("one two", finish_reason=None), end="clean"), True),
    "reset stream": (faults.sse(*wire.chat_chunks("one two", finish_reason=None), end="reset"), True),
    "hanging stream": (faults.sse(*wire.chat_chunks("one two", finish_reason=None), end="hang"), True),
    "ignored constraint": (faults.chat("Sure!"), False),
}


def chain(error):
    """An error and all that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("name", FAILURES)
def test_no_key_in_errors(fault_server, name, caplog):
    behaviour, stream = FAILURES[name]
    fault_server.reply(behaviour)
    shown = {}
    asked = {**HELLO, "stream": stream, "extra_body": {"structured_outputs": {"choice": ["yes"]}}}
    with (
        caplog.at_level(logging.DEBUG),
        VLLMClient(fault_server.url, **GIVEN) as client,
        pytest.raises(e.VLLMError) as caught,
    ):
        list(client.chat.completions.create(**asked))
    for link in chain(caught.value):
        shown |= {
            f"{type(link).__name__}: text": f"{link} {link!r}",
            f"{type(link).__name__}: attributes": repr(vars(link)),
            f"{type(link).__name__}: notes": repr(getattr(link, "__notes__", "")),
        }
        for holder in ("request", "response"):
            try:
                held = getattr(link, holder)
            except (AttributeError, RuntimeError):  # the transport's own errors may have none
                continue
            headers = [held.headers, *([held.request.headers] if holder == "response" else [])]
            if following := getattr(held, "next_request", None):
                headers.append(following.headers)
            shown[f"{type(link).__name__}: headers of its {holder}"] = repr([dict(h) for h in headers])
    shown["pickle"] = repr(pickle.dumps(caught.value))
    shown["traceback"] = "".join(traceback.format_exception(caught.value))
    shown["debug logs"] = caplog.text
    assert fault_server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    assert fault_server.requests[-1].headers["x-gateway-token"] == TOKEN
    assert [place for place, text in shown.items() if "canary" in text] == []


def test_no_key_in_debug_logs_of_calls_that_work(fault_server, caplog):
    with caplog.at_level(logging.DEBUG), VLLMClient(fault_server.url, **GIVEN) as client:
        client.chat.completions.create(**HELLO)
        list(client.chat.completions.create(**HELLO, stream=True))
    assert "chat/completions" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize(
    "key", [f"{KEY} x", f"{KEY}\n{KEY}", f"a\t{KEY}", f"{KEY}\u00a0x", f"{KEY}ü", f"\x00{KEY}"], ids=ascii
)
@pytest.mark.parametrize("make", [VLLMClient, AsyncVLLMClient])
def test_a_key_with_white_space_or_stranger_is_refused_and_not_quoted(make, key):
    with pytest.raises(e.AuthenticationFailed, match="white space") as caught:
        make("http://h:1", api_key=key)
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert "canary" not in shown


@pytest.mark.parametrize(
    "address", ["me:canary@gpu:8000", "http://me:canary@gpu:8000", "http://me:canary/9@gpu", "ftp://me:canary@gpu"]
)
def test_an_address_with_a_password_is_refused_and_not_quoted(address):
    with pytest.raises(e.WrongAddress) as caught:
        VLLMServer(address)
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert "canary" not in shown


@pytest.mark.parametrize("address", ["gpu:8000", "http://gpu:port", "http://[::1", "https://"])
def test_an_address_that_is_none_is_shown(address):
    with pytest.raises(e.WrongAddress, match="is not a server's address") as caught:
        VLLMServer(address)
    assert repr(address) in str(caught.value)


def test_a_newline_at_the_end_of_a_key_file_is_no_part_of_the_key(fault_server):
    VLLMClient(fault_server.url, api_key=f" {KEY}\r\n").chat.completions.create(**HELLO)
    assert fault_server.requests[-1].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_keys_go_to_the_configured_origin_only(fault_server, make_fault_server, status):
    other = make_fault_server()
    for target in (f"{other.url}/chat/completions", "https://127.0.0.1:9/v1/chat/completions", "//127.0.0.1:9/v1"):
        fault_server.reply(faults.redirect(target, status))
        with VLLMClient(fault_server.url, **GIVEN) as client, pytest.raises(e.WrongAddress, match="redirects to"):
            client.chat.completions.create(**HELLO)
    assert other.requests == []
    assert other.connections == 0
