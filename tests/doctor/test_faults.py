"""What the doctor says of what is not a vLLM, and of servers that fail in the middle."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from vllm_adapters.doctor import Verdict, examine
from vllm_adapters.testing import Exchange, faults

KEY = "sk-canary"
OPEN = ("/pooling", "/classify", "/score", "/rerank", "/v2/rerank", "/tokenize", "/detokenize")
ROUTES = ("/version", "/v1/models", "/v1/chat/completions", "/v1/completions", "/openapi.json")


def test_nothing_there():
    report = examine("http://127.0.0.1:9")
    assert report.exit_code == 2
    assert report["reachable"].verdict is Verdict.BROKEN
    assert report["reachable"].text == "no connection: [Errno 111] Connection refused"
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


def test_what_does_not_fit_into_the_context_names_its_flag(make_fault_server):
    server = make_fault_server(max_model_len=64)
    short = "This model's maximum context length is 64 tokens. However, your request has 80 input tokens."
    server.reply(faults.error(400, short), "/v1/chat/completions")
    report = examine(server.url)
    assert report["tools-auto"].verdict is Verdict.LACKS
    assert report["tools-auto"].flags == ("--max-model-len TOKENS",)
    assert {request.json["max_tokens"] for request in server.posts("/v1/chat/completions")} <= {1, 16}


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


def test_a_parser_that_takes_every_answer_for_reasoning(make_fault_server):
    server = make_fault_server(models=["Qwen3-8B"])
    server.reply(faults.chat("", reasoning="Tokyo"), "/v1/chat/completions")
    report = examine(server.url)
    for name in ("reasoning", "json", "tools-required"):
        assert report[name].flags == ("--reasoning-parser qwen3",), name
    assert report["choice"].advice == "The reasoning parser it has does not fit the model, or the version"


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


@pytest.mark.parametrize("call", ['{"name": "get_weather", "parameters": {}}', '[get_weather(city="Rome")]'])
def test_calls_of_a_form_without_marks_that_stay_in_the_text(fault_server, call):
    fault_server.reply(faults.chat(call), "/v1/chat/completions")
    found = examine(fault_server.url)["tools-auto"]
    assert found.verdict is Verdict.LACKS
    assert found.flags == ("--tool-call-parser NAME",)
    assert "`vllm serve --help=tool-call-parser` lists the names" in found.advice


def test_thinking_of_a_model_without_a_known_parser(fault_server):
    fault_server.reply(faults.chat("<think>Well.</think>Tokyo"), "/v1/chat/completions")
    found = examine(fault_server.url)["reasoning"]
    assert found.flags == ("--reasoning-parser NAME",)
    assert "`vllm serve MODEL --reasoning-parser list` ends with the names" in found.advice


def test_a_model_that_answers_in_words_proves_nothing(fault_server):
    fault_server.reply(faults.chat("It rains."), "/v1/chat/completions")
    found = examine(fault_server.url)["tools-auto"]
    assert found.verdict is Verdict.UNCLEAR
    assert found.text == "cannot tell: the model called none, and its text is 'It rains.'"


def test_a_call_that_the_token_limit_cut_says_nothing_of_the_server(fault_server):
    cut = faults.chat('<tool_call>{"name": "get_weather", "arguments": {"city": "', finish_reason="length")
    fault_server.reply(cut, "/v1/chat/completions")
    report = examine(fault_server.url)
    for name in ("tools-auto", "tools-required", "tools-strict", "tools-stream"):
        assert report[name].verdict is Verdict.UNCLEAR, name


@pytest.mark.parametrize(
    ("arguments", "finish_reason", "verdict"),
    [
        ("7", "tool_calls", Verdict.BROKEN),
        ('{"city": Rome}', "tool_calls", Verdict.BROKEN),
        ('{"city": "Ro', "length", Verdict.UNCLEAR),
        ('{"city": "Rome"}', "tool_calls", Verdict.WORKS),
    ],
)
def test_a_call_that_cannot_be_run_is_none(fault_server, arguments, finish_reason, verdict):
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    fault_server.reply(faults.chat("", tool_calls=[call], finish_reason=finish_reason), "/v1/chat/completions")
    report = examine(fault_server.url)
    assert report["tools-auto"].verdict is verdict
    assert report["tools-required"].verdict is verdict


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


@contextmanager
def listening(answer):
    """A port where each connection is answered with these bytes, and closed."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            with suppress(OSError):  # the test is over
                while True:
                    with door.accept()[0] as visitor:
                        visitor.sendall(answer)
                        visitor.recv(4096)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{door.getsockname()[1]}"


