"""What the tour finds out about a server, from servers that tell more or less."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vllm_adapters._compat import http
from vllm_adapters._demo import servers as module
from vllm_adapters._demo.servers import CHAT, POOLING, by_task, look, servers
from vllm_adapters.server import VLLMServer

PATHS = {"/v1/chat/completions": {}, "/v1/embeddings": {}, "/rerank": {}}


@pytest.fixture
def answers(monkeypatch):
    """What servers answer, by path; anything else is a 404. Returns the dict to fill."""
    known: dict[str, object] = {"/v1/models": {"data": [{"id": "m", "root": "m"}]}}

    def answer(request):
        found = known.get(request.url.path)
        return http.Response(404, json={"detail": "Not Found"}) if found is None else http.Response(200, json=found)

    def served(base_url, **options):
        return VLLMServer(base_url, http_client=http.Client(transport=http.MockTransport(answer)), **options)

    monkeypatch.setattr(module, "VLLMServer", served)
    return known


def test_a_server_tells_its_tasks(answers):
    answers |= {"/version": {"version": "0.32.0"}, "/openapi.json": {"paths": PATHS}}
    place = look("http://gpu:8000", "VLLM_BASE_URL", CHAT)
    assert (place.model, place.version, place.known) == ("m", "0.32.0", False)
    assert place.tasks == {"chat", "embeddings", "rerank"}


def test_a_gateway_without_openapi_is_what_it_is_given_as(answers):
    place = look("http://gateway", "VLLM_EMBED_BASE_URL", POOLING)
    assert (place.version, place.tasks) == (None, POOLING)


def test_an_old_server_mounts_routes_its_model_does_not_have(answers):
    answers |= {"/version": {"version": "0.11.0"}, "/openapi.json": {"paths": PATHS}}
    assert look("http://gpu:8000", "VLLM_BASE_URL", CHAT).tasks == CHAT


def test_given_servers_start_none(answers, monkeypatch):
    answers |= {"/version": {"version": "0.32.0"}, "/openapi.json": {"paths": PATHS}}
    monkeypatch.setenv("VLLM_BASE_URL", "http://gpu:8000")
    monkeypatch.setenv("VLLM_EMBED_BASE_URL", "http://gpu:8001")
    console = Console(file=io.StringIO(), width=200)
    with servers(console) as places:
        found = by_task(places)
    assert {task: place.base_url for task, place in found.items()} == {
        "chat": "http://gpu:8000/v1",
        "embeddings": "http://gpu:8001/v1",
        "rerank": "http://gpu:8001/v1",
    }
    assert "no server is started" in console.file.getvalue()


def test_one_server_may_do_it_all(answers, monkeypatch):
    answers |= {"/version": {"version": "0.32.0"}, "/openapi.json": {"paths": PATHS}}
    monkeypatch.setenv("VLLM_BASE_URL", "http://gpu:8000")
    monkeypatch.delenv("VLLM_EMBED_BASE_URL", raising=False)
    with servers(Console(file=io.StringIO())) as places:
        assert set(by_task(places)) >= CHAT | POOLING
