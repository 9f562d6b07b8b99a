"""ChatVLLM: tools, and calls of them that are valid or marked as invalid, never repaired."""

import functools
import operator
import os
import pickle
import subprocess
import sys

import pytest
from langchain_core.load import dumpd, load
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    message_chunk_to_message,
    message_to_dict,
    messages_from_dict,
)
from langchain_core.tools import tool
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph.message import add_messages
from pydantic import BaseModel
from version_marks import forced_call_is_enforced

from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
CAPITAL = "What is the capital of Japan?"
TRUNCATED = "The reply was truncated while this call was being generated"
WAYS = [
    "invoke",
    "ainvoke",
    "invoke_streaming",
    "ainvoke_streaming",
    "invoke_streaming_v1",
    "stream",
    "astream",
    "events_v2",
    "events_v3",
    "aevents_v3",
]

recorded = pytest.mark.vllm("tiny")


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


class Query(BaseModel):
    """A search with filters."""

    text: str
    filters: dict[str, str] = {}


@recorded
def test_tools(llm, sent):
    message = llm.bind(top_k=1).bind_tools([get_weather]).invoke("What is the weather in Rome and Oslo?")
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [
        ("get_weather", {"city": "Rome"}),
        ("get_weather", {"city": "Oslo"}),
    ]
    assert sent.last.json["top_k"] == 1
    assert "strict" not in sent.last.json["tools"][0]["function"]


@recorded
def test_tool_loop(llm):
    bound = llm.bind_tools([get_weather])
    messages = [HumanMessage("What is the weather in Tokyo?")]
    messages.append(bound.invoke(messages))
    messages.extend(get_weather.invoke(call) for call in messages[-1].tool_calls)
    assert "sunny" in messages[-1].text
    last = bound.invoke(messages)
    assert not last.tool_calls
    assert last.text


# Stock ChatOpenAI: a 400, "`tools` must not be an empty array", which is all that agents without tools get.
@recorded
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_empty_tools_are_not_sent(llm, sent, call, way):
    message = call(way, llm.bind_tools([], parallel_tool_calls=True), CAPITAL)
    assert message.text == "The capital of Japan is Tokyo."
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & sent.last.json.keys()


# Forced tools. vLLM enforces the arguments of strict tools only.


@recorded
@forced_call_is_enforced
def test_forced_tool_is_strict(llm, sent, call):
    bound = llm.bind_tools([get_weather], tool_choice="get_weather")
    message = call("stream", bound, "What is the weather in Rome?")
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("get_weather", {"city": "Rome"})]
    function = sent.last.json["tools"][0]["function"]
    assert function["strict"] is True
    assert "additionalProperties" not in function["parameters"]


# Stock ChatOpenAI: finish_reason "stop" and no tool call where a parser took the call for text.
@recorded
@forced_call_is_enforced
def test_named_tool_is_called(llm):
    message = llm.bind_tools([get_weather], tool_choice="get_weather").invoke("What is the weather in Rome?")
    assert message.tool_calls[0]["args"] == {"city": "Rome"}
    assert message.response_metadata["finish_reason"] in ("stop", "tool_calls")


# Stock ChatOpenAI, strict=True: "filters" may have no properties, so that every call has {}.
@pytest.mark.parametrize(
    ("options", "strict"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, None),
        ({"tool_choice": "none"}, None),
        ({"tool_choice": "any"}, True),
        ({"tool_choice": "Query"}, True),
        ({"tool_choice": True}, True),
        ({"strict": True}, True),
        ({"strict": False, "tool_choice": "any"}, False),
        ({"response_format": {"type": "object", "properties": {}}}, True),
    ],
    ids=["none", "auto", "no-tool", "any", "named", "true", "strict", "not-strict", "beside-a-form"],
)
def test_schemas_are_sent_as_written(faulty_llm, fault_server, options, strict):
    written = faulty_llm.bind_tools([Query]).kwargs["tools"][0]["function"]["parameters"]
    forced = options.get("tool_choice") in ("any", "Query", True)
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("Query", "{}")]) if forced else faults.chat("{}"))
    faulty_llm.bind_tools([Query], **options).invoke("x")
    function = fault_server.posts(CHAT)[0].json["tools"][0]["function"]
    assert function.get("strict") is strict
    assert function["parameters"] == written
    assert "additionalProperties" not in written
    assert written["properties"]["filters"]["additionalProperties"] == {"type": "string"}


