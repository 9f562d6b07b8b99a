"""What the checks find on servers with faults."""

from __future__ import annotations

import pytest

from vllm_adapters.doctor import Verdict, examine
from vllm_adapters.testing import Exchange, faults

CHAT = "/v1/chat/completions"
ROUTES = ("/version", "/v1/models", CHAT, "/v1/completions", "/openapi.json")


def openapi(*fields):
    """An OpenAPI document with a chat request of these fields."""
    body = {"properties": {name: {"type": "string"} for name in fields}}
    content = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Chat"}}}}
    return {"paths": {CHAT: {"post": {"requestBody": content}}}, "components": {"schemas": {"Chat": body}}}


# --- served -----------------------------------------------------------------------------------------------


def test_hidden_version_is_inconclusive(make_fault_server):
    report = examine(make_fault_server(version=None).url)
    assert report.usable
    assert report.version is None
    assert report["version"].verdict is Verdict.UNCLEAR
    assert report["schema"].verdict is Verdict.UNTRIED
    assert report["chat"].verdict is Verdict.WORKS


def test_first_of_several_models_is_checked(make_fault_server):
    server = make_fault_server(models=["a", "b"])
    report = examine(server.url)
    assert report["models"].text == "a, b, context length 4096 tokens; checked here: a"
    assert report["embeddings"].verdict is Verdict.WORKS
    assert {request.json["model"] for request in server.posts()} == {"a"}


@pytest.mark.parametrize("length", ["4096", 40.5, -1, 0, [1], None])
def test_invalid_context_length_is_ignored(make_fault_server, length):
    card = {"id": "m", "owned_by": "vllm", "max_model_len": length, "root": 7, "parent": {}}
    report = examine(make_fault_server(models=[card]).url)
    assert report["models"].text == "m"
    assert report["chat"].verdict is Verdict.WORKS


def test_short_context_is_respected_and_its_flag_named(make_fault_server):
    server = make_fault_server(max_model_len=64)
    message = "This model's maximum context length is 64 tokens. However, your request has 80 input tokens."
    server.reply(faults.error(400, message), CHAT)
    report = examine(server.url)
    assert report["tools-auto"].verdict is Verdict.LACKS
    assert report["tools-auto"].flags == ("--max-model-len TOKENS",)
    assert {request.json["max_tokens"] for request in server.posts(CHAT)} <= {1, 16}


def test_unsupported_task_of_an_old_server_is_absent(make_fault_server):
    server = make_fault_server(version="0.15.1")
    server.reply(faults.error(400, "The model does not support Embeddings API"), "/v1/embeddings")
    report = examine(server.url)
    assert report["embeddings"].verdict is Verdict.ABSENT
    assert "all are mounted, whatever the model supports" in report["endpoints"].text


@pytest.mark.parametrize(
    ("version", "model", "flags", "advice"),
    [
        ("0.33.0", "stepfun-ai/Step-5", ("--tool-call-parser step5",), ""),
        ("0.32.0", "stepfun-ai/Step-5", (), "vLLM 0.33 or newer has --tool-call-parser step5"),
        ("0.14.1", "Qwen/Qwen3-8B", ("--tool-call-parser hermes",), ""),
    ],
)
def test_flags_that_the_version_does_not_have_are_not_advised(make_fault_server, version, model, flags, advice):
    card = {"id": model, "object": "model", "owned_by": "vllm"}
    server = make_fault_server(version=version, models=[card], routes=ROUTES)
    server.reply(faults.chat('<tool_call>{"name": "get_weather"}'), CHAT)
    finding = examine(server.url)["tools-auto"]
    assert finding.flags == flags
    assert advice in finding.advice


def test_routes_that_a_version_always_mounts_are_no_development_mode(make_fault_server):
    document = {"paths": {"/v1/models": {}, "/pause": {}, "/resume": {}}}
    for version, verdict in (("0.14.1", Verdict.WORKS), ("0.32.0", Verdict.BROKEN)):
        server = make_fault_server(version=version, routes=ROUTES)
        server.reply(faults.json_reply(document), "/openapi.json")
        assert examine(server.url)["developer-routes"].verdict is verdict


# --- schema -----------------------------------------------------------------------------------------------


def test_server_newer_than_the_table_lists_the_differences(make_fault_server):
    server = make_fault_server(version="99.0.0", routes=ROUTES)
    server.reply(faults.json_reply(openapi("model", "messages", "teleport")), "/openapi.json")
    report = examine(server.url)
    assert report["version"].text.startswith("99.0.0, newer than")
    assert report["schema"].data["unknown"] == {"chat": ["teleport"]}
    assert "top_k" in report["schema"].data["gone"]["chat"]
    assert "pip install -U vllm-adapters" in report["schema"].advice


