"""VLLMChatGenerator on a real vLLM: what was sent, what came back, in each of the four ways to run it."""

import json

import pytest

pytest.importorskip("haystack")

from typing import Annotated

from haystack.dataclasses import ChatMessage
from haystack.tools import tool
from pydantic import BaseModel, Field

from vllm_adapters import errors as e
from vllm_adapters.haystack import VLLMChatGenerator

pytestmark = pytest.mark.vllm("tiny")

CAPITAL = "What is the capital of Japan?"
TOKYO = "The capital of Japan is Tokyo."
THINK = {"chat_template_kwargs": {"enable_thinking": True}}


class City(BaseModel):
    """A city with a number."""

    city: str
    n: int = Field(ge=0)


@tool
def get_weather(city: Annotated[str, "The city"]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.fixture
def llm():
    return VLLMChatGenerator(generation_kwargs={"temperature": 0}, max_retries=0)


def test_a_reply(llm, ask, sent):
    (reply,) = ask(llm, CAPITAL)
    assert reply.text == TOKYO
    assert reply.reasoning is None
    assert reply.tool_calls == []
    meta = reply.meta
    assert (meta["model"], meta["index"], meta["finish_reason"]) == ("tiny", 0, "stop")
    assert meta["usage"]["prompt_tokens"] + meta["usage"]["completion_tokens"] == meta["usage"]["total_tokens"]
    assert meta["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0
    assert meta["id"].startswith("chatcmpl-")
    streaming = {"stream": True, "stream_options": {"include_usage": True}} if ask.streams else {"stream": False}
    assert sent.last.json == {
        "model": "tiny",
        "messages": [{"role": "user", "content": CAPITAL}],
        "temperature": 0,
        **streaming,
    }
    if ask.streams:
        assert "".join(chunk.content for chunk in ask.chunks) == TOKYO
        assert [chunk.finish_reason for chunk in ask.chunks if chunk.finish_reason] == ["stop"]
        assert ask.chunks[-1].meta["usage"] == meta["usage"]
        assert meta["completion_start_time"]


def test_reasoning(llm, ask, sent):
    (reply,) = ask(llm, CAPITAL, generation_kwargs=THINK)
    assert reply.text.strip() == TOKYO
    assert reply.reasoning.reasoning_text.strip()
    assert sent.last.json["chat_template_kwargs"] == {"enable_thinking": True}
    if ask.streams:
        blocks = [(chunk.index, "thought" if chunk.reasoning else "text") for chunk in ask.chunks if chunk.start]
        assert blocks == [(0, "thought"), (1, "text")]
        thought = "".join(chunk.reasoning.reasoning_text for chunk in ask.chunks if chunk.reasoning)
        assert thought == reply.reasoning.reasoning_text


def test_what_vllm_adds_to_replies(llm, ask):
    asked = {"return_token_ids": True, "stop": ["Tokyo"], "logprobs": True}
    (reply,) = ask(llm, CAPITAL, generation_kwargs=asked if ask.streams else {**asked, "prompt_logprobs": 1})
    meta = reply.meta
    assert (meta["finish_reason"], meta["stop_reason"]) == ("stop", "Tokyo")
    assert len(meta["token_ids"]) == meta["usage"]["completion_tokens"]
    assert len(meta["prompt_token_ids"]) == meta["usage"]["prompt_tokens"]
    assert "".join(token["token"] for token in meta["logprobs"]["content"]).startswith("The capital of")
    assert ask.streams or len(meta["prompt_logprobs"]) == len(meta["prompt_token_ids"])
    assert meta["system_fingerprint"].startswith("vllm-")
    assert json.loads(json.dumps(reply.to_dict())) == reply.to_dict()
    assert json.dumps([chunk.to_dict() for chunk in ask.chunks])


def test_reasoning_with_logprobs(llm, ask):
    (reply,) = ask(llm, CAPITAL, generation_kwargs={**THINK, "logprobs": True, "return_token_ids": True})
    assert reply.reasoning
    tokens = [token["token"] for token in reply.meta["logprobs"]["content"]]
    assert "".join(tokens).startswith(reply.reasoning.reasoning_text.strip())
    assert len(tokens) == len(reply.meta["token_ids"]) == reply.meta["usage"]["completion_tokens"]


def test_parameters_of_both_levels(sent):
    defaults = {
        "top_k": 5,
        "min_p": 0.1,
        "temperature": 0,
        "seed": 1,
        "chat_template_kwargs": {"enable_thinking": False, "a": 1},
        "extra_body": {"min_tokens": 1, "repetition_penalty": 1.1},
    }
    run = {"top_k": 1, "chat_template_kwargs": {"enable_thinking": True}, "extra_body": {"min_tokens": 2}, "seed": None}
    llm = VLLMChatGenerator(generation_kwargs=defaults, max_retries=0)
    llm.run(CAPITAL, generation_kwargs={**run, "min_p": None})
    body = sent.last.json
    assert {k: v for k, v in body.items() if k not in ("model", "messages", "stream")} == {
        "top_k": 1,
        "temperature": 0,
        "min_tokens": 2,
        "repetition_penalty": 1.1,
        "chat_template_kwargs": {"enable_thinking": True, "a": 1},
    }


@pytest.mark.parametrize(
    ("constraint", "matches"),
    [
        ({"choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
        ({"regex": "[0-9]{4}"}, lambda text: len(text) == 4 and text.isdigit()),
        ({"grammar": 'root ::= "yes" | "no"'}, lambda text: text in ("yes", "no")),
        ({"json": City}, lambda text: City.model_validate_json(text)),
    ],
    ids=["choice", "regex", "grammar", "json"],
)
@pytest.mark.parametrize("streams", [False, True], ids=["run", "stream"])
def test_structured_outputs(llm, sent, constraint, matches, streams):
    asked = {"structured_outputs": constraint, "max_tokens": 40}
    reply = llm.run("Give me Rome as json", [].append if streams else None, asked)["replies"][0]
    assert matches(reply.text)
    assert sent.last.json["structured_outputs"].keys() == constraint.keys()


def test_a_retired_name_is_translated(llm, sent):
    assert llm.run("Yes or no?", generation_kwargs={"guided_choice": ["yes", "no"]})["replies"][0].text in ("yes", "no")
    assert sent.last.json["structured_outputs"] == {"choice": ["yes", "no"]}


def test_response_format(llm, ask, sent):
    # vllm-haystack raises TypeError for the Pydantic class, Haystack's own generator when it streams.
    (reply,) = ask(llm, "Give me Rome as json", generation_kwargs={"response_format": City})
    assert City.model_validate_json(reply.text) == City(city="Rome", n=1)
    assert sent.last.json["response_format"]["json_schema"]["schema"]["required"] == ["city", "n"]


def test_a_cut_object(llm, ask):
    with pytest.raises(e.TruncatedOutput) as caught:
        ask(llm, "Give me Rome as json", generation_kwargs={"response_format": City, "max_tokens": 3})
    assert caught.value.partial.startswith("{")


def test_a_cut_reply_that_keeps_to_its_constraint(llm, ask):
    asked = {"structured_outputs": {"regex": "[a-z]+"}, "max_tokens": 3}
    (reply,) = ask(llm, "Hello", generation_kwargs=asked)
    assert (reply.text.isalpha(), reply.meta["finish_reason"]) == (True, "length")


def test_tools(llm, ask, sent):
    (reply,) = ask(llm, "What is the weather in Rome and Oslo?", tools=[get_weather])
    calls = [(call.tool_name, call.arguments) for call in reply.tool_calls]
    assert calls == [("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Oslo"})]
    assert all(call.id for call in reply.tool_calls)
    assert reply.meta["finish_reason"] == "tool_calls"
    assert "strict" not in sent.last.json["tools"][0]["function"]
    if ask.streams:
        starts = [chunk for chunk in ask.chunks if chunk.start and chunk.tool_calls]
        assert [chunk.tool_calls[0].tool_name for chunk in starts] == ["get_weather"] * 2
        assert starts[1].index == starts[0].index + 1


def test_a_forced_tool(llm, ask, sent):
    choice = {"type": "function", "function": {"name": "get_weather"}}
    (reply,) = ask(llm, "What is the weather in Rome?", tools=[get_weather], generation_kwargs={"tool_choice": choice})
    assert [call.arguments for call in reply.tool_calls] == [{"city": "Rome"}]
    assert sent.last.json["tools"][0]["function"]["strict"] is True


def test_strict_tools(sent):
    llm = VLLMChatGenerator(tools=[get_weather], tools_strict=True, max_retries=0)
    assert llm.run("What is the weather in Rome?")["replies"][0].tool_calls
    assert sent.last.json["tools"][0]["function"]["strict"] is True
    assert llm.run("Hello", tools=[])["replies"][0].text
    assert "tools" not in sent.last.json


def test_a_call_that_the_token_limit_cuts(llm, ask):
    choice = {"type": "function", "function": {"name": "get_weather"}}
    cut = {"tool_choice": choice, "max_tokens": 24}
    (reply,) = ask(llm, "What is the weather in Rome?", tools=[get_weather], generation_kwargs=cut)
    assert reply.meta["finish_reason"] == "length"
    assert reply.tool_calls == []
    if ask.streams:  # where Haystack's own generator and vllm-haystack leave a line in the log and no more
        (broken,) = reply.meta["invalid_tool_calls"]
        assert (broken["name"], broken["arguments"]) == ("get_weather", '{"city"')
        assert "cut short" in broken["error"]
    else:
        assert reply.text.startswith("<tool_call>")


def test_a_conversation_with_tools_and_reasoning(sent):
    llm = VLLMChatGenerator(tools=[get_weather], generation_kwargs=THINK, replay_reasoning=True, max_retries=0)
    messages = [ChatMessage.from_user("What is the weather in Rome?")]
    (asked,) = llm.run(messages)["replies"]
    (call,) = asked.tool_calls
    messages += [asked, ChatMessage.from_tool(get_weather.invoke(**call.arguments), origin=call)]
    assert "sunny" in llm.run(messages)["replies"][0].text
    _, replayed, result = sent.last.json["messages"]
    assert replayed["reasoning"] == asked.reasoning.reasoning_text
    assert json.loads(replayed["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome"}
    assert result == {"role": "tool", "content": "sunny in Rome", "tool_call_id": call.id}


def test_several_replies(llm):
    replies = llm.run("Hello", generation_kwargs={"n": 2, "temperature": 0.5})["replies"]
    assert [reply.meta["index"] for reply in replies] == [0, 1]
    assert all(reply.text for reply in replies)
    with pytest.raises(e.InvalidRequest, match="n must be 1"):
        llm.run("Hello", print, {"n": 2})


def test_a_last_message_that_says_nothing_is_left_out(llm, sent):
    empty = [ChatMessage.from_assistant(text=None), ChatMessage.from_assistant(reasoning="only thoughts")]
    for last in empty:
        llm.run([ChatMessage.from_user(CAPITAL), last])
    assert [len(body["messages"]) for body in sent.bodies("/v1/chat/completions")] == [1, 1]


def test_failures(llm, ask):
    with pytest.raises(e.ModelNotServed, match="It serves: tiny"):
        ask(llm, CAPITAL, generation_kwargs={"model": "nope"})
    with pytest.raises(e.ContextLengthExceeded, match="--max-model-len"):
        ask(llm, "word " * 5000)
    with pytest.raises(e.InvalidRequest, match="Invalid grammar"):
        ask(llm, CAPITAL, generation_kwargs={"structured_outputs": {"grammar": "root ::= ((("}})
