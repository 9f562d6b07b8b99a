"""Lost connections, the time limit, and what a report shows of a server's texts."""

from __future__ import annotations

import json
import time

import pytest

from vllm_adapters.doctor import Verdict, examine
from vllm_adapters.testing import faults

KEY = "sk-canary"
CHAT = "/v1/chat/completions"
ROUTES = ("/version", "/v1/models", CHAT, "/v1/completions", "/openapi.json")
OPEN_ROUTES = ("/pooling", "/classify", "/score", "/rerank", "/v2/rerank", "/tokenize", "/detokenize")


# --- connection -------------------------------------------------------------------------------------------


def test_no_request_follows_a_lost_connection(fault_server):
    fault_server.reply(faults.hang_up(), CHAT)
    report = examine(fault_server.url)
    assert report["chat"].verdict is Verdict.BROKEN
    assert report["chat"].text.startswith("the server stopped responding: ")
    assert report["tools-auto"].text == "the server stopped responding in chat"
    assert len(fault_server.posts(CHAT)) == 1
    assert report.exit_code == 1


def test_lost_connection_on_an_open_route_ends_the_report(make_fault_server):
    server = make_fault_server(api_key=KEY, routes=(*ROUTES, "/tokenize"))
    server.reply(faults.hang_up(), "/tokenize")
    report = examine(server.url, api_key=KEY)
    assert report["open-routes"].text.startswith("the server stopped responding: ")
    assert report["chat"].text == "the server stopped responding in open-routes"
    assert report.exit_code == 1


def test_server_error_affects_only_its_check(fault_server):
    fault_server.script(CHAT, [faults.error(500, "the engine failed")])
    report = examine(fault_server.url)
    assert report["chat"].verdict is Verdict.BROKEN
    assert "the engine failed" in report["chat"].text
    assert report["logprobs"].verdict is not Verdict.UNTRIED


def test_at_most_a_few_dozen_requests_are_sent(make_fault_server):
    server = make_fault_server(api_key=KEY)
    for path in OPEN_ROUTES:
        server.reply(faults.error(400, "no input"), path)
    assert examine(server.url, api_key=KEY).requests == len(server.requests) <= 48


# --- time limit -------------------------------------------------------------------------------------------


def test_time_limit_ends_the_report_of_a_slow_server(fault_server):
    fault_server.reply(faults.slow(0.4, faults.chat("Tokyo")), CHAT)
    start = time.monotonic()
    report = examine(fault_server.url, time_limit=1.0)
    assert time.monotonic() - start < 3
    assert report.exit_code == 1
    assert not report.complete
    cut = [result for result in report.results if result.finding.text == "time limit of 1 s exceeded"]
    assert [result.check.group for result in cut] == ["chat"]
    assert report["request-ids"].text == "time limit reached"


@pytest.mark.parametrize("path", ["/version", "/v1/models", "/openapi.json", CHAT])
def test_time_limit_ends_a_reply_that_arrives_byte_by_byte(fault_server, path):
    fault_server.reply(faults.drip(0.1, sse=False), path)
    start = time.monotonic()
    report = examine(fault_server.url, time_limit=1.0)
    assert time.monotonic() - start < 3
    assert report.exit_code == (2 if path in ("/version", "/v1/models") else 1)
    assert not report.complete


def test_no_request_follows_the_time_limit(fault_server):
    fault_server.reply(faults.slow(0.3, faults.json_reply({"version": "0.32.0"})), "/version")
    assert examine(fault_server.url, time_limit=0.2).exit_code == 2
    assert [request.route for request in fault_server.requests] == ["/version"]


# --- texts of the server ----------------------------------------------------------------------------------


def test_key_in_an_error_message_is_redacted(make_fault_server):
    server = make_fault_server(api_key=KEY, routes=ROUTES)
    server.reply(faults.error(400, f"no tools for {KEY}"), CHAT)
    report = examine(server.url, api_key=KEY)
    assert report["chat"].text == "no tools for ***"
    assert KEY not in json.dumps(report.as_json())
    assert KEY not in repr(report)


def test_key_is_redacted_in_every_field(make_fault_server):
    cards = [{"id": KEY, "owned_by": "vllm"}, {"id": "lora", "owned_by": "vllm", "parent": KEY}]
    server = make_fault_server(api_key=KEY, routes=ROUTES, models=cards, version=f"0.32.0+{KEY.replace('-', '.')}")
    schema = {"properties": {"model": {}, KEY: {}}}
    body = {"requestBody": {"content": {"application/json": {"schema": schema}}}}
    server.reply(faults.json_reply({"paths": {CHAT: {"post": body}, f"/{KEY}": {}}}), "/openapi.json")
    report = examine(server.url, api_key=KEY)
    assert KEY not in json.dumps(report.as_json())
    assert report.models == ("***", "lora")
    assert report["schema"].data["unknown"] == {"chat": ["***"]}


def test_control_characters_are_escaped(fault_server):
    fault_server.reply(faults.error(400, "no\x1b]0;title\x07 \x1b[31mred\u202e"), CHAT)
    report = examine(fault_server.url)
    assert report["chat"].text == r"no\x1b]0;title\x07 \x1b[31mred\u202e"
