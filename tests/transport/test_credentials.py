"""Base URL and key come from arguments or ``VLLM_*`` variables; credentials go to no other host, and are not shown."""

import pytest

from vllm_adapters import VLLMClient, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters._transport.credentials import RedactedStr, normalize_base_url, normalize_headers

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://h:8000", "http://h:8000/v1"),
        ("http://h:8000/", "http://h:8000/v1"),
        ("http://h:8000/v1", "http://h:8000/v1"),
        ("http://h:8000/v1/", "http://h:8000/v1"),
        ("http://h:8000/v1/v1", "http://h:8000/v1"),
        (" https://h/team/vllm \n", "https://h/team/vllm/v1"),
        ("http://h:8000/v1?a=1", "http://h:8000/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        (None, "http://localhost:8000/v1"),
    ],
)
def test_base_url_ends_in_v1(given, address, monkeypatch):
    monkeypatch.delenv("VLLM_BASE_URL", raising=False)
    assert normalize_base_url(given) == address
    monkeypatch.setenv("VLLM_BASE_URL", "http://env:1")
    assert normalize_base_url(given) == ("http://env:1/v1" if given is None else address)


@pytest.mark.parametrize("given", ["h:8000", "ftp://h", "http://", "not an address", "http://h:port"])
def test_invalid_base_url_raises(given):
    with pytest.raises(e.WrongAddress, match=r"is not a valid server address\. Pass a URL like"):
        normalize_base_url(given)


def test_base_url_with_a_password_raises_without_it():
    with pytest.raises(e.WrongAddress, match="contains a user name or password") as caught:
        normalize_base_url("http://me:sk-canary@h:8000")
    assert "canary" not in str(caught.value)


def test_openai_variables_are_not_read(ask, fault_server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", "sk-canary")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Canary: sk-canary")
    monkeypatch.setenv("VLLM_BASE_URL", fault_server.url)
    ask(None)
    request = fault_server.posts(CHAT)[0]
    assert "canary" not in str(dict(request.headers))
    assert request.headers["authorization"] == "Bearer EMPTY"
    assert not {name for name in request.headers if name.startswith("openai")}


def test_key_is_read_from_the_environment(ask, make_fault_server, monkeypatch):
    server = make_fault_server(api_key="sk-right")
    monkeypatch.setenv("VLLM_API_KEY", "sk-right\n")
    assert ask(server.url).choices
    with pytest.raises(e.AuthenticationFailed, match="VLLM_API_KEY"):
        ask(server.url, client={"api_key": "sk-wrong"})


@pytest.mark.parametrize("key", ["sk-canary\r\nX-Evil: 1", "sk canary", "sk-canäry", "sk-canary\x00"])
def test_invalid_key_raises_without_it(key):
    with pytest.raises(e.AuthenticationFailed, match="The API key contains whitespace, or characters that") as caught:
        VLLMClient("http://h:1", api_key=key)
    assert not any(part in str(caught.value) for part in ("sk-can", "canary", "Evil"))


def test_invalid_header_raises_without_its_value():
    with pytest.raises(e.InvalidRequest, match="The value of header 'X-Token' contains characters that") as caught:
        normalize_headers({"X-Token": "sk-canary\r\nX-Evil: 1"})
    assert "canary" not in str(caught.value)
    with pytest.raises(TypeError, match="headers must be a mapping of str to str, not list"):
        normalize_headers([("X-Token", "x")])


def test_headers_are_stripped_and_redacted():
    headers = normalize_headers({"X-Token": " sk-canary\n"})
    assert headers == {"X-Token": "sk-canary"}
    assert isinstance(headers["X-Token"], RedactedStr)
    assert "canary" not in repr(headers)


def test_clients_do_not_show_the_key(fault_server):
    server = VLLMServer(fault_server.url, api_key="sk-canary")
    assert "canary" not in f"{server!r}{server.client!r}{server.async_client!r}"
    assert not fault_server.requests, "the constructors send nothing"