def test_a_port_that_speaks_another_protocol():
    with listening(b"SSH-2.0-OpenSSH_9.2\r\n") as address:
        report = examine(f"http://{address}")
    assert report["reachable"].text.startswith("something is there that speaks no HTTP")
    assert report.exit_code == 2


def test_https_where_http_is_spoken():
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        report = examine(f"https://{address}")
    assert report["reachable"].text == "no https is spoken there"
    assert report["reachable"].advice == "Try the same address with http://"
    assert report.exit_code == 2


@pytest.mark.parametrize("path", ["/v2", "/v1/models", "/v1/chat/completions", "/proxy/v1"])
def test_an_address_with_a_path_too_many(fault_server, path):
    report = examine(fault_server.root + path, api_key=KEY)
    assert report.exit_code == 2
    assert report["vllm"].advice == f"The address has a path too many: try {fault_server.root}"
    assert KEY not in str(fault_server.requests[-1].headers), "elsewhere than told, the key is not shown"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, "vLLM 0.32.0 refuses to say what it serves: HTTP 403"),
        (500, "vLLM 0.32.0 fails: /v1/models answers HTTP 500"),
        (502, "a gateway answers HTTP 502: the server behind it does not answer"),
    ],
)
def test_a_list_of_models_that_cannot_be_had(fault_server, status, said):
    fault_server.reply(faults.html(status), "/v1/models")
    report = examine(fault_server.url)
    assert report["vllm"].text == said
    assert report.exit_code == 2


def test_a_server_that_moved(fault_server):
    fault_server.reply(faults.redirect("https://gpu.example/v1/models"), "/v1/models")
    assert examine(fault_server.url)["vllm"].text == "it redirects to https://gpu.example/v1/models"


def test_a_server_that_dies_before_it_tells_its_models(fault_server):
    fault_server.reply(faults.hang_up(), "/v1/models")
    report = examine(fault_server.url)
    assert report["vllm"].text.startswith("something is there that speaks no HTTP")
    assert report.exit_code == 2


def test_of_several_models_the_first_is_asked_everything(make_fault_server):
    server = make_fault_server(models=["a", "b"])
    report = examine(server.url)
    assert report["models"].text == "a, b, context of 4096 tokens; asked here: a"
    assert report["embeddings"].verdict is Verdict.WORKS
    assert {request.json["model"] for request in server.posts()} == {"a"}


def test_a_slow_server_is_left_when_the_time_is_up(fault_server):
    fault_server.reply(faults.slow(0.4, faults.chat("Tokyo")), "/v1/chat/completions")
    began = time.monotonic()
    report = examine(fault_server.url, time_limit=1.0)
    assert time.monotonic() - began < 3
    assert report.exit_code == 1
    assert not report.complete
    cut = [result for result in report.results if result.finding.text == "the time limit of 1 s has passed"]
    assert [result.check.group for result in cut] == ["chat"]
    assert report["request-ids"].text == "the time was up"


def test_a_server_that_falls_silent_among_its_open_routes(make_fault_server):
    server = make_fault_server(api_key=KEY, routes=(*ROUTES, "/tokenize"))
    server.reply(faults.hang_up(), "/tokenize")
    report = examine(server.url, api_key=KEY)
    assert report["open-routes"].text.startswith("it stopped answering")
    assert report["chat"].text == "it stopped answering in open-routes"
    assert report.exit_code == 1


def test_a_few_dozen_requests_at_most_whatever_it_says(make_fault_server):
    server = make_fault_server(api_key=KEY)
    for path in OPEN:
        server.reply(faults.error(400, "no input"), path)
    assert examine(server.url, api_key=KEY).requests == len(server.requests) <= 48


@pytest.mark.parametrize("path", ["/version", "/v1/models", "/openapi.json", "/v1/chat/completions"])
def test_a_reply_that_drips_is_left_when_the_time_is_up(fault_server, path):
    fault_server.reply(faults.drip(0.1, sse=False), path)
    began = time.monotonic()
    report = examine(fault_server.url, time_limit=1.0)
    assert time.monotonic() - began < 3
    assert report.exit_code == (2 if path in ("/version", "/v1/models") else 1)
    assert not report.complete


def test_no_request_is_made_after_the_time_is_up(fault_server):
    fault_server.reply(faults.slow(0.3, faults.json_reply({"version": "0.32.0"})), "/version")
    assert examine(fault_server.url, time_limit=0.2).exit_code == 2
    assert [request.route for request in fault_server.requests] == ["/version"]


