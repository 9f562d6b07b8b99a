"""ChatVLLM and tool calls that are cut or malformed: never a call, in every way that LangChain asks and listens."""

import asyncio
import functools
import operator

import pytest

pytest.importorskip("langchain_openai")

from langchain_core.load import dumpd, load
from langchain_core.messages import AIMessage, AIMessageChunk, message_chunk_to_message

from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.langchain._chunks import ReplyChunk
from vllm_adapters.testing import faults, payloads

CUT = "The reply was truncated while this call was being made"


def add_up(chunks):
    return functools.reduce(operator.add, chunks)


def invoke(llm):
    return llm.invoke("x")


def ainvoke(llm):
    return asyncio.run(llm.ainvoke("x"))


def invoke_streaming(llm):
    return llm.model_copy(update={"streaming": True}).invoke("x")


def ainvoke_streaming(llm):
    return asyncio.run(llm.model_copy(update={"streaming": True}).ainvoke("x"))


def invoke_streaming_v1(llm):
    return llm.model_copy(update={"streaming": True, "output_version": "v1"}).invoke("x")


def stream(llm):
    return add_up(llm.stream("x"))


def astream(llm):
    async def run():
        return add_up([chunk async for chunk in llm.astream("x")])

    return asyncio.run(run())


def events_v2(llm):
    async def run():
        events = [event async for event in llm.astream_events("x", version="v2")]
        return events[-1]["data"]["output"]

    return asyncio.run(run())


def events_v3(llm):
    return llm.stream_events("x", version="v3").output


def aevents_v3(llm):
    async def run():
        events = await llm.astream_events("x", version="v3")
        async for _ in events:
            pass
        return await events.output

    return asyncio.run(run())


WAYS = [
    invoke,
    ainvoke,
    invoke_streaming,
    ainvoke_streaming,
    invoke_streaming_v1,
    stream,
    astream,
    events_v2,
    events_v3,
    aevents_v3,
]
every_way = pytest.mark.parametrize("ask", WAYS, ids=lambda f: f.__name__)


@pytest.fixture
def llm(fault_server):
    return ChatVLLM(base_url=fault_server.url, max_retries=0, timeout=5)


def reply(*arguments, finish_reason):
    calls = [payloads.tool_call("add", text, index=place) for place, text in enumerate(arguments)]
    return faults.chat(tool_calls=calls, finish_reason=finish_reason)


# Stock ChatOpenAI, streaming: tool_calls=[{"a": 1}, {"path": "/home/a"}], invalid_tool_calls=[].
@every_way
@pytest.mark.parametrize("text", ['{"path": "/home/a', '{"n": 1', '{"n": 1}', ""], ids=["text", "number", "brace", ""])
def test_a_cut_call_is_invalid_and_earlier_ones_are_whole(llm, fault_server, ask, text):
    fault_server.reply(reply('{"a": 1}', text, finish_reason="length"))
    message = ask(llm)
    assert [call["args"] for call in message.tool_calls] == [{"a": 1}]
    assert [call["error"] for call in message.invalid_tool_calls] == [CUT]
    assert message.invalid_tool_calls[0]["name"] == "add"
    assert (message.invalid_tool_calls[0]["args"] or "") == text
    assert message.response_metadata["finish_reason"] == "length"
    blocks = message_chunk_to_message(message).content_blocks
    assert [block["args"] for block in blocks if block["type"] == "tool_call"] == [{"a": 1}]


# Stock: astream_events v3 breaks on a list ("Input should be a valid dictionary").
@every_way
@pytest.mark.parametrize("text", ['{"a": 1', "[1]", '"a"', "nonsense", '{"a": NaN}'])
def test_malformed_arguments_are_invalid(llm, fault_server, ask, text):
    fault_server.reply(reply(text, '{"a": 1}', finish_reason="tool_calls"))
    message = ask(llm)
    assert [call["args"] for call in message.tool_calls] == [{"a": 1}]
    assert [call["args"] for call in message.invalid_tool_calls] == [text]
    assert "JSON" in message.invalid_tool_calls[0]["error"]


