"""Tools of VLLMChatGenerator: what is sent, which tool calls come back, and which are invalid."""

import asyncio
import json
from typing import Annotated

import pytest
from haystack.dataclasses import ChatMessage
from haystack.tools import Toolset, tool
from version_marks import forced_call_is_enforced, reasoning_is_parsed, streamed_call_is_parsed

from vllm_adapters import errors as e
from vllm_adapters.haystack import VLLMChatGenerator
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
THINK = {"chat_template_kwargs": {"enable_thinking": True}}
FORCED = {"type": "function", "function": {"name": "get_weather"}}
ROME = "What is the weather in Rome?"


@tool
def get_weather(city: Annotated[str, "The city"]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def ping() -> str:
    """Needs nothing."""
    return "pong"


@pytest.mark.vllm("tiny")
@streamed_call_is_parsed.with_args(only="stream")
def test_tool_calls(llm, run, sent):
    (reply,) = run(llm, "What is the weather in Rome and Oslo?", tools=[get_weather])
    calls = [(call.tool_name, call.arguments) for call in reply.tool_calls]
    assert calls == [("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Oslo"})]
    assert all(call.id for call in reply.tool_calls)
    assert reply.meta["finish_reason"] == "tool_calls"
    assert "strict" not in sent.last.json["tools"][0]["function"]
    if run.streams:
        starts = [chunk for chunk in run.chunks if chunk.start and chunk.tool_calls]
        assert [chunk.tool_calls[0].tool_name for chunk in starts] == ["get_weather"] * 2
        assert starts[1].index == starts[0].index + 1


@pytest.mark.vllm("tiny")
@forced_call_is_enforced
def test_forced_tool_call_is_strict(llm, run, sent):
    (reply,) = run(llm, ROME, tools=[get_weather], generation_kwargs={"tool_choice": FORCED})
    assert [call.arguments for call in reply.tool_calls] == [{"city": "Rome"}]
    assert sent.last.json["tools"][0]["function"]["strict"] is True


@pytest.mark.vllm("tiny")
def test_tools_strict(sent):
    llm = VLLMChatGenerator(tools=[get_weather], tools_strict=True, max_retries=0)
    assert llm.run(ROME)["replies"][0].tool_calls
    assert sent.last.json["tools"][0]["function"]["strict"] is True
    assert llm.run("Hello", tools=[])["replies"][0].text
    assert "tools" not in sent.last.json


@pytest.mark.vllm("tiny")
@forced_call_is_enforced
def test_truncated_tool_call_is_invalid(llm, run):
    truncated = {"tool_choice": FORCED, "max_tokens": 24}
    if not run.streams:  # vLLM returns the call as text
        with pytest.raises(e.TruncatedOutput, match="max_tokens") as caught:
            run(llm, ROME, tools=[get_weather], generation_kwargs=truncated)
        assert caught.value.partial.startswith("<tool_call>")
        return
    # Haystack's own generator and vllm-haystack log a line and drop the call.
    (reply,) = run(llm, ROME, tools=[get_weather], generation_kwargs=truncated)
    assert reply.meta["finish_reason"] == "length"
    assert reply.tool_calls == []
    (invalid,) = reply.meta["invalid_tool_calls"]
    assert (invalid["name"], invalid["arguments"]) == ("get_weather", '{"city"')
    assert "truncated" in invalid["error"]


