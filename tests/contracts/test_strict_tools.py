"""``tools_strict=True`` with the agents of all frameworks: a real server then enforces the arguments' schema.

The city is none of those that the schema allows, so that only an enforced schema leads to one of them.
"""

import asyncio
import json
from typing import Literal

import pytest
from version_marks import not_enforced_before

CHAT = "/v1/chat/completions"
ROME = "What is the weather in Rome?"


def weather(city: Literal["Oslo", "Lima"]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def cities_langchain(strict, streams):
    pytest.importorskip("langchain_openai")
    from vllm_adapters import langchain

    agents = pytest.importorskip("langchain.agents")
    cities = []

    def get_weather(city: Literal["Oslo", "Lima"]) -> str:
        """The weather in a city."""
        cities.append(city)
        return weather(city)

    llm = langchain.ChatVLLM(temperature=0, max_tokens=100, max_retries=0, tools_strict=strict)
    agent = agents.create_agent(llm, tools=[get_weather])
    inputs = {"messages": [{"role": "user", "content": ROME}]}
    if streams:
        list(agent.stream(inputs, {"recursion_limit": 8}, stream_mode="messages"))
    else:
        agent.invoke(inputs, {"recursion_limit": 8})
    return cities


def cities_llamaindex(strict, streams):
    pytest.importorskip("llama_index.llms.openai_like")
    from llama_index.core.agent.workflow import FunctionAgent

    from vllm_adapters import llamaindex

    cities = []

    def get_weather(city: Literal["Oslo", "Lima"]) -> str:
        """The weather in a city."""
        cities.append(city)
        return weather(city)

    async def run():
        llm = llamaindex.VLLM(temperature=0, max_tokens=100, max_retries=0, tools_strict=strict)
        await FunctionAgent(tools=[get_weather], llm=llm, streaming=streams).run(ROME)

    asyncio.run(run())
    return cities


def cities_haystack(strict, streams):
    pytest.importorskip("haystack")
    from haystack.components.agents import Agent
    from haystack.dataclasses import ChatMessage
    from haystack.tools import create_tool_from_function

    from vllm_adapters import haystack

    cities = []

    def get_weather(city: Literal["Oslo", "Lima"]) -> str:
        """The weather in a city."""
        cities.append(city)
        return weather(city)

    llm = haystack.VLLMChatGenerator(
        tools_strict=strict, max_retries=0, generation_kwargs={"temperature": 0, "max_tokens": 100}
    )
    agent = Agent(chat_generator=llm, tools=[create_tool_from_function(get_weather)], max_agent_steps=3)
    callback = {"streaming_callback": lambda chunk: None} if streams else {}
    agent.run([ChatMessage.from_user(ROME)], **callback)
    return cities


AGENTS = {"create_agent": cities_langchain, "FunctionAgent": cities_llamaindex, "Agent": cities_haystack}


@pytest.mark.vllm("tiny")
@not_enforced_before("0.30", match=r"^assert (\[\]|\{'Rome'\} <=)")  # no call, or any city
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("agent", list(AGENTS))
def test_agent_with_strict_tools_calls_with_an_allowed_city(sent, agent, streams):
    cities = AGENTS[agent](True, streams)
    assert cities
    assert set(cities) <= {"Oslo", "Lima"}
    for body in sent.bodies(CHAT):
        assert [tool["function"]["strict"] for tool in body["tools"]] == [True]
        assert body.get("tool_choice", "auto") == "auto"
        assert bool(body.get("stream")) is streams


@pytest.mark.vllm("tiny")
@pytest.mark.parametrize("agent", list(AGENTS))
def test_agent_with_other_tools_calls_with_the_city_of_the_question(sent, agent):
    AGENTS[agent](False, False)
    question, *others = sent.bodies(CHAT)
    assert all(tool["function"].get("strict") is not True for tool in question["tools"])
    calls = [call for body in others for message in body["messages"] for call in message.get("tool_calls") or []]
    assert "Rome" in {json.loads(call["function"]["arguments"])["city"] for call in calls}
