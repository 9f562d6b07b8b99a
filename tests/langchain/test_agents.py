"""LangChain's agents and LangGraph on a real vLLM: loops that call tools, answer in a form, and end."""

import json

import pytest

pytest.importorskip("langchain")
pytest.importorskip("langchain_openai")

from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware, ToolRetryMiddleware, wrap_model_call
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel

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
    """Offers the tools until one was used. The tiny model, bound to a tool or a form, would call them for ever."""
    used = any(isinstance(message, ToolMessage) for message in request.messages)
    return handler(request.override(tools=[]) if used else request)


@pytest.fixture
def llm():
    return ChatVLLM(temperature=0, max_retries=0, max_tokens=100)


def kinds(messages):
    return [message.type for message in messages]


def test_an_agent_with_a_tool(llm, sent):
    said = create_agent(llm, tools=[get_weather]).invoke(WEATHER, FEW_STEPS)["messages"]
    assert kinds(said) == ["human", "ai", "tool", "ai"]
    assert said[1].tool_calls[0]["args"] == {"city": "Rome"}
    assert said[-1].text == "The weather tool says: sunny."
    first, second = sent.bodies("/v1/chat/completions")
    assert "strict" not in first["tools"][0]["function"]
    assert second["messages"][2]["tool_call_id"] == said[1].tool_calls[0]["id"]


async def test_an_agent_that_waits_for_two_tools(llm):
    async def weather(city: str) -> str:
        """The weather in a city."""
        return "sunny"

    agent = create_agent(llm, tools=[tool("get_weather")(weather)])
    said = (await agent.ainvoke({"messages": [("user", "What is the weather in Rome and Oslo?")]}, FEW_STEPS))[
        "messages"
    ]
    assert kinds(said) == ["human", "ai", "tool", "tool", "ai"]
    assert "sunny" in said[-1].text


# Stock ChatOpenAI: ProviderStrategy without tools is a 400; a bare schema loops until the recursion limit.
@pytest.mark.parametrize("form", [City, ToolStrategy(City), ProviderStrategy(City)], ids=["bare", "tool", "provider"])
@pytest.mark.parametrize("tools", [[], [get_weather]], ids=["no-tools", "tools"])
def test_an_agent_that_answers_in_a_form(llm, sent, form, tools):
    agent = create_agent(llm, tools=tools, response_format=form, middleware=[tools_once] if tools else [])
    found = agent.invoke(WEATHER, FEW_STEPS)
    assert isinstance(found["structured_response"], City)
    used = [message for message in found["messages"] if isinstance(message, ToolMessage) and message.text == "sunny"]
    assert len(used) == len(tools)
    last = sent.last.json
    if isinstance(form, ToolStrategy):
        assert (last["tool_choice"], last["tools"][-1]["function"]["strict"]) == ("required", True)
    else:
        assert last["response_format"]["json_schema"]["schema"]["required"] == ["city", "n"]
    if tools:
        assert sent.bodies("/v1/chat/completions")[0]["tools"][0]["function"]["strict"] is True


def test_an_agent_may_answer_in_the_form_at_once(llm):
    found = create_agent(llm, tools=[get_weather], response_format=City).invoke(ROME, FEW_STEPS)
    assert found["structured_response"] == City(city="Rome", n=1)
    assert kinds(found["messages"]) == ["human", "ai"]


def test_an_agent_streams(llm):
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
def test_an_agent_streams_protocol_events(sent, thinking):
    llm = ChatVLLM(temperature=0, chat_template_kwargs={"enable_thinking": thinking}, replay_reasoning=True)
    stream = create_agent(llm, tools=[get_weather]).stream_events(WEATHER, FEW_STEPS, version="v3")
    streamed = ["".join(message.text) for message in stream.messages]
    said = stream.output["messages"]
    assert kinds(said) == ["human", "ai", "tool", "ai"]
    assert said[1].tool_calls[0]["args"] == {"city": "Rome"}
    assert said[-1].text.strip() == streamed[-1].strip() == "The weather tool says: sunny."
    asked, replied, told = sent.last.json["messages"]
    assert (asked["role"], replied["role"], told["role"]) == ("user", "assistant", "tool")
    assert replied["tool_calls"][0]["function"]["name"] == "get_weather"
    assert bool((replied.get("reasoning") or "").strip()) is thinking
    assert not replied["content"] or all(part["type"] == "text" for part in replied["content"])


