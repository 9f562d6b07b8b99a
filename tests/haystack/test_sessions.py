"""The session of a run is sent to the server and to the router in front of it."""

import asyncio

import pytest
from haystack import Pipeline
from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage
from haystack.tools import create_tool_from_function

from vllm_adapters.errors import InvalidRequest
from vllm_adapters.haystack import VLLMChatGenerator
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"


@pytest.fixture
def llm(fault_server):
    return VLLMChatGenerator(model="stub", api_base_url=fault_server.url)


def sessions(server):
    """Return the session in the body and in the header of each request, which are the same."""
    found = [(post.json.get("session_id"), post.headers.get("x-session-id")) for post in server.posts(CHAT)]
    assert all(body == header for body, header in found)
    return [body for body, _ in found]


def ignore(chunk):
    """Take a chunk."""


CALLS = {
    "run": lambda llm, **session: llm.run("x", **session),
    "run_async": lambda llm, **session: asyncio.run(llm.run_async("x", **session)),
    "stream": lambda llm, **session: llm.run("x", ignore, **session),
    "stream_async": lambda llm, **session: asyncio.run(llm.run_async("x", ignore, **session)),
}


@pytest.mark.parametrize("how", CALLS)
def test_session_of_a_run_is_sent(llm, fault_server, how):
    CALLS[how](llm, session_id="s-1")
    CALLS[how](llm)
    assert sessions(fault_server) == ["s-1", None]


def test_session_of_a_run_overrides_the_parameters(fault_server):
    llm = VLLMChatGenerator(model="stub", api_base_url=fault_server.url, generation_kwargs={"session_id": "default"})
    llm.run("x")
    llm.run("x", generation_kwargs={"session_id": "parameter"})
    llm.run("x", generation_kwargs={"session_id": "parameter"}, session_id="argument")
    assert sessions(fault_server) == ["default", "parameter", "argument"]


def test_pipeline_passes_the_session_to_its_socket(llm, fault_server):
    pipeline = Pipeline()
    pipeline.add_component("llm", llm)
    pipeline.run({"llm": {"messages": [ChatMessage.from_user("x")], "session_id": "s-1"}})
    assert sessions(fault_server) == ["s-1"]


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def test_agent_passes_the_session_among_its_parameters(llm, fault_server):
    fault_server.script(
        CHAT, [faults.chat(tool_calls=[payloads.tool_call("get_weather", '{"city": "Rome"}')]), faults.chat("sunny")]
    )
    agent = Agent(chat_generator=llm, tools=[create_tool_from_function(get_weather)])
    found = agent.run([ChatMessage.from_user("x")], generation_kwargs={"session_id": "s-1"})
    assert found["last_message"].text == "sunny"
    assert sessions(fault_server) == ["s-1", "s-1"]


def test_session_must_be_a_text(llm):
    with pytest.raises(InvalidRequest, match="session_id"):
        llm.run("x", session_id=7)


@pytest.mark.vllm("tiny")
def test_session_reaches_the_server(sent):
    llm = VLLMChatGenerator(generation_kwargs={"temperature": 0, "max_tokens": 10})
    assert llm.run("What is the capital of France?", session_id="s-1")["replies"][0].text
    assert (sent.last.json["session_id"], sent.last.headers["x-session-id"]) == ("s-1", "s-1")
