"""What the doctor says of what is not a vLLM, and of servers that fail in the middle."""

from __future__ import annotations

import json

import pytest

from vllm_adapters.doctor import Verdict, examine
from vllm_adapters.testing import faults
from vllm_adapters.testing.exchange import Exchange

KEY = "sk-canary"
ROUTES = ("/version", "/v1/models", "/v1/chat/completions", "/v1/completions", "/openapi.json")


def test_nothing_there():
    report = examine("http://127.0.0.1:9")
    assert report.exit_code == 2
    assert report["reachable"].verdict is Verdict.BROKEN
    assert report["reachable"].text.startswith("nothing answers")
    assert {result.finding.verdict for result in report.results[1:]} == {Verdict.UNTRIED}


def test_a_web_site(fault_server):
    for path in ("/version", "/v1/models"):
        fault_server.reply(faults.html(), path)
    report = examine(fault_server.url)
    assert report.exit_code == 2
    assert report["vllm"].text.startswith("this is not a vLLM: /v1/models answers '<html>")
    assert len(fault_server.requests) == 2, "and it is not asked any further"


def test_a_web_server_without_such_pages(make_fault_server):
    report = examine(make_fault_server(routes=()).url)
    assert report.exit_code == 2
    assert report["vllm"].text == "this is not a vLLM: /v1/models answers HTTP 404"


def test_another_service_with_a_version(fault_server):
    fault_server.reply(faults.json_reply({"name": "search", "version": "8.15.0"}), "/version")
    fault_server.reply(faults.json_reply({"error": "no such index [v1]"}, status=404), "/v1/models")
    report = examine(fault_server.url)
    assert report.exit_code == 2
    assert report["vllm"].text.startswith("this is not a vLLM")


@pytest.mark.parametrize("version", [None, "0.4.7"], ids=["without-version", "with-its-own"])
def test_a_gateway_to_other_models(make_fault_server, version):
    cards = [{"id": "gpt-4o", "object": "model", "owned_by": "openai"}]
    server = make_fault_server(version=version, models=cards)
    report = examine(server.url)
    assert report.exit_code == 2
    assert "nothing in it says vLLM (its models are owned by openai)" in report["vllm"].text
    assert not server.posts(), "another's paid API is not asked to generate"


def test_a_vllm_behind_a_gateway_that_hides_its_version(make_fault_server):
    report = examine(make_fault_server(version=None).url)
    assert report.usable
    assert report.version is None
    assert report["version"].verdict is Verdict.UNCLEAR
    assert report["schema"].verdict is Verdict.UNTRIED
    assert report["chat"].verdict is Verdict.WORKS


def test_a_server_that_loads_its_model(fault_server):
    fault_server.reply(faults.loading(), "/v1/models")
    report = examine(fault_server.url)
    assert report.exit_code == 2
    assert "may still be loading" in report["vllm"].text


def test_a_server_that_serves_nothing(fault_server):
    fault_server.reply(faults.json_reply({"object": "list", "data": []}), "/v1/models")
    report = examine(fault_server.url)
    assert report.exit_code == 2
    assert report["vllm"].text == "it serves no model"


def test_a_model_that_is_not_served(fault_server):
    report = examine(fault_server.url, model="another")
    assert report.exit_code == 2
    assert report["vllm"].advice == "It serves stub"


def test_a_server_that_dies_is_not_asked_again(fault_server):
    fault_server.reply(faults.hang_up(), "/v1/chat/completions")
    report = examine(fault_server.url)
    assert report["chat"].verdict is Verdict.BROKEN
    assert report["chat"].text.startswith("it stopped answering")
    assert report["tools-auto"].text == "it stopped answering in chat"
    assert len(fault_server.posts("/v1/chat/completions")) == 1
    assert report.exit_code == 1


def test_an_error_of_one_check_is_its_finding(fault_server):
    fault_server.script("/v1/chat/completions", [faults.error(500, "the engine hiccuped")])
    report = examine(fault_server.url)
    assert report["chat"].verdict is Verdict.BROKEN
    assert "the engine hiccuped" in report["chat"].text
    assert report["logprobs"].verdict is not Verdict.UNTRIED


def test_constraints_that_are_ignored_are_found(fault_server):
    report = examine(fault_server.url)  # it echoes what it is asked
    for kind in ("json", "response-format", "regex", "choice", "grammar", "structural-tag", "completions-choice"):
        assert report[kind].verdict is Verdict.BROKEN, kind
        assert report[kind].text.startswith("silently not enforced"), kind


def answering(**by_thinking):
    """A chat that answers by what is said of thinking: ``unsaid``, ``on`` and ``off``."""

    async def run(exchange: Exchange) -> None:
        thinking = (exchange.request.json.get("chat_template_kwargs") or {}).get("enable_thinking")
        said = {None: "unsaid", True: "on", False: "off"}[thinking]
        await by_thinking[said](exchange)

    return run


def test_an_answer_that_lands_in_reasoning_unless_thinking_is_denied(fault_server):
    lost = faults.chat("", reasoning="Tokyo")
    fault_server.reply(answering(unsaid=lost, on=lost, off=faults.chat("Tokyo")), "/v1/chat/completions")
    report = examine(fault_server.url)
    assert report["chat"].verdict is Verdict.BROKEN
    assert report["reasoning"].verdict is Verdict.BROKEN
    assert report["reasoning"].flags == ("""--default-chat-template-kwargs '{"enable_thinking": false}'""",)


