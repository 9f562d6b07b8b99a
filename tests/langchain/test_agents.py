"""LangChain's agents and LangGraph: loops that call tools, reply with objects, and end."""

import json

import pytest

pytest.importorskip("langchain")

from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware, ToolRetryMiddleware, wrap_model_call
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel
from version_marks import forced_call_is_enforced, reasoning_is_parsed, streamed_call_is_parsed

from vllm_adapters.langchain import ChatVLLM

pytestmark = pytest.mark.vllm("tiny")

WEATHER = {"messages": [("user", "What is the weather in Rome?")]}
ROME = {"messages": [("user", "Give me Rome as json")]}
FEW_STEPS = {"recursion_limit": 12}


class City(BaseModel):
    """A city with a number."""

    city: str
    n: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


@wrap_model_call
def tools_once(request, handler):
    """Offer the tools until one was used. The tiny model, bound to a tool or a schema, would call them forever."""
    used = any(isinstance(message, ToolMessage) for message in request.messages)
    return handler(request.override(tools=[]) if used else request)


@pytest.fixture
def llm():
    return ChatVLLM(temperature=0, max_retries=0, max_tokens=100)


def kinds(messages):
    return [message.type for message in messages]


def test_agent_with_a_tool(llm, sent):
    messages = create_agent(llm, tools=[get_weather]).invoke(WEATHER, FEW_STEPS)["messages"]
    assert kinds(messages) == ["human", "ai", "tool", "ai"]
    assert messages[1].tool_calls[0]["args"] == {"city": "Rome"}
    assert messages[-1].text == "The weather tool says: sunny."
    first, second = sent.bodies("/v1/chat/completions")
    assert "strict" not in first["tools"][0]["function"]
    assert second["messages"][2]["tool_call_id"] == messages[1].tool_calls[0]["id"]


async def test_async_agent_with_two_tool_calls(llm):
    async def weather(city: str) -> str:
        """The weather in a city."""
        return "sunny"

    agent = create_agent(llm, tools=[tool("get_weather")(weather)])
    messages = (await agent.ainvoke({"messages": [("user", "What is the weather in Rome and Oslo?")]}, FEW_STEPS))[
        "messages"
    ]
    assert kinds(messages) == ["human", "ai", "tool", "tool", "ai"]
    assert "sunny" in messages[-1].text


# Stock ChatOpenAI: ProviderStrategy without tools is a 400; a bare schema loops until the recursion limit.
@pytest.mark.parametrize(
    "response_format", [City, ToolStrategy(City), ProviderStrategy(City)], ids=["bare", "tool", "provider"]
)
@pytest.mark.parametrize("tools", [[], [get_weather]], ids=["no-tools", "tools"])
@forced_call_is_enforced
def test_agent_with_a_response_format(llm, sent, response_format, tools):
    agent = create_agent(llm, tools=tools, response_format=response_format, middleware=[tools_once] if tools else [])
    found = agent.invoke(WEATHER, FEW_STEPS)
    assert isinstance(found["structured_response"], City)
    results = [message for message in found["messages"] if isinstance(message, ToolMessage) and message.text == "sunny"]
    assert len(results) == len(tools)
    last = sent.last.json
    if isinstance(response_format, ToolStrategy):
        assert (last["tool_choice"], last["tools"][-1]["function"]["strict"]) == ("required", True)
    else:
        assert last["response_format"]["json_schema"]["schema"]["required"] == ["city", "n"]
    if tools:
        assert sent.bodies("/v1/chat/completions")[0]["tools"][0]["function"]["strict"] is True


def test_agent_may_reply_with_the_object_at_once(llm):
    found = create_agent(llm, tools=[get_weather], response_format=City).invoke(ROME, FEW_STEPS)
    assert found["structured_response"] == City(city="Rome", n=1)
    assert kinds(found["messages"]) == ["human", "ai"]


@streamed_call_is_parsed
def test_agent_streams(llm):
    agent = create_agent(llm, tools=[get_weather])
    updates, text, calls = [], "", ""
    for mode, piece in agent.stream(WEATHER, FEW_STEPS, stream_mode=["updates", "messages"]):
        if mode == "updates":
            updates.extend(piece)
        elif piece[0].type == "AIMessageChunk":
            text += piece[0].text
            calls += "".join(chunk["args"] or "" for chunk in piece[0].tool_call_chunks)
    assert updates == ["model", "tools", "model"]
    assert text == "The weather tool says: sunny."
    assert json.loads(calls) == {"city": "Rome"}