def test_strict_of_a_tool_wins(faulty_llm, fault_server):
    function = {"name": "add", "parameters": {"type": "object", "properties": {}}}
    loose = {"type": "function", "function": {**function, "strict": False}}
    fault_server.reply(reply("{}", finish_reason="tool_calls"))
    for options in ({"strict": True}, {"tool_choice": "any"}):
        faulty_llm.bind_tools([loose], **options).invoke("x")
    assert [request.json["tools"] for request in fault_server.posts(CHAT)] == [[loose]] * 2


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema", "json_schema": {"name": "Query", "schema": Query.model_json_schema(), "strict": True}},
        {"type": "json_object"},
    ],
    ids=["json_schema", "json_object"],
)
def test_response_format_beside_tools_is_sent_as_given(faulty_llm, fault_server, form):
    fault_server.reply(faults.chat('{"text": "x"}'))
    faulty_llm.bind_tools([get_weather], response_format=form).invoke("x")
    assert fault_server.posts(CHAT)[0].json["response_format"] == form


def test_schema_beside_tools_becomes_a_response_format(faulty_llm, fault_server):
    fault_server.reply(faults.chat('{"text": "x"}'))
    schemas = [Query, Query.model_json_schema(), {"name": "Query", "schema": Query.model_json_schema()}]
    for schema in schemas:
        faulty_llm.bind_tools([get_weather], response_format=schema).invoke("x")
    for request in fault_server.posts(CHAT):
        assert request.json["response_format"]["json_schema"]["name"] == "Query"
        assert request.json["response_format"]["json_schema"]["schema"]["required"] == ["text"]


# Truncated and malformed calls


# Stock ChatOpenAI: tool_calls=[{"name": "get_weather", "args": {}}], as vLLM streams "{}" before the arguments.
@recorded
@pytest.mark.parametrize("way", ["stream", "astream", "events_v3"])
@forced_call_is_enforced
def test_truncated_tool_call_is_invalid(llm, call, way):
    bound = llm.bind_tools([get_weather])
    message = call(way, bound, "What is the weather in Rome and Oslo?", max_tokens=46)
    assert [call["args"] for call in message.tool_calls] == [{"city": "Rome"}]
    assert [call["name"] for call in message.invalid_tool_calls] == ["get_weather"]
    assert problem_of(message)[1] == TRUNCATED


def problem_of(message):
    """Arguments and error of the only invalid call; a sum of chunks may have the error at the end of the arguments."""
    [call] = message.invalid_tool_calls
    arguments, mark, end = (call["args"] or "").rpartition("…")
    if isinstance(message, AIMessageChunk) and mark:
        return arguments, end.partition(" (")[2].removesuffix(")")
    return call["args"] or "", call["error"]


def reply(*arguments, finish_reason):
    calls = [payloads.tool_call("add", text, index=index) for index, text in enumerate(arguments)]
    return faults.chat(tool_calls=calls, finish_reason=finish_reason)


# Stock ChatOpenAI, streaming: tool_calls=[{"a": 1}, {"path": "/home/a"}], invalid_tool_calls=[].
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", ['{"path": "/home/a', '{"n": 1', '{"n": 1}', ""], ids=["text", "number", "brace", ""])
def test_only_the_truncated_call_is_invalid(faulty_llm, fault_server, call, way, text):
    fault_server.reply(reply('{"a": 1}', text, finish_reason="length"))
    message = call(way, faulty_llm)
    assert [call["args"] for call in message.tool_calls] == [{"a": 1}]
    assert problem_of(message) == (text, TRUNCATED)
    assert message.invalid_tool_calls[0]["name"] == "add"
    assert message.response_metadata["finish_reason"] == "length"
    blocks = message_chunk_to_message(message).content_blocks
    assert [block["args"] for block in blocks if block["type"] == "tool_call"] == [{"a": 1}]


# Stock ChatOpenAI: v3 events fail on a list ("Input should be a valid dictionary").
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", ['{"a": 1', "[1]", '"a"', "nonsense", '{"a": NaN}'])
def test_malformed_arguments_are_invalid(faulty_llm, fault_server, call, way, text):
    fault_server.reply(reply(text, '{"a": 1}', finish_reason="tool_calls"))
    message = call(way, faulty_llm)
    assert [call["args"] for call in message.tool_calls] == [{"a": 1}]
    arguments, error = problem_of(message)
    assert arguments == text
    assert "JSON" in (error or "JSON")  # LangChain's sums of chunks have no error for what it finds itself


@pytest.mark.parametrize("way", ["invoke", "stream", "astream"])
def test_arguments_with_endless_brackets_are_invalid(faulty_llm, fault_server, call, way):
    fault_server.reply(reply('{"a": ' + "[" * 5000, finish_reason="length"))
    assert len(call(way, faulty_llm).invalid_tool_calls) == 1


@pytest.mark.parametrize("way", WAYS)
def test_empty_arguments_are_an_empty_dict(faulty_llm, fault_server, call, way):
    fault_server.reply(reply("", finish_reason="tool_calls"))
    message = call(way, faulty_llm)
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("add", {})]
    assert not message.invalid_tool_calls


