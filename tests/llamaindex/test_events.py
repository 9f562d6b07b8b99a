"""LlamaIndex's instrumentation: each call emits its events and its span once, without secrets."""

import asyncio
import json

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank
from vllm_adapters.testing import faults

recorded = pytest.mark.vllm("tiny")

PROMPT = PromptTemplate("Give me {name} as json")
ROME = {"name": "Rome"}


class City(BaseModel):
    """A city with a number."""

    city: str
    n: int = Field(ge=0, le=9)


@pytest.fixture
def llm():
    return VLLM(temperature=0, max_retries=0, max_tokens=120, system_prompt="You are a map.")


@recorded
async def test_events_of_structured_predict(llm, events):
    llm.structured_predict(City, PROMPT, **ROME)
    await llm.astructured_predict(City, PROMPT, **ROME)
    list(llm.stream_structured_predict(City, PROMPT, **ROME))
    [city async for city in await llm.astream_structured_predict(City, PROMPT, **ROME)]
    for name in ("LLMStructuredPredict", "LLMChat"):
        assert (events.names.count(f"{name}StartEvent"), events.names.count(f"{name}EndEvent")) == (4, 4)
    assert events.names.count("LLMStructuredPredictInProgressEvent") > 4


@recorded
async def test_events_of_each_method(events):
    for is_chat_model in (True, False):
        llm = VLLM(temperature=0, max_tokens=2, is_chat_model=is_chat_model)
        llm.chat([ChatMessage(content="Hello")])
        await llm.achat([ChatMessage(content="Hello")])
        list(llm.stream_chat([ChatMessage(content="Hello")]))
        [found async for found in await llm.astream_chat([ChatMessage(content="Hello")])]
        assert (events.names.count("LLMChatStartEvent"), events.names.count("LLMChatEndEvent")) == (4, 4)
        events.events.clear()
        llm.complete("Hello")
        await llm.acomplete("Hello")
        list(llm.stream_complete("Hello"))
        [found async for found in await llm.astream_complete("Hello")]
        assert (events.names.count("LLMCompletionStartEvent"), events.names.count("LLMCompletionEndEvent")) == (4, 4)
        assert not [name for name in events.names if name.startswith("LLMChat")]
        events.events.clear()


@recorded
async def test_spans(llm):
    spans, root = SimpleSpanHandler(), get_dispatcher()
    root.add_span_handler(spans)
    llm.complete("Hello")
    await llm.achat([ChatMessage(content="Hello")])
    list(llm.stream_chat([ChatMessage(content="Hello")]))
    [found async for found in await llm.astream_complete("Hello")]
    with pytest.raises(e.ModelNotServed):
        llm.complete("Hello", model="nope")
    root.span_handlers.remove(spans)
    names = [span.id_.partition("-")[0] for span in spans.completed_spans]
    assert sorted(names) == ["VLLM.achat", "VLLM.astream_complete", "VLLM.complete", "VLLM.stream_chat"]
    assert [span.id_.partition("-")[0] for span in spans.dropped_spans] == ["VLLM.complete"]
    assert not spans.open_spans


# Secrets of a call


@pytest.fixture
def spans():
    """The arguments of LlamaIndex's spans during the test."""

    class Recorder(SimpleSpanHandler):
        arguments: list = Field(default_factory=list)

        def new_span(self, id_, bound_args, **kwargs):
            self.arguments.append(bound_args.arguments)
            return super().new_span(id_, bound_args, **kwargs)

    recorder, root = Recorder(), get_dispatcher()
    root.add_span_handler(recorder)
    yield recorder
    root.span_handlers.remove(recorder)


SECRETS = {
    "extra_headers": {"Authorization": "Bearer sk-canary", "x-mine": "sk-canary"},
    "extra_query": {"sig": "sk-canary"},
    "cache_salt": "sk-canary-salt",
}