async def test_an_agent_streams_events(llm):
    agent = create_agent(llm, tools=[get_weather])
    events = [event async for event in agent.astream_events(WEATHER, FEW_STEPS, version="v2")]
    ended = [event["data"]["output"] for event in events if event["event"] == "on_chat_model_end"]
    assert ended[0].tool_calls[0]["args"] == {"city": "Rome"}
    assert ended[-1].text == "The weather tool says: sunny."
    assert [event["data"]["output"].text for event in events if event["event"] == "on_tool_end"] == ["sunny"]


def test_an_agent_remembers_its_thread(llm):
    agent = create_agent(llm, checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": [("user", "My name is Ada.")]}, thread)
    said = agent.invoke({"messages": [("user", "What is my name?")]}, thread)["messages"]
    assert "Ada" in said[-1].text
    assert len(said) == 4


def test_a_tool_that_fails_is_tried_again(llm):
    tries = []

    @tool("get_weather")
    def flaky(city: str) -> str:
        """The weather in a city."""
        tries.append(city)
        if len(tries) == 1:
            raise ConnectionError("no answer")
        return "sunny"

    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0.0)
    said = create_agent(llm, tools=[flaky], middleware=[retry]).invoke(WEATHER, FEW_STEPS)["messages"]
    assert tries == ["Rome", "Rome"]
    assert said[-1].text == "The weather tool says: sunny."


LONG = [
    message
    for number in range(8)
    for message in (HumanMessage(f"Count to {number}. " + "The sea is wide. " * 60), AIMessage("1, 2, 3."))
]


# Stock ChatOpenAI: "fraction" needs a profile it has not, and a prompt that is too long is an unknown 400.
@pytest.mark.parametrize("trim", [400, None], ids=["trimmed", "overflowing"])
def test_a_long_conversation_is_summarised(sent, trim):
    llm = ChatVLLM.from_server(temperature=0, max_retries=0, max_tokens=40)
    short = SummarizationMiddleware(
        llm,
        trigger=[("fraction", 0.8), ("messages", 10)],
        keep=("messages", 2),
        trim_tokens_to_summarize=trim,
        summary_prompt="{messages}",
        **({} if trim else {"token_counter": llm.get_num_tokens_from_messages}),
    )
    asked = [*LONG, HumanMessage("What is the capital of Japan?")]
    said = create_agent(llm, middleware=[short]).invoke({"messages": asked}, FEW_STEPS)["messages"]
    assert said[-1].text == "The capital of Japan is Tokyo."
    assert len(said) < len(LONG)
    assert "summary" in said[0].text
    lengths = [len(str(body["messages"])) for body in sent.bodies("/v1/chat/completions")]
    if trim is None:
        first, second, _ = lengths
        assert first > second, "the summary was asked for again, with less to read"
    else:
        assert len(lengths) == 2


def test_a_graph_of_ones_own(llm):
    bound = llm.bind_tools([get_weather])
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": bound.invoke(state["messages"])})
    graph.add_node("tools", ToolNode([get_weather]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    said = graph.compile().invoke({"messages": [SystemMessage("Be brief."), ("user", "What is the weather in Oslo?")]})
    assert kinds(said["messages"]) == ["system", "human", "ai", "tool", "ai"]
    assert said["messages"][-1].text == "The weather tool says: sunny."


# Stock ChatOpenAI hands the tool {} or half an argument.
def test_a_call_that_is_cut_does_not_reach_the_tool(sent):
    ran = []

    @tool("get_weather")
    def weather(city: str = "nowhere") -> str:
        """The weather in a city."""
        ran.append(city)
        return "sunny"

    llm = ChatVLLM(temperature=0, max_retries=0, max_tokens=20, streaming=True)
    said = create_agent(llm, tools=[weather]).invoke(WEATHER, FEW_STEPS)["messages"]
    assert ran == []
    assert kinds(said) == ["human", "ai"]
    assert said[-1].invalid_tool_calls[0]["name"] == "get_weather"
    assert len(sent.bodies("/v1/chat/completions")) == 1
