"""What the demo learns about a server, from servers that report more or less of it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vllm_adapters._compat import http
from vllm_adapters._demo import servers as module
from vllm_adapters._demo.servers import CHAT, POOLING, inspect_server, servers, servers_by_task
from vllm_adapters.server import VLLMServer

PATHS = {"/v1/chat/completions": {}, "/v1/embeddings": {}, "/rerank": {}}


@pytest.fixture
def responses(monkeypatch):
    """JSON responses of the servers by path, to be filled by the test; any other path is a 404."""
    known: dict[str, object] = {"/v1/models": {"data": [{"id": "m", "root": "m"}]}}

    def respond(request):
        body = known.get(request.url.path)
        return http.Response(404, json={"detail": "Not Found"}) if body is None else http.Response(200, json=body)

    def server(base_url, **options):
        return VLLMServer(base_url, http_client=http.Client(transport=http.MockTransport(respond)), **options)

    monkeypatch.setattr(module, "VLLMServer", server)
    return known


def test_a_server_reports_its_tasks(responses):
    responses |= {"/version": {"version": "0.32.0"}, "/openapi.json": {"paths": PATHS}}
    server = inspect_server("http://gpu:8000", "VLLM_BASE_URL", CHAT)
    assert (server.model, server.version, server.known) == ("m", "0.32.0", False)
    assert server.tasks == {"chat", "embeddings", "rerank"}


def test_a_gateway_without_openapi_has_the_expected_tasks(responses):
    server = inspect_server("http://gateway", "VLLM_EMBED_BASE_URL", POOLING)
    assert (server.version, server.tasks) == (None, POOLING)


def test_routes_of_an_old_server_are_not_its_tasks(responses):
    responses |= {"/version": {"version": "0.11.0"}, "/openapi.json": {"paths": PATHS}}
    assert inspect_server("http://gpu:8000", "VLLM_BASE_URL", CHAT).tasks == CHAT


def test_servers_in_the_environment_are_used(responses, monkeypatch):
    responses |= {"/version": {"version": "0.32.0"}, "/openapi.json": {"paths": PATHS}}
    monkeypatch.setenv("VLLM_BASE_URL", "http://gpu:8000")
    monkeypatch.setenv("VLLM_EMBED_BASE_URL", "http://gpu:8001")
    console = Console(file=io.StringIO(), width=200)
    with servers(console) as running:
        by_task = servers_by_task(running)
    assert {task: server.base_url for task, server in by_task.items()} == {
        "chat": "http://gpu:8000/v1",
        "embeddings": "http://gpu:8001/v1",
        "rerank": "http://gpu:8001/v1",
    }
    assert "VLLM_BASE_URL is set: using http://gpu:8000, starting no server." in console.file.getvalue()


def test_one_server_may_support_all_tasks(responses, monkeypatch):
    responses |= {"/version": {"version": "0.32.0"}, "/openapi.json": {"paths": PATHS}}
    monkeypatch.setenv("VLLM_BASE_URL", "http://gpu:8000")
    monkeypatch.delenv("VLLM_EMBED_BASE_URL", raising=False)
    with servers(Console(file=io.StringIO())) as running:
        assert set(servers_by_task(running)) >= CHAT | POOLING
