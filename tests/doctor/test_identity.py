"""The first checks: is there a server, is it vLLM, and does it grant access?"""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress

import pytest

from vllm_adapters.doctor import Verdict, examine
from vllm_adapters.errors import WrongAddress
from vllm_adapters.testing import faults

KEY = "sk-canary"


@contextmanager
def listening(answer):
    """A port that sends these bytes to each connection and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):  # the listener was closed at the end of the test
                while True:
                    with listener.accept()[0] as connection:
                        connection.sendall(answer)
                        connection.recv(4096)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_closed_port_is_unusable():
    report = examine("http://127.0.0.1:9")
    assert report.exit_code == 2
    assert report["reachable"].verdict is Verdict.BROKEN
    assert report["reachable"].text == "connection failed: [Errno 111] Connection refused"
    assert {result.finding.verdict for result in report.results[1:]} == {Verdict.UNTRIED}


def test_web_site_is_not_vllm(fault_server):
    for path in ("/version", "/v1/models"):
        fault_server.reply(faults.html(), path)
    report = examine(fault_server.url)
    assert report.exit_code == 2
    assert report["vllm"].text.startswith("not a vLLM server: /v1/models returned '<html>")
    assert len(fault_server.requests) == 2, "no further request is sent"


def test_web_server_without_the_routes_is_not_vllm(make_fault_server):
    report = examine(make_fault_server(routes=()).url)
    assert report.exit_code == 2
    assert report["vllm"].text == "not a vLLM server: /v1/models returned HTTP 404"


def test_other_service_with_a_version_is_not_vllm(fault_server):
    fault_server.reply(faults.json_reply({"name": "search", "version": "8.15.0"}), "/version")
    fault_server.reply(faults.json_reply({"error": "no such index [v1]"}, status=404), "/v1/models")
    report = examine(fault_server.url)
    assert report.exit_code == 2
    assert report["vllm"].text.startswith("not a vLLM server")


def test_rust_frontend_is_vllm(make_fault_server):
    cards = [{"id": "tiny", "object": "model", "owned_by": "vllm-frontend-rs"}]
    assert examine(make_fault_server(version="0.33.0", models=cards).url).usable


@pytest.mark.parametrize("version", [None, "0.4.7"], ids=["without-version", "with-version"])
def test_gateway_to_other_models_is_not_vllm(make_fault_server, version):
    cards = [{"id": "gpt-4o", "object": "model", "owned_by": "openai"}]
    server = make_fault_server(version=version, models=cards)
    report = examine(server.url)
    assert report.exit_code == 2
    assert "not vLLM (its models are owned by openai)" in report["vllm"].text
    assert not server.posts(), "no generation on somebody else's paid API"


@pytest.mark.parametrize("name", [7, None, "", ["m"], "m\x1b[31m"])
def test_model_without_a_valid_name_is_not_vllm(fault_server, name):
    cards = {"object": "list", "data": [{"id": name, "owned_by": "vllm"}]}
    fault_server.reply(faults.json_reply(cards), "/v1/models")
    report = examine(fault_server.url)
    assert report.exit_code == 2
    assert report["vllm"].text.startswith("not a vLLM server: /v1/models returned ")


def test_loading_server_is_unusable(fault_server):
    fault_server.reply(faults.loading(), "/v1/models")
    report = examine(fault_server.url)
    assert report.exit_code == 2
    assert "may still be loading" in report["vllm"].text


def test_server_without_models_is_unusable(fault_server):
    fault_server.reply(faults.json_reply({"object": "list", "data": []}), "/v1/models")
    report = examine(fault_server.url)
    assert report.exit_code == 2
    assert report["vllm"].text == "the server has no models"


def test_unknown_model_lists_the_served_ones(fault_server):
    report = examine(fault_server.url, model="another")
    assert report.exit_code == 2
    assert report["vllm"].advice == "Served models: stub"


def test_other_protocol_is_reported():
    with listening(b"SSH-2.0-OpenSSH_9.2\r\n") as address:
        report = examine(f"http://{address}")
    assert report["reachable"].text.startswith("no valid HTTP response: ")
    assert report.exit_code == 2


def test_https_address_of_an_http_server_is_reported():
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        report = examine(f"https://{address}")
    assert report["reachable"].text == "the server does not support HTTPS"
    assert report["reachable"].advice == "Try the same address with http://"
    assert report.exit_code == 2


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions"])
def test_address_of_an_endpoint_is_refused(fault_server, path):
    with pytest.raises(WrongAddress, match="is the URL of an endpoint"):
        examine(fault_server.root + path, api_key=KEY)
    assert not fault_server.requests


@pytest.mark.parametrize("path", ["/v2", "/proxy/v1"])
def test_address_with_an_extra_path_names_the_root(fault_server, path):
    report = examine(fault_server.root + path, api_key=KEY)
    assert report.exit_code == 2
    assert report["vllm"].advice == f"The address has an extra path. Try {fault_server.root}"
    assert KEY not in str(fault_server.requests[-1].headers), "the key is sent only to the given address"


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (403, "vLLM 0.32.0 denied access: /v1/models returned HTTP 403"),
        (500, "vLLM 0.32.0 failed: /v1/models returned HTTP 500"),
        (502, "a gateway returned HTTP 502: the server behind it does not respond"),
    ],
    ids=["403", "500", "502"],
)
def test_failed_list_of_models_is_reported(fault_server, status, text):
    fault_server.reply(faults.html(status), "/v1/models")
    report = examine(fault_server.url)
    assert report["vllm"].text == text
    assert report.exit_code == 2


def test_redirect_is_reported(fault_server):
    fault_server.reply(faults.redirect("https://gpu.example/v1/models"), "/v1/models")
    assert examine(fault_server.url)["vllm"].text == "the server redirects to https://gpu.example/v1/models"


def test_connection_closed_during_the_list_of_models_is_reported(fault_server):
    fault_server.reply(faults.hang_up(), "/v1/models")
    report = examine(fault_server.url)
    assert report["vllm"].text.startswith("no valid HTTP response: ")
    assert report.exit_code == 2


def test_rate_limited_server_is_still_vllm(fault_server):
    fault_server.reply(faults.error(429, "slow down"), "/v1/models")
    report = examine(fault_server.url)
    assert report["vllm"].text == "vLLM 0.32.0 limits requests: /v1/models returned HTTP 429"
    assert report.exit_code == 2