def test_a_parser_that_takes_every_answer_for_reasoning(fault_server):
    fault_server.reply(faults.chat("", reasoning="Tokyo"), "/v1/chat/completions")
    report = examine(fault_server.url)
    assert report["reasoning"].flags == ()
    assert report["reasoning"].advice == "The --reasoning-parser does not fit the model"


def test_a_model_that_always_thinks_is_given_room_and_asked_not_to(fault_server):
    thinking = faults.chat("zebra-7", reasoning="Hm.")
    fault_server.reply(answering(unsaid=thinking, on=thinking, off=thinking), "/v1/chat/completions")
    report = examine(fault_server.url)
    asked = [request.json for request in fault_server.posts("/v1/chat/completions")]
    constrained = [body for body in asked if "choice" in body.get("structured_outputs", {})]
    assert constrained[0]["max_tokens"] == 512
    assert constrained[0]["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}
    assert report["choice"].verdict is Verdict.WORKS
    assert report["reasoning"].text == "parsed into its own field: 'Hm.'"


def test_thinking_in_the_text_of_a_model_that_always_does(make_fault_server):
    server = make_fault_server(models=["Qwen3-8B"])
    server.reply(faults.chat("<think>Hm.</think>Tokyo"), "/v1/chat/completions")
    assert examine(server.url)["reasoning"].flags == ("--reasoning-parser qwen3",)


def test_a_model_that_never_thinks_is_no_fault(fault_server):
    fault_server.reply(faults.chat("Tokyo"), "/v1/chat/completions")
    report = examine(fault_server.url)
    assert report["reasoning"].verdict is Verdict.UNCLEAR
    assert report["reasoning"].text.startswith("cannot tell: the model did not think")


def test_calls_that_stay_in_the_text(make_fault_server):
    server = make_fault_server(models=["Qwen2.5-7B-Instruct"])
    server.reply(faults.chat('<tool_call>{"name": "get_weather"}</tool_call>'), "/v1/chat/completions")
    report = examine(server.url)
    assert report["tools-auto"].flags == ("--tool-call-parser hermes",)
    assert report["tools-required"].verdict is Verdict.BROKEN


def test_a_call_that_the_token_limit_cut_says_nothing_of_the_server(fault_server):
    cut = faults.chat('<tool_call>{"name": "get_weather", "arguments": {"city": "', finish_reason="length")
    fault_server.reply(cut, "/v1/chat/completions")
    report = examine(fault_server.url)
    for name in ("tools-required", "tools-strict", "tools-stream"):
        assert report[name].verdict is Verdict.UNCLEAR, name


def test_a_task_that_an_old_server_mounts_but_has_not(make_fault_server):
    server = make_fault_server(version="0.15.1")
    server.reply(faults.error(400, "The model does not support Embeddings API"), "/v1/embeddings")
    report = examine(server.url)
    assert report["embeddings"].verdict is Verdict.ABSENT
    assert "mounted whatever the model can do" in report["endpoints"].text


def test_a_stream_that_a_proxy_holds_back(fault_server):
    async def held(exchange: Exchange) -> None:
        behaviour = faults.chat(" ".join(["word"] * 40))
        if exchange.request.json.get("stream"):
            behaviour = faults.slow(1.2, behaviour)
        await behaviour(exchange)

    fault_server.reply(held, "/v1/chat/completions")
    assert examine(fault_server.url)["stream"].text == "a stream that arrives all at once"


def test_a_key_that_the_server_repeats_is_not_shown(make_fault_server):
    server = make_fault_server(api_key=KEY, routes=ROUTES)
    server.reply(faults.error(400, f"no tools for {KEY}"), "/v1/chat/completions")
    report = examine(server.url, api_key=KEY)
    assert report["chat"].text == "no tools for ***"
    assert KEY not in json.dumps(report.as_json())
    assert KEY not in repr(report)


def test_a_server_newer_than_our_table(make_fault_server):
    server = make_fault_server(version="99.0.0", routes=ROUTES)
    server.reply(faults.json_reply(_openapi("model", "messages", "teleport")), "/openapi.json")
    found = examine(server.url)
    assert found["version"].text.startswith("99.0.0, newer than")
    assert found["schema"].data["unknown"] == {"chat": ["teleport"]}
    assert "top_k" in found["schema"].data["gone"]["chat"]
    assert "pip install -U vllm-adapters" in found["schema"].advice


def test_routes_for_developers(make_fault_server):
    document = _openapi("model")
    document["paths"] |= {"/sleep": {}, "/server_info": {}}
    server = make_fault_server(routes=ROUTES)
    server.reply(faults.json_reply(document), "/openapi.json")
    report = examine(server.url)
    assert report["developer-routes"].text == "there are routes for developers: /sleep, /server_info"
    assert "VLLM_SERVER_DEV_MODE" in report["developer-routes"].advice
    assert not [r for r in server.requests if r.route in ("/sleep", "/server_info")]


def _openapi(*fields):
    body = {"properties": {name: {"type": "string"} for name in fields}}
    content = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Chat"}}}}
    return {
        "paths": {"/v1/chat/completions": {"post": {"requestBody": content}}},
        "components": {"schemas": {"Chat": body}},
    }