@pytest.mark.parametrize(
    "document",
    [
        {"paths": 7},
        {"paths": "abc"},
        {"paths": ["/v1/chat/completions"]},
        {"paths": {"/v1/chat/completions": None}},
        {"paths": _openapi()["paths"]},
        {**_openapi(), "components": {"schemas": {"Chat": {"$ref": "#/components/schemas/Chat"}}}},
        {**_openapi(), "components": {"schemas": {"Chat": {"anyOf": [{"$ref": "#/components/schemas/Chat"}] * 2}}}},
        {**_openapi(), "components": {"schemas": {"Chat": {"properties": ["model"]}}}},
    ],
    ids=["number", "text", "list", "no-route", "nothing-to-refer-to", "refers-to-itself", "in-a-circle", "no-fields"],
)
def test_a_document_of_routes_that_is_none(fault_server, document):
    fault_server.reply(faults.json_reply(document), "/openapi.json")
    report = examine(fault_server.url)
    assert report["schema"].verdict in (Verdict.BROKEN, Verdict.UNTRIED)
    assert report["chat"].verdict is Verdict.WORKS
    assert report.complete


@pytest.mark.parametrize(
    "choice",
    [
        "Tokyo",
        {"message": "Tokyo"},
        {"message": {"role": "assistant", "content": 7}},
        {"message": {"role": "assistant", "content": [{"type": "text", "text": "Tokyo"}]}},
        {"message": {"role": "assistant", "content": "Tokyo", "reasoning": 7}},
        {"message": {"tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": "7"}}]}},
        {"message": {"tool_calls": [{"type": "function", "function": {"name": None, "arguments": {"city": 7}}}]}},
        {"message": {"content": "Tokyo"}, "logprobs": {"content": [{"token": 7, "logprob": "x"}]}},
    ],
)
def test_replies_of_another_form_are_findings(fault_server, choice):
    fault_server.reply(faults.json_reply({"choices": [choice], "usage": "many"}), "/v1/chat/completions")
    report = examine(fault_server.url)
    assert report.complete
    assert report.exit_code == 1
    assert report["tools-strict"].verdict is Verdict.BROKEN
    assert report["logprobs"].verdict is Verdict.BROKEN
    assert report["embeddings"].verdict is Verdict.WORKS


@pytest.mark.parametrize("length", ["4096", 40.5, -1, 0, [1], None])
def test_a_context_length_that_is_no_number_of_tokens_is_not_known(make_fault_server, length):
    card = {"id": "m", "owned_by": "vllm", "max_model_len": length, "root": 7, "parent": {}}
    report = examine(make_fault_server(models=[card]).url)
    assert report["models"].text == "m"
    assert report["chat"].verdict is Verdict.WORKS


@pytest.mark.parametrize("name", [7, None, "", ["m"], "m\x1b[31m"])
def test_a_model_without_a_name_is_no_model(fault_server, name):
    cards = {"object": "list", "data": [{"id": name, "owned_by": "vllm"}]}
    fault_server.reply(faults.json_reply(cards), "/v1/models")
    report = examine(fault_server.url)
    assert report.exit_code == 2
    assert report["vllm"].text.startswith("this is not a vLLM: /v1/models answers ")


def test_nothing_that_a_server_says_steers_a_terminal(fault_server):
    fault_server.reply(faults.error(400, "no\x1b]0;title\x07 \x1b[31mred\u202e"), "/v1/chat/completions")
    report = examine(fault_server.url)
    assert report["chat"].text == r"no\x1b]0;title\x07 \x1b[31mred\u202e"


def test_a_key_is_shown_in_no_field(make_fault_server):
    cards = [{"id": KEY, "owned_by": "vllm"}, {"id": "lora", "owned_by": "vllm", "parent": KEY}]
    server = make_fault_server(api_key=KEY, routes=ROUTES, models=cards, version=f"0.32.0+{KEY.replace('-', '.')}")
    document = _openapi("model", KEY)
    document["paths"][f"/{KEY}"] = {}
    server.reply(faults.json_reply(document), "/openapi.json")
    report = examine(server.url, api_key=KEY)
    assert KEY not in json.dumps(report.as_json())
    assert report.models == ("***", "lora")
    assert report["schema"].data["unknown"] == {"chat": ["***"]}


def test_too_many_requests_is_no_sign_of_another_service(fault_server):
    fault_server.reply(faults.error(429, "slow down"), "/v1/models")
    report = examine(fault_server.url)
    assert report["vllm"].text == "vLLM 0.32.0 has too many requests: /v1/models answers HTTP 429"
    assert report.exit_code == 2
