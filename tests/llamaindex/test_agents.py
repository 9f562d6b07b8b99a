"""LlamaIndex's agents, with tools, on a real vLLM."""

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.agent.workflow import (
    AgentStream,
    AgentWorkflow,
    FunctionAgent,
    ReActAgent,
    ToolCall,
    ToolCallResult,
)
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.prompts import PromptTemplate
from version_marks import constraint_is_enforced, reasoning_is_parsed, streamed_call_is_parsed

from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLM

pytestmark = pytest.mark.vllm("tiny")

CHAT = "/v1/chat/completions"


def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture
def llm():
    return VLLM(temperature=0, max_retries=0, max_tokens=100)


async def events_of(handler):
    return [event async for event in handler.stream_events()]


@pytest.mark.parametrize("streaming", [True, False])
@streamed_call_is_parsed.with_args(only="True")
async def test_function_agent_calls_a_tool(llm, sent, streaming):
    # Stock: runs if is_chat_model and is_function_calling_model are set.
    agent = FunctionAgent(tools=[get_weather, add], llm=llm, system_prompt="Use tools.", streaming=streaming)
    handler = agent.run("What is the weather in Rome?")
    events = await events_of(handler)
    reply = await handler
    assert "sunny" in str(reply)
    calls = [event for event in events if type(event) is ToolCall]
    assert [(call.tool_name, call.tool_kwargs) for call in calls] == [("get_weather", {"city": "Rome"})]
    results = [event for event in events if isinstance(event, ToolCallResult)]
    assert [result.tool_output.content for result in results] == ["sunny"]
    if streaming:
        text = "".join(event.delta for event in events if isinstance(event, AgentStream))
        assert "sunny" in text
    first, second = sent.bodies(CHAT)
    assert [tool["function"]["name"] for tool in first["tools"]] == ["get_weather", "add"]
    assert second["messages"][-1]["content"] == "sunny"
    assert second["messages"][-1]["tool_call_id"] == second["messages"][-2]["tool_calls"][0]["id"]


@streamed_call_is_parsed
async def test_function_agent_calls_two_tools(llm):
    agent = FunctionAgent(tools=[get_weather, add], llm=llm)
    handler = agent.run("What is the weather in Rome and Oslo?")
    events = await events_of(handler)
    await handler
    assert [event.tool_kwargs for event in events if type(event) is ToolCall] == [{"city": "Rome"}, {"city": "Oslo"}]


@reasoning_is_parsed
async def test_agent_reports_and_replays_thinking(sent):
    llm = VLLM(temperature=0, max_tokens=100, chat_template_kwargs={"enable_thinking": True}, replay_reasoning=True)
    agent = FunctionAgent(tools=[get_weather], llm=llm)
    handler = agent.run("What is the weather in Rome?")
    events = await events_of(handler)
    await handler
    thought = "".join(event.thinking_delta or "" for event in events if isinstance(event, AgentStream))
    assert thought.strip()
    replayed = [message["reasoning"] for message in sent.last.json["messages"] if "reasoning" in message]
    assert replayed
    assert replayed[0] in thought


@streamed_call_is_parsed
async def test_workflow_of_agents(llm, sent):
    weather = FunctionAgent(name="weather", description="Knows the weather.", tools=[get_weather], llm=llm)
    sums = FunctionAgent(name="sums", description="Adds.", tools=[add], llm=llm)
    workflow = AgentWorkflow(agents=[sums, weather], root_agent="sums")
    handler = workflow.run("Add 17 and 4")
    events = await events_of(handler)
    assert "21" in str(await handler)
    assert [event.tool_name for event in events if type(event) is ToolCall] == ["add"]
    assert {tool["function"]["name"] for tool in sent.bodies(CHAT)[0]["tools"]} == {"add", "handoff"}


@constraint_is_enforced
async def test_react_agent(llm, sent):
    # This model has not learned the format of ReAct: a regex enforces it.
    step = r"Thought: I can answer without using any more tools\.\nAnswer: [a-z]{1,8}\."
    llm.structured_outputs = {"regex": step}
    agent = ReActAgent(tools=[get_weather], llm=llm)
    reply = await agent.run("What is the weather in Rome?")
    assert str(reply).endswith(".")
    assert "get_weather" in sent.last.json["messages"][0]["content"]


async def test_truncated_tool_call_stops_the_agent(llm):
    llm.max_tokens = 12
    agent = FunctionAgent(tools=[add], llm=llm, initial_tool_choice="add")
    with pytest.raises(e.TruncatedOutput):
        await agent.run("Add 17 and 4")


async def test_chat_engine(llm, sent):
    engine = SimpleChatEngine.from_defaults(llm=llm, system_prompt="Be brief.")
    engine.chat("My name is Ada")
    assert "Ada" in str(await engine.achat("What is my name?"))
    streamed = engine.stream_chat("Hello")
    assert "".join(streamed.response_gen)
    assert [message["role"] for message in sent.last.json["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]


async def test_predict_sends_the_system_prompt(sent):
    llm = VLLM(temperature=0, system_prompt="Be brief.")
    prompt = PromptTemplate("What is the capital of {country}?")
    assert "Tokyo" in llm.predict(prompt, country="Japan")
    assert "Tokyo" in await llm.apredict(prompt, country="Japan")
    assert "Tokyo" in "".join(llm.stream(prompt, country="Japan"))
    for body in sent.bodies(CHAT):
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    llm.chat([ChatMessage(content="Hello")])
    assert [message["role"] for message in sent.last.json["messages"]] == ["user"]