# Stock ChatOpenAI: one invalid call per delta; without an index, no call at all.
@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "not-indexed"])
@pytest.mark.parametrize("way", ["stream", "astream", "events_v3"])
def test_call_named_in_every_delta_is_one_call(faulty_llm, fault_server, call, way, indexed):
    deltas = []
    for text in ('{"city"', ': "Ro', 'me"}'):
        delta = payloads.tool_call("get_weather", text, index=0)
        deltas.append({"tool_calls": [delta if indexed else {k: v for k, v in delta.items() if k != "index"}]})
    fault_server.reply(faults.deltas(*deltas, finish_reason="stop"))
    message = call(way, faulty_llm)
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("get_weather", {"city": "Rome"})]
    assert not message.invalid_tool_calls


def test_tool_calls_grow_while_they_stream(faulty_llm, fault_server):
    fault_server.reply(reply('{"city": "Rome"}', finish_reason="tool_calls"))
    message, seen = None, []
    for chunk in faulty_llm.stream("x"):
        message = chunk if message is None else message + chunk
        seen.extend(call["args"] for call in message.tool_calls)
    assert seen[-1] == {"city": "Rome"}
    assert len(seen) > 1


# Storage: LangChain's own classes, judged for good


def stored(message):
    """What becomes of a message where applications store it, by the way of storing."""
    strict = JsonPlusSerializer(allowed_msgpack_modules=None)
    return {
        "dumps": load(dumpd(message), allowed_objects="core"),
        "dict": messages_from_dict([message_to_dict(message)])[0],
        "pickle": pickle.loads(pickle.dumps(message)),
        "msgpack": strict.loads_typed(strict.dumps_typed(message)),
        "validated": type(message).model_validate(message.model_dump()),
        "state": add_messages([], [message])[0],
    }


@pytest.mark.parametrize(
    "text", ['{"path": "/home/a', '{"path": "C:\\', '{"n": 1', '{"n": [1, {"a": "b"', '{"n": 1}', ""]
)
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_truncated_call_stays_invalid_however_chunks_are_added_and_stored(faulty_llm, fault_server, text, version):
    fault_server.reply(reply('{"a": 1}', text, finish_reason="length"))
    chunks = list(faulty_llm.model_copy(update={"output_version": version}).stream("x"))
    assert {type(chunk) for chunk in chunks} == {AIMessageChunk}
    empty = AIMessageChunk(content="" if version == "v0" else [])
    sums = [
        chunks[0] + chunks[1:],
        functools.reduce(operator.add, chunks),
        sum(chunks, empty),
        empty + chunks,
        chunks[0] + functools.reduce(operator.add, chunks[1:]),
        functools.reduce(operator.add, chunks[:3]) + functools.reduce(operator.add, chunks[3:]),
        functools.reduce(operator.add, chunks) + empty,
    ]
    for message in [*sums, *map(message_chunk_to_message, sums)]:
        for how, found in {"itself": message, **stored(message)}.items():
            assert type(found) in (AIMessage, AIMessageChunk), how
            assert [call["args"] for call in found.tool_calls] == [{"a": 1}], how
            assert [call["name"] for call in found.invalid_tool_calls] == ["add"], how
            assert TRUNCATED in found.invalid_tool_calls[0]["args"], how


@pytest.mark.parametrize("way", ["invoke_streaming", "ainvoke_streaming", "invoke_streaming_v1", "invoke"])
def test_message_has_the_arguments_as_they_arrived_also_in_later_requests(faulty_llm, fault_server, call, way):
    fault_server.reply(reply('{"a": 1}', '{"b": "…"', finish_reason="length"))
    message = call(way, faulty_llm)
    assert type(message) is AIMessage
    for found in [message, *stored(message).values()]:
        assert problem_of(found) == ('{"b": "…"', TRUNCATED)
    assert "…] (" not in str(message)
    for sent in (message, call("stream", faulty_llm)):
        faulty_llm.invoke([("user", "x"), sent])
        calls = fault_server.posts(CHAT)[-1].json["messages"][-1]["tool_calls"]
        assert sorted(c["function"]["arguments"] for c in calls) == ['{"a": 1}', '{"b": "…"']


def test_checkpoint_of_another_process_has_the_truncated_call_as_invalid(faulty_llm, fault_server):
    fault_server.reply(reply('{"path": "/home/a', finish_reason="length"))
    kind, data = JsonPlusSerializer().dumps_typed(functools.reduce(operator.add, faulty_llm.stream("x")))
    program = (
        "import sys; from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer as S;"
        "m = S().loads_typed((sys.argv[1], bytes.fromhex(sys.argv[2])));"
        "assert 'vllm_adapters' not in sys.modules;"
        "print(type(m).__module__, type(m).__name__, len(m.tool_calls), len(m.invalid_tool_calls))"
    )
    environment = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"}
    done = subprocess.run(
        [sys.executable, "-c", program, kind, data.hex()], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == ["langchain_core.messages.ai", "AIMessageChunk", "0", "1"]
    assert not done.stderr
