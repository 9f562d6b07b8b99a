"""Haystack's Agent, fallback, compaction and tracing with VLLMChatGenerator."""

import asyncio
import contextlib
import time
from typing import Annotated

import pytest
from haystack import Pipeline, tracing
from haystack.components.agents import Agent, State
from haystack.components.generators.chat import FallbackChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.hooks import hook
from haystack.hooks.compaction import CompactionHook, SlidingWindowCompactor
from haystack.tools import tool
from version_marks import streamed_call_is_parsed

from vllm_adapters.haystack import VLLMChatGenerator, VLLMTokenCounter
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
CAPITAL = ChatMessage.from_user("What is the capital of Japan?")
TOKYO = "The capital of Japan is Tokyo."
TRUNCATED = faults.sse(*payloads.chat_chunks("one two", finish_reason=None), end="clean")


@tool
def get_weather(city: Annotated[str, "The city"]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.mark.vllm("tiny")
@pytest.mark.parametrize("is_async", [False, True], ids=["run", "run_async"])
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@streamed_call_is_parsed.with_args(only="stream")
def test_agent_runs_tools(llm, sent, is_async, streams):
    agent = Agent(chat_generator=llm, tools=[get_weather])
    chunks = []
    inputs = {"streaming_callback": chunks.append} if streams else {}
    prompt = [ChatMessage.from_user("What is the weather in Rome?")]
    output = asyncio.run(agent.run_async(prompt, **inputs)) if is_async else agent.run(prompt, **inputs)
    messages = output["messages"]
    assert [message.role.value for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1].tool_call.arguments == {"city": "Rome"}
    assert "sunny" in output["last_message"].text
    bodies = sent.bodies(CHAT)
    assert [body["stream"] for body in bodies] == [streams, streams]
    used = [message.meta["usage"]["total_tokens"] for message in messages if message.role.value == "assistant"]
    assert output["token_usage"]["total_tokens"] == sum(used) > 0
    if streams:
        assert "".join(chunk.content for chunk in chunks).endswith(output["last_message"].text)


@pytest.fixture(params=["run", "run_async"])
def run_agent(request, stub_llm):
    """Runs an agent whose model is the fault server."""
    agent = Agent(chat_generator=stub_llm, tools=[get_weather], max_agent_steps=4)
    messages = [ChatMessage.from_user("What is the weather?")]
    return lambda: agent.run(messages) if request.param == "run" else asyncio.run(agent.run_async(messages))


def reply_with_calls(*arguments, **fields):
    calls = [{**payloads.tool_call("get_weather", text), **fields} for text in arguments]
    return faults.chat(tool_calls=calls, finish_reason="tool_calls")


@pytest.mark.parametrize("id", [None, ""])
def test_tool_calls_without_ids_get_their_results(fault_server, run_agent, id):
    # Haystack would raise ValueError when it sends them back, after the tools were run.
    fault_server.script(CHAT, [reply_with_calls('{"city": "Rome"}', '{"city": "Oslo"}', id=id)])
    run_agent()
    _, assistant, *results = fault_server.posts(CHAT)[-1].json["messages"]
    ids = [call["id"] for call in assistant["tool_calls"]]
    assert all(ids)
    assert len(set(ids)) == 2
    assert [(result["tool_call_id"], result["content"]) for result in results] == [
        (ids[0], "sunny in Rome"),
        (ids[1], "sunny in Oslo"),
    ]


def test_invalid_tool_calls_send_no_empty_turns(fault_server, run_agent):
    fault_server.reply(reply_with_calls('{"city": "Ro'))
    assert run_agent()["exit_reason"] == "max_agent_steps"
    assert [len(request.json["messages"]) for request in fault_server.posts(CHAT)] == [1, 1, 1, 1]


def test_agent_rejects_a_truncated_stream(stub_llm, fault_server):
    fault_server.reply(TRUNCATED)
    agent = Agent(chat_generator=stub_llm, tools=[get_weather])
    with pytest.raises(Exception, match="The stream ended early"):
        agent.run([ChatMessage.from_user("hi")], streaming_callback=[].append)


@pytest.mark.vllm("tiny")
def test_fallback_generator(llm, sent):
    wrong = VLLMChatGenerator(model="nope", max_retries=0)
    output = FallbackChatGenerator([wrong, llm]).run([CAPITAL])
    assert output["replies"][0].text == TOKYO
    assert output["meta"]["failed_chat_generators"] == ["VLLMChatGenerator"]
    assert [body["model"] for body in sent.bodies(CHAT)] == ["nope", "tiny"]


def test_truncated_stream_falls_back(make_fault_server, run_component):
    truncated, healthy = make_fault_server(), make_fault_server()
    truncated.reply(TRUNCATED)
    generators = [VLLMChatGenerator(api_base_url=server.url, max_retries=0) for server in (truncated, healthy)]
    output = run_component(FallbackChatGenerator(generators), "hello", streaming_callback=[].append)
    assert output["replies"][0].text == "hello"
    assert output["meta"]["successful_chat_generator_index"] == 1


@pytest.mark.vllm("tiny")
@pytest.mark.filterwarnings("ignore:.*experimental component")
def test_compaction_with_the_token_counter(llm, sent):
    counter = VLLMTokenCounter(max_retries=0)
    size = counter.count([CAPITAL])
    hook = CompactionHook(SlidingWindowCompactor(), context_window=size, compact_at=0.9, token_counter=counter)
    agent = Agent(chat_generator=llm, hooks={"before_llm": [hook]}, tools=[get_weather])
    history = [ChatMessage.from_user("Hello"), ChatMessage.from_assistant("Hello! How can I help?")]
    output = agent.run([*history, CAPITAL])
    assert output["last_message"].text == TOKYO
    texts = [message["content"] for message in sent.bodies(CHAT)[0]["messages"]]
    assert "Hello" not in texts
    assert texts[-1] == CAPITAL.text
    hook.close()


class Span(tracing.Span):
    def __init__(self):
        self.tags = {}

    def set_tag(self, key, value):
        self.tags[key] = value


class Tracer(tracing.Tracer):
    def __init__(self):
        self.spans = []

    @contextlib.contextmanager
    def trace(self, operation_name, tags=None, parent_span=None):
        span = Span()
        span.set_tags(tags or {})
        self.spans.append(span)
        yield span

    def current_span(self):
        return None


@pytest.mark.vllm("tiny")
def test_traces_have_model_and_usage(llm, monkeypatch):
    tracer = Tracer()
    monkeypatch.setattr(tracing.tracer, "is_content_tracing_enabled", True)
    tracing.enable_tracing(tracer)
    try:
        pipe = Pipeline()
        pipe.add_component("llm", llm)
        pipe.run({"llm": {"messages": [CAPITAL]}})
    finally:
        tracing.disable_tracing()
    (span,) = [span for span in tracer.spans if span.tags.get("haystack.component.name") == "llm"]
    assert span.tags["haystack.component.type"] == "VLLMChatGenerator"
    (reply,) = span.tags["haystack.component.output"]["replies"]
    assert reply.meta["model"] == "tiny"
    assert reply.meta["usage"]["completion_tokens"] > 0


@pytest.fixture(params=["run", "run_async"])
def run_once(request):
    """Runs an agent, sync or async, and returns its output."""

    def run(agent, *messages):
        if request.param == "run":
            return agent.run(list(messages))
        return asyncio.run(agent.run_async(list(messages)))

    return run


def test_agent_that_recovers_from_an_invalid_call_sends_no_empty_turn(stub_llm, fault_server, run_once):
    fault_server.script(CHAT, [reply_with_calls('{"city": "Ro'), reply_with_calls('{"city": "Rome"}')])
    agent = Agent(chat_generator=stub_llm, tools=[get_weather], max_agent_steps=4)
    messages = run_once(agent, CAPITAL)["messages"]
    assert [message.tool_call_result.result for message in messages if message.tool_call_result] == ["sunny in Rome"]
    last = fault_server.posts(CHAT)[-1].json["messages"]
    assert [message["role"] for message in last] == ["user", "assistant", "tool"]
    assert last[1]["tool_calls"]


def test_empty_reply_before_a_users_turn_is_kept(stub_llm, fault_server):
    # Templates refuse two turns of the user in a row.
    stub_llm.run([CAPITAL, ChatMessage.from_assistant(""), ChatMessage.from_assistant(""), CAPITAL])
    roles = [message["role"] for message in fault_server.posts(CHAT)[0].json["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_usage_of_several_replies_is_counted_once(stub_llm, fault_server, run_once):
    whole = payloads.chat("one two")
    fault_server.reply(faults.json_reply({**whole, "choices": [{**whole["choices"][0], "index": at} for at in (0, 1)]}))
    stub_llm.generation_kwargs = {"n": 2}
    (first, second) = stub_llm.run([CAPITAL])["replies"]
    assert first.meta["usage"]["total_tokens"] > 0
    assert second.meta["usage"] == {}
    output = run_once(Agent(chat_generator=stub_llm), CAPITAL)
    assert output["token_usage"] == first.meta["usage"]


@pytest.mark.parametrize("at", ["constructor", "run"])
def test_tools_strict(stub_llm, fault_server, run_once, at):
    if at == "constructor":
        stub_llm.tools_strict = True
        run_once(Agent(chat_generator=stub_llm, tools=[get_weather]), CAPITAL)
    else:
        stub_llm.run([CAPITAL], tools=[get_weather], tools_strict=True)
        stub_llm.tools_strict = True
        stub_llm.run([CAPITAL], tools=[get_weather], tools_strict=False)
        assert "strict" not in fault_server.posts(CHAT)[1].json["tools"][0]["function"]
    body = fault_server.posts(CHAT)[0].json
    (function,) = (offered["function"] for offered in body["tools"])
    assert function == {**get_weather.tool_spec, "strict": True}
    assert "tool_choice" not in body


@pytest.mark.vllm("tiny")
def test_agent_calls_strict_tools(llm, sent):
    llm.tools_strict = True
    output = Agent(chat_generator=llm, tools=[get_weather]).run([ChatMessage.from_user("What is the weather in Rome?")])
    assert "sunny in Rome" in [m.tool_call_result.result for m in output["messages"] if m.tool_call_result]
    assert [body["tools"][0]["function"]["strict"] for body in sent.bodies(CHAT)] == [True, True]


@pytest.mark.filterwarnings("ignore:.*experimental component")
async def test_compaction_in_a_thread_leaves_the_event_loop_free(make_fault_server):
    server = make_fault_server(delay=0.5)
    counter = VLLMTokenCounter(api_base_url=server.url)
    compaction = CompactionHook(SlidingWindowCompactor(), context_window=4096, token_counter=counter)

    @hook
    async def compact(state: State) -> None:
        """Compact the conversation."""
        await asyncio.to_thread(compaction.run, state)

    agent = Agent(
        chat_generator=VLLMChatGenerator(api_base_url=server.url), tools=[get_weather], hooks={"before_llm": [compact]}
    )
    run = asyncio.ensure_future(agent.run_async([CAPITAL]))
    longest, last = 0.0, time.monotonic()
    while not run.done():
        await asyncio.sleep(0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert (await run)["last_message"].text
    assert len(server.posts("/tokenize")) == 1
    assert longest < 0.4