@pytest.mark.parametrize("ask", [invoke, stream, astream], ids=lambda f: f.__name__)
def test_brackets_without_end_are_invalid(llm, fault_server, ask):
    fault_server.reply(reply('{"a": ' + "[" * 5000, finish_reason="length"))
    assert len(ask(llm).invalid_tool_calls) == 1


# Stock: a HumanMessage, and a ChatMessage of any other role; with usage, an AttributeError.
@pytest.mark.parametrize("role", ["user", "tool", None])
@pytest.mark.parametrize("ask", [invoke, stream], ids=lambda f: f.__name__)
def test_a_reply_is_the_assistants_whatever_its_role_is_called(llm, fault_server, ask, role):
    async def run(exchange):
        if exchange.request.json.get("stream"):
            first, *rest = payloads.chat_chunks("Hi")
            first["choices"][0]["delta"]["role"] = role
            await faults.sse(first, *rest)(exchange)
        else:
            whole = payloads.chat("Hi")
            whole["choices"][0]["message"]["role"] = role
            await faults.json_reply(whole)(exchange)

    fault_server.reply(run)
    message = ask(llm)
    assert isinstance(message, AIMessage)
    assert message.text == "Hi"


@every_way
def test_no_arguments_are_an_empty_dict(llm, fault_server, ask):
    fault_server.reply(reply("", finish_reason="tool_calls"))
    message = ask(llm)
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("add", {})]
    assert not message.invalid_tool_calls


# Stock: one broken call per delta; without an index, no call at all.
@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("ask", [stream, astream, events_v3], ids=lambda f: f.__name__)
def test_a_call_that_is_named_in_every_delta(llm, fault_server, ask, indexed):
    said = []
    for text in ('{"city"', ': "Ro', 'me"}'):
        call = payloads.tool_call("get_weather", text, index=0)
        said.append({"tool_calls": [call if indexed else {k: v for k, v in call.items() if k != "index"}]})
    fault_server.reply(faults.deltas(*said, finish_reason="stop"))
    message = ask(llm)
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("get_weather", {"city": "Rome"})]
    assert not message.invalid_tool_calls


def test_chunks_are_langchains_own_to_others(llm, fault_server):
    fault_server.reply(reply('{"a": 1}', '{"b', finish_reason="length"))
    message = stream(llm)
    assert isinstance(message, AIMessageChunk)
    assert type(message_chunk_to_message(message)) is AIMessage
    assert message_chunk_to_message(message).invalid_tool_calls[0]["args"] == '{"b'
    stored = load(dumpd(message), allowed_objects="core")
    assert type(stored) is AIMessageChunk
    assert isinstance(add_up([message, AIMessageChunk(content="!")]), ReplyChunk)


def test_calls_grow_while_they_stream(llm, fault_server):
    fault_server.reply(reply('{"city": "Rome"}', finish_reason="tool_calls"))
    message, seen = None, []
    for chunk in llm.stream("x"):
        message = chunk if message is None else message + chunk
        seen.extend(call["args"] for call in message.tool_calls)
    assert seen[-1] == {"city": "Rome"}
    assert len(seen) > 1


@pytest.mark.parametrize("ask", [stream, events_v3, aevents_v3], ids=lambda f: f.__name__)
def test_what_every_chunk_has_is_all_there_in_the_end(llm, fault_server, ask):
    chunks = payloads.chat_chunks("one two three", usage=True)
    told = [chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["delta"].get("content")]
    for number, chunk in enumerate(told):
        chunk["choices"][0]["token_ids"] = [number]
        chunk["choices"][0]["logprobs"] = {"content": [{"token": str(number), "logprob": -0.5, "top_logprobs": []}]}
    fault_server.reply(faults.sse(*chunks))
    found = ask(llm).response_metadata
    assert found["token_ids"] == list(range(len(told)))
    assert [item["token"] for item in found["logprobs"]["content"]] == [str(n) for n in range(len(told))]
