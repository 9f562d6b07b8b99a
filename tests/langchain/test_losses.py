"""What stock ChatOpenAI loses or gets wrong on a real vLLM, and ChatVLLM does not; named by what is lost.

Each test says once what stock ChatOpenAI does. Other losses have their tests beside those of their feature.
"""

import functools
import operator

import pytest

pytest.importorskip("langchain_openai")

import langchain_core.exceptions as lc
from langchain_core.callbacks import UsageMetadataCallbackHandler, get_usage_metadata_callback
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_core.tracers.langchain import _get_usage_metadata_from_generations
from pydantic import BaseModel

from vllm_adapters import errors as e
from vllm_adapters.langchain import ChatVLLM

pytestmark = pytest.mark.vllm("tiny")

CAPITAL = "What is the capital of Japan?"
THINK = {"enable_thinking": True}


class City(BaseModel):
    """A city with a number."""

    city: str
    n: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.fixture
def llm():
    return ChatVLLM(temperature=0, max_retries=0)


def add_up(chunks):
    return functools.reduce(operator.add, chunks)


# "Missing credentials" before anything is sent.
def test_no_key_is_needed(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert ChatVLLM().invoke("Hello").text


# The call's extra_body replaces the constructor's: top_k and chat_template_kwargs are gone.
def test_extra_body_merges_also_into_structured_output(sent):
    llm = ChatVLLM(temperature=0, extra_body={"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}})
    llm.with_structured_output(City, extra_body={"min_p": 0.1}).invoke("Give me Rome as json")
    body = sent.last.json
    assert (body["top_k"], body["min_p"]) == (5, 0.1)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


# The same 400, but as a class that no framework knows; two constraints in one dict are sent.
def test_two_constraints_are_refused(llm, sent):
    with pytest.raises(lc.ModelInvalidRequestError, match="only use one kind"):
        llm.with_structured_output(City).invoke(CAPITAL, structured_outputs={"choice": ["a", "b"]})
    asked = len(sent.bodies("/v1/chat/completions"))
    with pytest.raises(lc.ModelInvalidRequestError, match="one constraint"):
        llm.invoke(CAPITAL, structured_outputs={"choice": ["a", "b"], "regex": "a"})
    assert len(sent.bodies("/v1/chat/completions")) == asked


# max_tokens is renamed, and errors speak of a parameter that nobody gave.
def test_the_token_limit_keeps_its_name(llm, sent):
    assert llm.invoke("Count to 10", max_tokens=2).usage_metadata["output_tokens"] == 2
    assert sent.last.json["max_tokens"] == 2
    assert "max_completion_tokens" not in sent.last.json
    with pytest.raises(lc.ContextOverflowError, match="max_tokens=100000") as caught:
        llm.invoke("Hello", max_tokens=100000)
    assert caught.value.param == "max_tokens"


# A 400, "`tools` must not be an empty array", which is all that agents without tools get.
@pytest.mark.parametrize("streamed", [False, True])
def test_no_tools_are_no_tools(llm, sent, streamed):
    bound = llm.bind_tools([], parallel_tool_calls=True)
    message = add_up(bound.stream(CAPITAL)) if streamed else bound.invoke(CAPITAL)
    assert message.text == "The capital of Japan is Tokyo."
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & sent.last.json.keys()


# Reasoning is dropped in replies, chunks and history.
def test_reasoning_of_a_tool_loop_is_replayed(sent):
    llm = ChatVLLM(temperature=0, replay_reasoning=True, chat_template_kwargs=THINK).bind_tools([get_weather])
    messages = [HumanMessage("What is the weather in Tokyo?")]
    messages.append(add_up(llm.stream(messages)))
    thought = messages[-1].additional_kwargs["reasoning_content"]
    messages.append(ToolMessage("sunny", tool_call_id=messages[-1].tool_calls[0]["id"]))
    messages[1].tool_calls[0]["id"] = messages[2].tool_call_id = "call-1"  # recordings need the same request
    last = llm.invoke(messages)
    assert "sunny" in last.text
    assert sent.last.json["messages"][1]["reasoning"] == thought
    assert thought.strip()


# Log probabilities come; of a stream only chunk by chunk, and v3 events keep the last chunk's.
@pytest.mark.parametrize("way", ["invoke", "stream", "events"])
def test_log_probabilities(llm, sent, way):
    asked = {"logprobs": True, "top_logprobs": 2}
    if way == "invoke":
        message = llm.invoke(CAPITAL, **asked)
    elif way == "stream":
        message = add_up(llm.stream(CAPITAL, **asked))
    else:
        message = llm.stream_events(CAPITAL, version="v3", **asked).output
    told = message.response_metadata["logprobs"]["content"]
    assert "".join(item["token"] for item in told).removesuffix("<|im_end|>") == "The capital of Japan is Tokyo."
    assert all(len(item["top_logprobs"]) == 2 and item["logprob"] <= 0 for item in told)
    assert (sent.last.json["logprobs"], sent.last.json["top_logprobs"]) == (True, 2)


# Each generation carries the usage of the whole request: tracers count it n times.
async def test_usage_of_several_choices_counts_once(llm, sent):
    handler = UsageMetadataCallbackHandler()
    several = llm.bind(n=3, temperature=0.5, seed=1)
    for result in (
        await llm.agenerate([[HumanMessage(CAPITAL)]], n=3, temperature=0.5, seed=1, callbacks=[handler]),
        llm.generate([[HumanMessage(CAPITAL)]], n=3, temperature=0.5, seed=1),
    ):
        generations = result.generations[0]
        assert len(generations) == 3
        assert all(generation.message.text for generation in generations)
        total = result.llm_output["token_usage"]["completion_tokens"]
        assert total > generations[0].message.usage_metadata["input_tokens"]
        summed = _get_usage_metadata_from_generations([[dumpd(generation)["kwargs"] for generation in generations]])
        told = [generation.message.usage_metadata for generation in generations]
        assert [usage["output_tokens"] if usage else None for usage in told] == [total, None, None]
        assert summed["output_tokens"] == total
        assert result.llm_output["model_name"] == "tiny"
        assert {generation.message.response_metadata["model_name"] for generation in generations} == {"tiny"}
    assert handler.usage_metadata["tiny"]["output_tokens"] == total
    assert several.invoke(CAPITAL).usage_metadata["output_tokens"] == total
    assert sent.last.json["n"] == 3


# {}: no usage is asked for when the address is not OpenAI's.
def test_usage_of_streams_is_counted(llm):
    with get_usage_metadata_callback() as counted:
        message = add_up(llm.stream(CAPITAL))
        list(llm.stream("Hello"))
    assert counted.usage_metadata["tiny"]["output_tokens"] > message.usage_metadata["output_tokens"] > 0


# finish_reason "stop" and no tool call where a parser took the call for text.
def test_a_named_tool_is_called(llm):
    message = llm.bind_tools([get_weather], tool_choice="get_weather").invoke("What is the weather in Rome?")
    assert message.tool_calls[0]["args"] == {"city": "Rome"}
    assert message.response_metadata["finish_reason"] in ("stop", "tool_calls")


# tool_calls=[{"name": "get_weather", "args": {}}]: vLLM streams "{}" before the arguments are there.
@pytest.mark.parametrize("way", ["stream", "astream", "events"])
async def test_a_tool_call_that_the_token_limit_cuts(llm, way):
    asked = {"input": "What is the weather in Rome and Oslo?", "max_tokens": 46}
    bound = llm.bind_tools([get_weather])
    if way == "stream":
        message = add_up(bound.stream(**asked))
    elif way == "astream":
        message = add_up([chunk async for chunk in bound.astream(**asked)])
    else:
        message = bound.stream_events(**asked, version="v3").output
    assert [call["args"] for call in message.tool_calls] == [{"city": "Rome"}]
    assert [call["name"] for call in message.invalid_tool_calls] == ["get_weather"]
    assert "truncated" in message.invalid_tool_calls[0]["error"]


# openai.LengthFinishReasonError without the text; function_calling: None, and no error.
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_object_that_the_token_limit_cuts(llm, method, streamed):
    city = llm.with_structured_output(City, method=method)
    limit = {"max_tokens": 24 if method == "function_calling" else 6}
    with pytest.raises(e.TruncatedOutput) as caught:
        list(city.stream("Give me Rome as json", **limit)) if streamed else city.invoke("Give me Rome as json", **limit)
    assert caught.value.partial


# A raw openai.BadRequestError with the same text; also in tool messages.
@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_media_for_a_model_that_reads_text_alone(llm, sent, kind):
    block = {"type": kind, "base64": "aGk=", "mime_type": {"image": "image/png", "audio": "audio/wav"}.get(kind)}
    called = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "call-1"}])
    for message in (
        [HumanMessage([block])],
        [HumanMessage("Look"), called, ToolMessage([block], tool_call_id="call-1")],
    ):
        with pytest.raises(lc.ModelInvalidRequestError, match="tiny is not a multimodal model"):
            llm.invoke(message)
    part = {"image": "image_url", "audio": "input_audio", "video": "video_url"}[kind]
    assert sent.last.json["messages"][-1]["content"][0]["type"] == part