@pytest.mark.vllm("tiny")
@reasoning_is_parsed
def test_conversation_with_tool_results_and_reasoning(sent):
    llm = VLLMChatGenerator(tools=[get_weather], generation_kwargs=THINK, replay_reasoning=True, max_retries=0)
    messages = [ChatMessage.from_user(ROME)]
    (reply,) = llm.run(messages)["replies"]
    (call,) = reply.tool_calls
    messages += [reply, ChatMessage.from_tool(get_weather.invoke(**call.arguments), origin=call)]
    assert "sunny" in llm.run(messages)["replies"][0].text
    _, replayed, result = sent.last.json["messages"]
    assert replayed["reasoning"] == reply.reasoning.reasoning_text
    assert json.loads(replayed["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome"}
    assert result == {"role": "tool", "content": "sunny in Rome", "tool_call_id": call.id}


def reply_with_calls(run, *calls):
    dicts = [
        payloads.tool_call(name, arguments, index=at if run.streams else None)
        for at, (name, arguments) in enumerate(calls)
    ]
    return faults.chat(tool_calls=dicts, finish_reason="tool_calls")


@pytest.mark.parametrize("arguments", ["", "{}"])
def test_tool_call_without_arguments(stub_llm, fault_server, run, arguments):
    # vllm-haystack drops a call with empty arguments unless it streams.
    fault_server.reply(reply_with_calls(run, ("ping", arguments)))
    (reply,) = run(stub_llm, tools=[ping])
    assert [(call.tool_name, call.arguments) for call in reply.tool_calls] == [("ping", {})]
    assert "invalid_tool_calls" not in reply.meta


@pytest.mark.parametrize("arguments", ['{"a": 1', "[1]", "one"])
def test_malformed_tool_calls_are_in_meta(stub_llm, fault_server, run, arguments, caplog):
    fault_server.reply(reply_with_calls(run, ("add", '{"a": 1, "b": 2}'), ("add", arguments)))
    (reply,) = run(stub_llm, tools=[add])
    assert [call.arguments for call in reply.tool_calls] == [{"a": 1, "b": 2}]
    (invalid,) = reply.meta["invalid_tool_calls"]
    assert invalid.keys() == {"id", "name", "arguments", "error"}
    assert (invalid["name"], invalid["arguments"]) == ("add", arguments)
    assert invalid["error"]
    assert "Tool call 'add' is invalid" in caplog.text


def test_tools_of_the_same_name_are_rejected(stub_llm, fault_server):
    with pytest.raises(ValueError, match="same name: add"):
        VLLMChatGenerator(tools=[add, ping, add])
    with pytest.raises(ValueError, match="same name: ping"):
        stub_llm.run("hi", tools=[ping, Toolset([ping])])
    assert not fault_server.requests


class LazyToolset(Toolset):
    """A toolset that finds its tools when it is warmed up, like those of MCP servers."""

    def __init__(self):
        super().__init__([])
        self.warmed_up = []

    def _find(self, way):
        self.warmed_up.append(way)
        if not self.tools:
            self.add(ping)

    def warm_up(self):
        self._find("sync")

    async def warm_up_async(self):
        self._find("async")


@pytest.mark.parametrize("of", ["constructor", "run"])
def test_lazy_toolsets_are_warmed_up(fault_server, run, of):
    tools = LazyToolset()
    given = {"tools": [tools]}
    llm = VLLMChatGenerator(api_base_url=fault_server.url, **(given if of == "constructor" else {}))
    for _ in range(2):
        run(llm, **(given if of == "run" else {}))
    bodies = [request.json for request in fault_server.posts(CHAT)]
    assert [[each["function"]["name"] for each in body["tools"]] for body in bodies] == [["ping"]] * 2
    assert set(tools.warmed_up) == {"async" if run.is_async else "sync"}
    if of == "constructor":
        assert len(tools.warmed_up) == 1


async def test_warm_up_warms_up_the_tools(fault_server):
    tools = LazyToolset()
    llm = VLLMChatGenerator(api_base_url=fault_server.url, tools=tools)
    for _ in range(2):
        llm.warm_up()
        await llm.warm_up_async()
    assert tools.warmed_up == ["sync", "async"]
    assert not fault_server.requests


def test_tools_that_are_set_later_or_closed_are_warmed_up(fault_server, run):
    llm = VLLMChatGenerator(api_base_url=fault_server.url, tools=[add])
    run(llm)
    llm.tools = LazyToolset()
    run(llm)
    llm.tools = [add]
    run(llm)
    llm.tools.append(lazy := LazyToolset())
    run(llm)
    asyncio.run(llm.close_async()) if run.is_async else llm.close()
    lazy.tools.clear()  # as closing a toolset of an MCP server may do
    run(llm)
    names = [[each["function"]["name"] for each in request.json["tools"]] for request in fault_server.posts(CHAT)]
    assert names == [["add"], ["ping"], ["add"], ["add", "ping"], ["add", "ping"]]


def test_constructor_does_not_load_lazy_tools():
    class Loading(LazyToolset):
        def __iter__(self):
            self._find("iterated")
            return super().__iter__()

    tools = Loading()
    VLLMChatGenerator(tools=[tools])
    VLLMChatGenerator(tools=tools)
    assert not tools.warmed_up


@pytest.mark.parametrize("tools", ["add", add, [add, "ping"], {"add": add}], ids=["str", "tool", "list", "dict"])
def test_tools_of_the_wrong_type_are_rejected(stub_llm, fault_server, run, tools):
    for attempt in (lambda: VLLMChatGenerator(tools=tools), lambda: run(stub_llm, tools=tools)):
        with pytest.raises(TypeError, match=r"`tools` must be a Toolset or a list.* Pass \[tool\]"):
            attempt()
    assert not fault_server.requests
