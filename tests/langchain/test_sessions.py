"""LangGraph's thread is the session of its calls, if the model is asked to take it."""

import asyncio

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import ValidationError

from vllm_adapters.langchain import ChatVLLM

CHAT = "/v1/chat/completions"
THREAD = {"configurable": {"thread_id": "thread-1"}}


@pytest.fixture
def llm(fault_server):
    return ChatVLLM(model="stub", base_url=fault_server.url, session="auto")


def sessions(server):
    """Return the session in the body and in the header of each request, which are the same."""
    found = [(post.json.get("session_id"), post.headers.get("x-session-id")) for post in server.posts(CHAT)]
    assert all(body == header for body, header in found)
    return [body for body, _ in found]


async def texts(chunks):
    return [chunk.text async for chunk in chunks]


CALLS = {
    "invoke": lambda llm, config: llm.invoke("x", config),
    "ainvoke": lambda llm, config: asyncio.run(llm.ainvoke("x", config)),
    "stream": lambda llm, config: list(llm.stream("x", config)),
    "astream": lambda llm, config: asyncio.run(texts(llm.astream("x", config))),
    "batch": lambda llm, config: llm.batch(["x"], config),
    "events": lambda llm, config: llm.stream_events("x", config, version="v3").output,
    "binding": lambda llm, config: llm.bind(temperature=0).invoke("x", config),
    "chain": lambda llm, config: (ChatPromptTemplate.from_template("{x}") | llm).invoke({"x": "x"}, config),
}


@pytest.mark.parametrize("how", CALLS)
def test_thread_of_the_config_is_the_session(llm, fault_server, how):
    CALLS[how](llm, THREAD)
    assert sessions(fault_server) == ["thread-1"]


@pytest.mark.parametrize("how", CALLS)
def test_call_without_a_thread_has_no_session(llm, fault_server, how):
    CALLS[how](llm, None)
    assert sessions(fault_server) == [None]


def test_agent_sends_its_thread_with_each_request(llm, fault_server):
    agent = create_agent(llm, checkpointer=InMemorySaver())
    for thread in ("a", "b", "a"):
        agent.invoke({"messages": [HumanMessage("x")]}, {"configurable": {"thread_id": thread}})
    assert sessions(fault_server) == ["a", "b", "a"]


def test_streaming_async_agent_sends_its_thread(llm, fault_server):
    agent = create_agent(llm, checkpointer=InMemorySaver())

    async def run():
        async for _ in agent.astream({"messages": [HumanMessage("x")]}, THREAD, stream_mode="messages"):
            pass

    asyncio.run(run())
    assert sessions(fault_server) == ["thread-1"]


NODES = {
    "invoke": lambda llm, state: llm.invoke(state["messages"]),
    "stream": lambda llm, state: AIMessage("".join(chunk.text for chunk in llm.stream(state["messages"]))),
    "generate": lambda llm, state: llm.generate([state["messages"]]).generations[0][0].message,
}


@pytest.mark.parametrize("how", NODES)
def test_node_of_a_graph_does_not_pass_its_config_on(llm, fault_server, how):
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [NODES[how](llm, state)]})
    graph.add_edge(START, "model")
    graph.add_edge("model", END)
    graph.compile(checkpointer=InMemorySaver()).invoke({"messages": [HumanMessage("x")]}, THREAD)
    assert sessions(fault_server) == ["thread-1"]


def test_session_of_the_call_overrides_the_thread(llm, fault_server):
    llm.invoke("x", THREAD, session_id="mine")
    llm.bind(session_id="bound").invoke("x", THREAD)
    assert sessions(fault_server) == ["mine", "bound"]


def test_thread_overrides_the_constructor(fault_server):
    llm = ChatVLLM(model="stub", base_url=fault_server.url, session="auto", session_id="default")
    llm.invoke("x", THREAD)
    llm.invoke("x")
    assert sessions(fault_server) == ["thread-1", "default"]


def test_thread_may_be_a_number(llm, fault_server):
    llm.invoke("x", {"configurable": {"thread_id": 7}})
    assert sessions(fault_server) == ["7"]


def test_threads_share_the_cache_of_replies(llm, fault_server):
    llm.cache = InMemoryCache()
    for thread in ("a", "b"):
        llm.invoke("x", {"configurable": {"thread_id": thread}})
    assert sessions(fault_server) == ["a"]


def test_thread_is_not_sent_unless_asked_for(fault_server):
    ChatVLLM(model="stub", base_url=fault_server.url).invoke("x", THREAD)
    assert sessions(fault_server) == [None]


def test_session_must_be_auto():
    with pytest.raises(ValidationError, match="session"):
        ChatVLLM(session="thread")


@pytest.mark.vllm("tiny")
def test_thread_reaches_the_server(sent):
    llm = ChatVLLM(session="auto", temperature=0, max_tokens=10)
    assert llm.invoke("What is the capital of France?", THREAD).text
    assert (sent.last.json["session_id"], sent.last.headers["x-session-id"]) == ("thread-1", "thread-1")