@pytest.mark.parametrize(
    "document",
    [
        {"paths": 7},
        {"paths": "abc"},
        {"paths": [CHAT]},
        {"paths": {CHAT: None}},
        {"paths": openapi()["paths"]},
        {**openapi(), "components": {"schemas": {"Chat": {"$ref": "#/components/schemas/Chat"}}}},
        {**openapi(), "components": {"schemas": {"Chat": {"anyOf": [{"$ref": "#/components/schemas/Chat"}] * 2}}}},
        {**openapi(), "components": {"schemas": {"Chat": {"properties": ["model"]}}}},
    ],
    ids=["number", "text", "list", "no-route", "no-schema", "self-reference", "circular", "field-list"],
)
def test_malformed_openapi_document_stops_only_its_check(fault_server, document):
    fault_server.reply(faults.json_reply(document), "/openapi.json")
    report = examine(fault_server.url)
    assert report["schema"].verdict in (Verdict.BROKEN, Verdict.UNTRIED)
    assert report["chat"].verdict is Verdict.WORKS
    assert report.complete


# --- access -----------------------------------------------------------------------------------------------


def test_development_routes_are_found_and_not_called(make_fault_server):
    document = openapi("model")
    document["paths"] |= {"/sleep": {}, "/server_info": {}}
    server = make_fault_server(routes=ROUTES)
    server.reply(faults.json_reply(document), "/openapi.json")
    report = examine(server.url)
    assert report["developer-routes"].text == "development routes are mounted: /sleep, /server_info"
    assert "VLLM_SERVER_DEV_MODE" in report["developer-routes"].advice
    assert not [r for r in server.requests if r.route in ("/sleep", "/server_info")]


# --- chat -------------------------------------------------------------------------------------------------


def reply_by_thinking(*, default, on, off):
    """A behaviour that depends on ``enable_thinking`` in the request."""

    async def run(exchange: Exchange) -> None:
        thinking = (exchange.request.json.get("chat_template_kwargs") or {}).get("enable_thinking")
        await {None: default, True: on, False: off}[thinking](exchange)

    return run


def test_answer_in_reasoning_by_default_names_the_template_flag(fault_server):
    misplaced = faults.chat("", reasoning="Tokyo")
    fault_server.reply(reply_by_thinking(default=misplaced, on=misplaced, off=faults.chat("Tokyo")), CHAT)
    report = examine(fault_server.url)
    assert report["chat"].verdict is Verdict.BROKEN
    assert report["reasoning"].verdict is Verdict.BROKEN
    assert report["reasoning"].flags == ("""--default-chat-template-kwargs '{"enable_thinking": false}'""",)


def test_answer_always_in_reasoning_names_the_parser(make_fault_server):
    server = make_fault_server(models=["Qwen3-8B"])
    server.reply(faults.chat("", reasoning="Tokyo"), CHAT)
    report = examine(server.url)
    for name in ("reasoning", "json", "tools-required"):
        assert report[name].flags == ("--reasoning-parser qwen3",), name
    assert report["choice"].advice == "The reasoning parser does not fit the model or the vLLM version"


