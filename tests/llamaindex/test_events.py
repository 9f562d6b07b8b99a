"""LlamaIndex's instrumentation: each call of ``VLLM`` emits its events and its span once."""

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel, Field

from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLM

pytestmark = pytest.mark.vllm("tiny")

PROMPT = PromptTemplate("Give me {name} as json")
ROME = {"name": "Rome"}


class City(BaseModel):
    """A city with a number."""

    city: str
    n: int = Field(ge=0, le=9)


@pytest.fixture
def llm():
    return VLLM(temperature=0, max_retries=0, max_tokens=120, system_prompt="You are a map.")


async def test_events_of_structured_predict(llm, events):
    llm.structured_predict(City, PROMPT, **ROME)
    await llm.astructured_predict(City, PROMPT, **ROME)
    list(llm.stream_structured_predict(City, PROMPT, **ROME))
    [city async for city in await llm.astream_structured_predict(City, PROMPT, **ROME)]
    for name in ("LLMStructuredPredict", "LLMChat"):
        assert (events.names.count(f"{name}StartEvent"), events.names.count(f"{name}EndEvent")) == (4, 4)
    assert events.names.count("LLMStructuredPredictInProgressEvent") > 4


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
