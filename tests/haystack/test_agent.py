"""Haystack's Agent, fallback, compaction and tracing with VLLMChatGenerator on a real vLLM."""

import asyncio
import contextlib

import pytest

pytest.importorskip("haystack")

from typing import Annotated

from haystack import Pipeline, tracing
from haystack.components.agents import Agent
from haystack.components.generators.chat import FallbackChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.hooks.compaction import CompactionHook, SlidingWindowCompactor
from haystack.tools import tool

from vllm_adapters.haystack import VLLMChatGenerator, VLLMTokenCounter

pytestmark = pytest.mark.vllm("tiny")

CHAT = "/v1/chat/completions"
CAPITAL = ChatMessage.from_user("What is the capital of Japan?")
TOKYO = "The capital of Japan is Tokyo."


@tool
def get_weather(city: Annotated[str, "The city"]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def generator(**options):
    return VLLMChatGenerator(generation_kwargs={"temperature": 0}, max_retries=0, **options)


@pytest.mark.parametrize("is_async", [False, True], ids=["run", "run_async"])
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_an_agent_with_tools(sent, is_async, streams):
    agent = Agent(chat_generator=generator(), tools=[get_weather])
    chunks = []
    inputs = {"streaming_callback": chunks.append} if streams else {}
    asked = [ChatMessage.from_user("What is the weather in Rome?")]
    found = asyncio.run(agent.run_async(asked, **inputs)) if is_async else agent.run(asked, **inputs)
    assert [message.role.value for message in found["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert found["messages"][1].tool_call.arguments == {"city": "Rome"}
    assert "sunny" in found["last_message"].text
    bodies = sent.bodies(CHAT)
    assert [body["stream"] for body in bodies] == [streams, streams]
    used = [message.meta["usage"]["total_tokens"] for message in found["messages"] if message.role.value == "assistant"]
    assert found["token_usage"]["total_tokens"] == sum(used) > 0
    if streams:
        assert "".join(chunk.content for chunk in chunks).endswith(found["last_message"].text)


def test_a_fallback(sent):
    wrong = VLLMChatGenerator(model="nope", max_retries=0)
    found = FallbackChatGenerator([wrong, generator()]).run([CAPITAL])
    assert found["replies"][0].text == TOKYO
    assert found["meta"]["failed_chat_generators"] == ["VLLMChatGenerator"]
    assert [body["model"] for body in sent.bodies(CHAT)] == ["nope", "tiny"]


def test_counts_are_those_of_usage(sent):
    messages = [ChatMessage.from_system("Be brief."), ChatMessage.from_user("What is the weather in Rome?")]
    counter = VLLMTokenCounter(max_retries=0)
    for tools in (None, [get_weather]):
        (reply,) = generator().run(messages, tools=tools)["replies"]
        for _ in range(2):
            assert counter.count(messages, tools) == reply.meta["usage"]["prompt_tokens"]
    assert len(sent.to("/tokenize")) == 2
    assert counter.count([]) == 0


@pytest.mark.filterwarnings("ignore:.*experimental component")
def test_compaction_by_the_models_own_count(sent):
    counter = VLLMTokenCounter(max_retries=0)
    size = counter.count([CAPITAL])
    hook = CompactionHook(SlidingWindowCompactor(), context_window=size, compact_at=0.9, token_counter=counter)
    agent = Agent(chat_generator=generator(), hooks={"before_llm": [hook]}, tools=[get_weather])
    history = [ChatMessage.from_user("Hello"), ChatMessage.from_assistant("Hello! How can I help?")]
    found = agent.run([*history, CAPITAL])
    assert found["last_message"].text == TOKYO
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


def test_what_tracers_see(monkeypatch):
    tracer = Tracer()
    monkeypatch.setattr(tracing.tracer, "is_content_tracing_enabled", True)
    tracing.enable_tracing(tracer)
    try:
        pipe = Pipeline()
        pipe.add_component("llm", generator())
        pipe.run({"llm": {"messages": [CAPITAL]}})
    finally:
        tracing.disable_tracing()
    (span,) = [span for span in tracer.spans if span.tags.get("haystack.component.name") == "llm"]
    assert span.tags["haystack.component.type"] == "VLLMChatGenerator"
    (reply,) = span.tags["haystack.component.output"]["replies"]
    assert reply.meta["model"] == "tiny"
    assert reply.meta["usage"]["completion_tokens"] > 0