def test_model_that_always_thinks_gets_more_tokens_and_thinking_disabled(fault_server):
    thinking = faults.chat("zebra-7", reasoning="Hm.")
    fault_server.reply(reply_by_thinking(default=thinking, on=thinking, off=thinking), CHAT)
    report = examine(fault_server.url)
    bodies = [request.json for request in fault_server.posts(CHAT)]
    constrained = [body for body in bodies if "choice" in body.get("structured_outputs", {})]
    assert constrained[0]["max_tokens"] == 512
    assert constrained[0]["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}
    assert report["choice"].verdict is Verdict.WORKS
    assert report["reasoning"].text == "parsed into its own field: 'Hm.'"


def test_thinking_in_the_content_names_the_parser(make_fault_server):
    server = make_fault_server(models=["Qwen3-8B"])
    server.reply(faults.chat("<think>Hm.</think>Tokyo"), CHAT)
    assert examine(server.url)["reasoning"].flags == ("--reasoning-parser qwen3",)


def test_thinking_in_the_content_of_an_unknown_model_tells_where_parsers_are_listed(fault_server):
    fault_server.reply(faults.chat("<think>Well.</think>Tokyo"), CHAT)
    finding = examine(fault_server.url)["reasoning"]
    assert finding.flags == ("--reasoning-parser NAME",)
    assert "`vllm serve MODEL --reasoning-parser list` fails and lists the names" in finding.advice


def test_model_that_does_not_think_is_inconclusive(fault_server):
    fault_server.reply(faults.chat("Tokyo"), CHAT)
    finding = examine(fault_server.url)["reasoning"]
    assert finding.verdict is Verdict.UNCLEAR
    assert finding.text.startswith("inconclusive: the model did not think")


def test_answer_that_is_only_streamed_as_reasoning_is_broken(fault_server):
    """vLLM 0.18 to 0.23 with thinking off."""

    async def reply(exchange: Exchange) -> None:
        streamed = exchange.request.json.get("stream")
        behaviour = faults.chat("", reasoning="Tokyo is the capital") if streamed else faults.chat("Tokyo")
        await behaviour(exchange)

    fault_server.reply(reply, CHAT)
    finding = examine(fault_server.url)["stream"]
    assert finding.verdict is Verdict.BROKEN
    assert finding.text.startswith("the whole answer is streamed as `reasoning`")
    assert "enable_thinking" in finding.advice


def test_buffered_stream_is_broken(fault_server):
    async def buffered(exchange: Exchange) -> None:
        behaviour = faults.chat(" ".join(["word"] * 40))
        if exchange.request.json.get("stream"):
            behaviour = faults.slow(1.2, behaviour)
        await behaviour(exchange)

    fault_server.reply(buffered, CHAT)
    finding = examine(fault_server.url)["stream"]
    assert finding.verdict is Verdict.BROKEN
    assert finding.text == "the stream arrives all at once"


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
    ids=[
        *("choice-text", "message-text", "content-number", "content-list", "reasoning-number"),
        *("arguments-number", "function-without-name", "token-number"),
    ],
)
def test_malformed_replies_are_findings(fault_server, choice):
    fault_server.reply(faults.json_reply({"choices": [choice], "usage": "many"}), CHAT)
    report = examine(fault_server.url)
    assert report.complete
    assert report.exit_code == 1
    assert report["tools-strict"].verdict is Verdict.BROKEN
    assert report["logprobs"].verdict is Verdict.BROKEN
    assert report["embeddings"].verdict is Verdict.WORKS


# --- tools ------------------------------------------------------------------------------------------------


def test_tool_call_in_the_content_names_the_parser(make_fault_server):
    server = make_fault_server(models=["Qwen2.5-7B-Instruct"])
    server.reply(faults.chat('<tool_call>{"name": "get_weather"}</tool_call>'), CHAT)
    report = examine(server.url)
    assert report["tools-auto"].flags == ("--tool-call-parser hermes",)
    assert report["tools-required"].verdict is Verdict.BROKEN


@pytest.mark.parametrize(
    "call", ['{"name": "get_weather", "parameters": {}}', '[get_weather(city="Rome")]'], ids=["json", "python"]
)
def test_tool_call_without_marks_in_the_content_is_missing_a_parser(fault_server, call):
    fault_server.reply(faults.chat(call), CHAT)
    finding = examine(fault_server.url)["tools-auto"]
    assert finding.verdict is Verdict.LACKS
    assert finding.flags == ("--tool-call-parser NAME",)
    assert "`vllm serve --help=tool-call-parser` lists the names" in finding.advice


def test_answer_without_a_tool_call_is_inconclusive(fault_server):
    fault_server.reply(faults.chat("It rains."), CHAT)
    finding = examine(fault_server.url)["tools-auto"]
    assert finding.verdict is Verdict.UNCLEAR
    assert finding.text == "inconclusive: the model called no tool, and replied 'It rains.'"


def test_truncated_tool_call_is_inconclusive(fault_server):
    truncated = faults.chat('<tool_call>{"name": "get_weather", "arguments": {"city": "', finish_reason="length")
    fault_server.reply(truncated, CHAT)
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
    ids=["number", "invalid", "truncated", "valid"],
)
def test_arguments_must_be_a_json_object(fault_server, arguments, finish_reason, verdict):
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    fault_server.reply(faults.chat("", tool_calls=[call], finish_reason=finish_reason), CHAT)
    report = examine(fault_server.url)
    assert report["tools-auto"].verdict is verdict
    assert report["tools-required"].verdict is verdict


# --- structured output ------------------------------------------------------------------------------------


def test_ignored_constraints_are_broken(fault_server):
    report = examine(fault_server.url)  # it echoes the question
    for kind in ("json", "response-format", "regex", "choice", "grammar", "structural-tag", "completions-choice"):
        assert report[kind].verdict is Verdict.BROKEN, kind
        assert report[kind].text.startswith("silently ignored: "), kind
