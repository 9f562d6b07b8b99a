"""A tag of LlamaIndex's instrumentation, or the workflow's run, is the session, if the LLM is asked to take it."""

import asyncio

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory
from pydantic import ValidationError

from vllm_adapters.llamaindex import VLLM
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
MESSAGES = [ChatMessage("x")]
TAGS = {"session_id": "s-1"}


@pytest.fixture
def llm(fault_server):
    return VLLM("stub", api_base=fault_server.url, context_window=4096, session="auto")


def sessions(server):
    """Return the session in the body and in the header of each request, which are the same."""
    found = [(post.json.get("session_id"), post.headers.get("x-session-id")) for post in server.posts(CHAT)]
    assert all(body == header for body, header in found)
    return [body for body, _ in found]


async def achunks(stream):
    return [chunk async for chunk in await stream]


CALLS = {
    "chat": lambda llm: llm.chat(MESSAGES),
    "achat": lambda llm: asyncio.run(llm.achat(MESSAGES)),
    "stream_chat": lambda llm: list(llm.stream_chat(MESSAGES)),
    "astream_chat": lambda llm: asyncio.run(achunks(llm.astream_chat(MESSAGES))),
    "complete": lambda llm: llm.complete("x"),
    "acomplete": lambda llm: asyncio.run(llm.acomplete("x")),
}


@pytest.mark.parametrize("how", CALLS)
def test_tag_is_the_session(llm, fault_server, how):
    with instrument_tags(TAGS):
        CALLS[how](llm)
    assert sessions(fault_server) == ["s-1"]


@pytest.mark.parametrize("how", CALLS)
def test_call_without_a_tag_has_no_session(llm, fault_server, how):
    CALLS[how](llm)
    assert sessions(fault_server) == [None]


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def test_requests_of_an_agent_run_share_a_session(llm, fault_server):
    answers = [faults.chat(tool_calls=[payloads.tool_call("get_weather", '{"city": "Rome"}')]), faults.chat("sunny")]
    fault_server.script(CHAT, answers + answers)
    agent = FunctionAgent(llm=llm, tools=[get_weather])

    async def run():
        return [str(await agent.run("What is the weather in Rome?")) for _ in range(2)]

    assert asyncio.run(run()) == ["sunny", "sunny"]
    first, second, third, fourth = sessions(fault_server)
    assert first == second != third == fourth
    assert first
    assert third


def test_memory_names_the_session_of_all_runs(llm, fault_server):
    memory = Memory.from_defaults(session_id="conversation-1", token_limit=4000)
    agent = FunctionAgent(llm=llm, tools=[get_weather])

    async def run():
        with instrument_tags({"session_id": memory.session_id}):
            return [str(await agent.run(question, memory=memory)) for question in ("one", "two")]

    assert asyncio.run(run()) == ["one", "two"]
    assert sessions(fault_server) == ["conversation-1", "conversation-1"]


def test_chat_engine_is_in_the_tagged_session(llm, fault_server):
    engine = SimpleChatEngine.from_defaults(llm=llm)
    with instrument_tags(TAGS):
        assert engine.chat("one").response == "one"
        assert "".join(engine.stream_chat("two").response_gen) == "two"
    assert sessions(fault_server) == ["s-1", "s-1"]


def test_session_of_the_call_overrides_the_tag(llm, fault_server):
    with instrument_tags(TAGS):
        llm.chat(MESSAGES, session_id="mine")
    assert sessions(fault_server) == ["mine"]


def test_tag_overrides_the_constructor(fault_server):
    llm = VLLM("stub", api_base=fault_server.url, session="auto", session_id="default")
    llm.chat(MESSAGES)
    with instrument_tags(TAGS):
        llm.chat(MESSAGES)
    assert sessions(fault_server) == ["default", "s-1"]


def test_tag_is_not_sent_unless_asked_for(fault_server):
    with instrument_tags(TAGS):
        VLLM("stub", api_base=fault_server.url).chat(MESSAGES)
    assert sessions(fault_server) == [None]


def test_session_must_be_auto():
    with pytest.raises(ValidationError, match="session"):
        VLLM(session="memory")


@pytest.mark.vllm("tiny")
def test_tag_reaches_the_server(sent):
    llm = VLLM(session="auto", temperature=0, max_tokens=10)
    with instrument_tags(TAGS):
        assert llm.chat([ChatMessage("What is the capital of France?")]).message.content
    assert (sent.last.json["session_id"], sent.last.headers["x-session-id"]) == ("s-1", "s-1")
