"""VLLMTokenCounter: the counts of a real server, and what is sent for them."""

import asyncio
import base64
import gc
import pickle
import time
import tracemalloc
from typing import Annotated

import pytest
from haystack.dataclasses import ChatMessage, ImageContent, ToolCall
from haystack.tools import Toolset, tool
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


def test_counts_do_not_hold_conversations(fault_server):
    image = ImageContent(base64_image=base64.b64encode(bytes(300_000)).decode(), mime_type="image/png")
    counter = VLLMTokenCounter(api_base_url=fault_server.url)
    counter.count(HELLO)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20):
            counter.count([ChatMessage.from_user(content_parts=[image, f"turn {number}"])])
            fault_server.requests.clear()
        gc.collect()  # exchanges of the server are cycles
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 3_000_000  # 20 conversations have 8 MB


async def test_count_async(fault_server):
    counter = VLLMTokenCounter(api_base_url=fault_server.url)
    messages = [ChatMessage.from_system("be brief"), ChatMessage.from_user("one two three")]
    part = [ChatMessage.from_assistant("one two three")]
    assert await counter.count_async([]) == 0
    counts = [await counter.count_async(messages, [get_weather]), await counter.count_async(part)]
    assert counts == [counter.count(messages, [get_weather]), counter.count(part)]
    assert len(fault_server.posts("/tokenize")) == 3, "both have the same cache"
    await counter.close_async()


async def test_count_async_leaves_the_event_loop_free(make_fault_server):
    counter = VLLMTokenCounter(api_base_url=make_fault_server(delay=0.5).url)
    counting = asyncio.ensure_future(counter.count_async(HELLO))
    longest, last = 0.0, time.monotonic()
    while not counting.done():
        await asyncio.sleep(0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert await counting > 0
    assert longest < 0.4


def test_messages_and_tools_are_counted_as_they_are_sent(fault_server):
    reply = ChatMessage.from_assistant("yes", reasoning="because")
    messages = [*HELLO, reply, *HELLO]
    for options in ({}, {"tools_strict": True, "replay_reasoning": True}):
        VLLMTokenCounter(api_base_url=fault_server.url, **options).count(messages, [get_weather])
        VLLMChatGenerator(api_base_url=fault_server.url, **options).run(messages, tools=[get_weather])
    counted = [request.json for request in fault_server.posts("/tokenize")]
    sent = [request.json for request in fault_server.posts("/v1/chat/completions")]
    for one, other in zip(counted, sent, strict=True):
        assert (one["messages"], one["tools"]) == (other["messages"], other["tools"])
    assert "reasoning" not in counted[0]["messages"][1]
    assert counted[1]["messages"][1]["reasoning"] == "because"
    assert counted[1]["tools"][0]["function"]["strict"] is True
    saved = VLLMTokenCounter(tools_strict=True, replay_reasoning=True).to_dict()
    assert VLLMTokenCounter.from_dict(saved).tools_strict is VLLMTokenCounter.from_dict(saved).replay_reasoning is True


@pytest.mark.vllm("tiny")
@pytest.mark.parametrize("options", [{"tools_strict": True}, {"replay_reasoning": True}], ids=str)
def test_counts_equal_usage_with_the_options_of_the_generator(sent, options):
    reply = ChatMessage.from_assistant("It is sunny.", reasoning="The user asks about Rome.")
    messages = [ChatMessage.from_user("What is the weather in Rome?"), reply, ChatMessage.from_user("Thanks")]
    llm = VLLMChatGenerator(generation_kwargs={"temperature": 0}, max_retries=0, **options)
    (answer,) = llm.run(messages, tools=[get_weather])["replies"]
    counter = VLLMTokenCounter(max_retries=0, **options)
    assert counter.count(messages, [get_weather]) == answer.meta["usage"]["prompt_tokens"]


def test_lazy_tools_are_counted(fault_server):
    class Lazy(Toolset):
        def warm_up(self):
            if not self.tools:
                self.add(get_weather)

    VLLMTokenCounter(api_base_url=fault_server.url).count(HELLO, Lazy([]))
    (request,) = fault_server.posts("/tokenize")
    assert [offered["function"]["name"] for offered in request.json["tools"]] == ["get_weather"]