@pytest.mark.parametrize("thinking", [False, True])
@reasoning_is_parsed.with_args(only="True")
@streamed_call_is_parsed.with_args(only="False")
def test_agent_streams_protocol_events(sent, thinking):
    llm = ChatVLLM(temperature=0, chat_template_kwargs={"enable_thinking": thinking}, replay_reasoning=True)
    stream = create_agent(llm, tools=[get_weather]).stream_events(WEATHER, FEW_STEPS, version="v3")
    streamed = ["".join(message.text) for message in stream.messages]
    messages = stream.output["messages"]
    assert kinds(messages) == ["human", "ai", "tool", "ai"]
    assert messages[1].tool_calls[0]["args"] == {"city": "Rome"}
    assert messages[-1].text.strip() == streamed[-1].strip() == "The weather tool says: sunny."
    question, reply, result = sent.last.json["messages"]
    assert (question["role"], reply["role"], result["role"]) == ("user", "assistant", "tool")
    assert reply["tool_calls"][0]["function"]["name"] == "get_weather"
    assert bool((reply.get("reasoning") or "").strip()) is thinking
    assert not reply["content"] or all(part["type"] == "text" for part in reply["content"])


@streamed_call_is_parsed
async def test_agent_streams_v2_events(llm):
    agent = create_agent(llm, tools=[get_weather])
    events = [event async for event in agent.astream_events(WEATHER, FEW_STEPS, version="v2")]
    ended = [event["data"]["output"] for event in events if event["event"] == "on_chat_model_end"]
    assert ended[0].tool_calls[0]["args"] == {"city": "Rome"}
    assert ended[-1].text == "The weather tool says: sunny."
    assert [event["data"]["output"].text for event in events if event["event"] == "on_tool_end"] == ["sunny"]


def test_agent_remembers_its_thread(llm):
    agent = create_agent(llm, checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": [("user", "My name is Ada.")]}, thread)
    messages = agent.invoke({"messages": [("user", "What is my name?")]}, thread)["messages"]
    assert "Ada" in messages[-1].text
    assert len(messages) == 4


def test_failed_tool_is_retried(llm):
    attempts = []

    @tool("get_weather")
    def flaky(city: str) -> str:
        """The weather in a city."""
        attempts.append(city)
        if len(attempts) == 1:
            raise ConnectionError("no answer")
        return "sunny"

    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0.0)
    messages = create_agent(llm, tools=[flaky], middleware=[retry]).invoke(WEATHER, FEW_STEPS)["messages"]
    assert attempts == ["Rome", "Rome"]
    assert messages[-1].text == "The weather tool says: sunny."


LONG = [
    message
    for number in range(8)
    for message in (HumanMessage(f"Count to {number}. " + "The sea is wide. " * 60), AIMessage("1, 2, 3."))
]


# Stock ChatOpenAI: "fraction" needs a profile it does not have, and a prompt that is too long is an unknown 400.
@pytest.mark.parametrize("trim", [400, None], ids=["trimmed", "overflowing"])
def test_long_conversation_is_summarized(sent, trim):
    llm = ChatVLLM.from_server(temperature=0, max_retries=0, max_tokens=40)
    summarize = SummarizationMiddleware(
        llm,
        trigger=[("fraction", 0.8), ("messages", 10)],
        keep=("messages", 2),
        trim_tokens_to_summarize=trim,
        summary_prompt="{messages}",
        **({} if trim else {"token_counter": llm.get_num_tokens_from_messages}),
    )
    conversation = [*LONG, HumanMessage("What is the capital of Japan?")]
    messages = create_agent(llm, middleware=[summarize]).invoke({"messages": conversation}, FEW_STEPS)["messages"]
    assert messages[-1].text == "The capital of Japan is Tokyo."
    assert len(messages) < len(LONG)
    assert "summary" in messages[0].text
    lengths = [len(str(body["messages"])) for body in sent.bodies("/v1/chat/completions")]
    if trim is None:
        first, second, _ = lengths
        assert first > second, "the summary was requested again, with fewer messages"
    else:
        assert len(lengths) == 2


def test_graph_of_the_user(llm):
    bound = llm.bind_tools([get_weather])
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": bound.invoke(state["messages"])})
    graph.add_node("tools", ToolNode([get_weather]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    state = graph.compile().invoke({"messages": [SystemMessage("Be brief."), ("user", "What is the weather in Oslo?")]})
    assert kinds(state["messages"]) == ["system", "human", "ai", "tool", "ai"]
    assert state["messages"][-1].text == "The weather tool says: sunny."


# Stock ChatOpenAI passes the tool {} or half an argument.
@forced_call_is_enforced
def test_truncated_call_does_not_reach_the_tool(sent):
    cities = []

    @tool("get_weather")
    def weather(city: str = "nowhere") -> str:
        """The weather in a city."""
        cities.append(city)
        return "sunny"

    llm = ChatVLLM(temperature=0, max_retries=0, max_tokens=20, streaming=True)
    messages = create_agent(llm, tools=[weather]).invoke(WEATHER, FEW_STEPS)["messages"]
    assert cities == []
    assert kinds(messages) == ["human", "ai"]
    assert messages[-1].invalid_tool_calls[0]["name"] == "get_weather"
    assert len(sent.bodies("/v1/chat/completions")) == 1
