"""VLLMTokenCounter: the counts of a real server, and what is sent for them."""

import pickle
from typing import Annotated

import pytest
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import tool
from haystack.utils import Secret

from vllm_adapters import errors as e
from vllm_adapters.haystack import VLLMChatGenerator, VLLMTokenCounter
from vllm_adapters.testing import faults, payloads

HELLO = [ChatMessage.from_user("one two")]


@tool
def get_weather(city: Annotated[str, "The city"]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.mark.vllm("tiny")
def test_counts_equal_usage(sent):
    messages = [ChatMessage.from_system("Be brief."), ChatMessage.from_user("What is the weather in Rome?")]
    counter = VLLMTokenCounter(max_retries=0)
    for tools in (None, [get_weather]):
        llm = VLLMChatGenerator(generation_kwargs={"temperature": 0}, max_retries=0)
        (reply,) = llm.run(messages, tools=tools)["replies"]
        for _ in range(2):
            assert counter.count(messages, tools) == reply.meta["usage"]["prompt_tokens"]
    assert len(sent.to("/tokenize")) == 2
    assert counter.count([]) == 0


def test_requests_are_cached(fault_server):
    counter = VLLMTokenCounter(api_base_url=fault_server.url, extra_parameters={"chat_template_kwargs": {"a": 1}})
    assert counter.count([]) == 0
    messages = [ChatMessage.from_system("be brief"), ChatMessage.from_user("one two three")]
    assert counter.count(messages, [get_weather]) == counter.count(messages, [get_weather]) > 0
    (body,) = (request.json for request in fault_server.posts("/tokenize"))
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["tools"][0]["function"]["name"] == "get_weather"
    assert body["chat_template_kwargs"] == {"a": 1}
    counter.close()
    counter.count(messages, [get_weather])
    assert len(fault_server.posts("/tokenize")) == 2


def test_parts_of_a_conversation_are_counted_within_one(fault_server):
    # Templates such as Qwen3.5's raise without a user message, or when a system message comes later.
    async def count(exchange):
        text = " ".join(message["content"] for message in exchange.request.json["messages"])
        await faults.json_reply(payloads.tokenized(text))(exchange)

    fault_server.reply(count, path="/tokenize")
    counter = VLLMTokenCounter(api_base_url=fault_server.url)
    call = ToolCall(id="1", tool_name="add", arguments={})
    assert counter.count([ChatMessage.from_tool("four five six", origin=call)]) > 0
    assert counter.count([ChatMessage.from_system("be brief"), ChatMessage.from_assistant("yes")]) > 0
    for request in fault_server.posts("/tokenize"):
        roles = [message["role"] for message in request.json["messages"]]
        assert roles in (["user"], ["user", "tool"], ["system", "user", "assistant"])


@pytest.mark.parametrize("name", ["model", "messages", "tools", "prompt"])
def test_reserved_parameters_are_rejected(name):
    with pytest.raises(e.InvalidRequest, match=f"`{name}` cannot be set in `extra_parameters`"):
        VLLMTokenCounter(extra_parameters={name: "x"})


def test_server_without_tokenize(fault_server):
    fault_server.reply(faults.error(404, "Not Found", shape="detail"))
    with pytest.raises(e.WrongAddress):
        VLLMTokenCounter(api_base_url=fault_server.url).count(HELLO)


def test_pickled_counter(make_fault_server, monkeypatch):
    server = make_fault_server(api_key="sk-canary")
    counter = VLLMTokenCounter(api_base_url=server.url, api_key=Secret.from_token("sk-canary"), max_retries=0)
    size = counter.count(HELLO)
    pickled = pickle.dumps(counter)
    assert b"canary" not in pickled
    monkeypatch.setenv("VLLM_API_KEY", "sk-canary")
    assert pickle.loads(pickled).count(HELLO) == size