def shown(spans, events, debug):
    """Return what is known to those who trace a call, in every form in which they may write it down."""
    payloads = [pair.payload for pair in debug.get_events()]
    dumped = [event.model_dump() for event in events.events]
    texts = [str(spans.arguments), str(events.events), str(payloads), str(dumped)]
    return "".join(texts) + json.dumps([spans.arguments, dumped, payloads], default=str)


def test_secrets_of_a_call_are_sent_and_not_traced(fault_server, method, is_chat_model, spans, events):
    # Stock: spans, events and callback payloads contain them.
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = VLLM(base_url=fault_server.url, is_chat_model=is_chat_model, callback_manager=CallbackManager([debug]))
    method(llm, **SECRETS)
    request = fault_server.posts()[0]
    assert request.headers["authorization"] == "Bearer sk-canary"
    assert request.path.endswith("?sig=sk-canary")
    assert request.json["cache_salt"] == "sk-canary-salt"
    known = shown(spans, events, debug)
    assert "canary" not in known
    assert "x-mine" in known


def test_secrets_of_tools_and_objects_are_sent_and_not_traced(fault_server, spans, events):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = VLLM(base_url=fault_server.url, callback_manager=CallbackManager([debug]))
    tool = FunctionTool.from_defaults(lambda a: a, name="same", description="Return it.")
    fault_server.reply(faults.chat('{"city": "Rome", "n": 1}'))
    nested = {"llm_kwargs": {**SECRETS, "extra_body": {"cache_salt": "sk-canary-salt"}}}

    async def run():
        await llm.achat_with_tools([tool], "hi", **SECRETS)
        await llm.apredict_and_call([tool], "hi", error_on_no_tool_call=False, **SECRETS)
        await llm.astructured_predict(City, PROMPT, **nested, **ROME)
        [_ async for _ in await llm.astream_structured_predict(City, PROMPT, **nested, **ROME)]

    llm.chat_with_tools([tool], "hi", **SECRETS)
    llm.predict_and_call([tool], "hi", error_on_no_tool_call=False, **SECRETS)
    llm.structured_predict(City, PROMPT, **nested, **ROME)
    list(llm.stream_structured_predict(City, PROMPT, **nested, **ROME))
    asyncio.run(run())
    assert len(fault_server.posts()) == 8
    for request in fault_server.posts():
        assert request.headers["authorization"] == "Bearer sk-canary"
        assert request.json["cache_salt"] == "sk-canary-salt"
    assert "canary" not in shown(spans, events, debug)


# Model names


def test_model_names_are_not_empty(fault_server, events):
    # The name of a model that is served alone is known from the first reply on.
    llm, embedding, rerank = (kind(base_url=fault_server.url) for kind in (VLLM, VLLMEmbedding, VLLMRerank))
    assert llm.metadata.model_name == "unknown"
    for _ in range(2):
        llm.complete("hi")
        embedding.get_text_embedding("a")
        embedding.get_text_embedding_batch(["a"])
        rerank.postprocess_nodes([NodeWithScore(node=TextNode(text="a"))], query_str="q")
    names = {
        name: [event.model_dict["model_name"] for event in events.of(name)]
        for name in ("LLMCompletionStartEvent", "EmbeddingStartEvent")
    }
    assert names["LLMCompletionStartEvent"] == ["unknown", "stub"]
    assert names["EmbeddingStartEvent"] == ["unknown", "stub", "stub", "stub"]
    assert [event.model_name for event in events.of("ReRankStartEvent")] == ["stub", "stub"]
    assert llm.metadata.model_name == "stub"


def test_usage_event_belongs_to_no_span(fault_server, events):
    # OpenInference warns of each event of a span that it does not know.
    VLLMEmbedding(base_url=fault_server.url).get_text_embedding("a")
    (usage,) = events.of("EmbeddingUsageEvent")
    assert usage.span_id is None
    assert usage.embedding_span_id.startswith("VLLMEmbedding._get_text_embedding")
