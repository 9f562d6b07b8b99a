"""Replies of VLLMChatGenerator, in each of the four ways to run it."""

import json

import pytest
from version_marks import cached_tokens_are_sent, fingerprint_is_sent, reasoning_is_parsed

from vllm_adapters.testing import faults, payloads

pytestmark = pytest.mark.smoke

CAPITAL = "What is the capital of Japan?"
TOKYO = "The capital of Japan is Tokyo."
THINK = {"chat_template_kwargs": {"enable_thinking": True}}


@pytest.mark.vllm("tiny")
@cached_tokens_are_sent
def test_reply(llm, run, sent):
    (reply,) = run(llm, CAPITAL)
    assert reply.text == TOKYO
    assert reply.reasoning is None
    assert reply.tool_calls == []
    meta = reply.meta
    assert (meta["model"], meta["index"], meta["finish_reason"]) == ("tiny", 0, "stop")
    assert meta["usage"]["prompt_tokens"] + meta["usage"]["completion_tokens"] == meta["usage"]["total_tokens"]
    assert meta["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0
    assert meta["id"].startswith("chatcmpl-")
    streaming = {"stream": True, "stream_options": {"include_usage": True}} if run.streams else {"stream": False}
    assert sent.last.json == {
        "model": "tiny",
        "messages": [{"role": "user", "content": CAPITAL}],
        "temperature": 0,
        **streaming,
    }
    if run.streams:
        assert "".join(chunk.content for chunk in run.chunks) == TOKYO
        assert [chunk.finish_reason for chunk in run.chunks if chunk.finish_reason] == ["stop"]
        assert run.chunks[-1].meta["usage"] == meta["usage"]
        assert meta["completion_start_time"]


@pytest.mark.vllm("tiny")
@reasoning_is_parsed
def test_reasoning(llm, run, sent):
    (reply,) = run(llm, CAPITAL, generation_kwargs=THINK)
    assert reply.text.strip() == TOKYO
    assert reply.reasoning.reasoning_text.strip()
    assert sent.last.json["chat_template_kwargs"] == {"enable_thinking": True}
    if run.streams:
        blocks = [(chunk.index, "reasoning" if chunk.reasoning else "text") for chunk in run.chunks if chunk.start]
        assert blocks == [(0, "reasoning"), (1, "text")]
        reasoning = "".join(chunk.reasoning.reasoning_text for chunk in run.chunks if chunk.reasoning)
        assert reasoning == reply.reasoning.reasoning_text


def test_former_name_of_reasoning(stub_llm, fault_server, run):
    fault_server.reply(faults.chat("six", reasoning="because", legacy_reasoning=True))
    (reply,) = run(stub_llm)
    assert (reply.reasoning.reasoning_text, reply.text) == ("because", "six")


@pytest.mark.vllm("tiny")
@fingerprint_is_sent
def test_meta_has_what_vllm_adds(llm, run):
    parameters = {"return_token_ids": True, "stop": ["Tokyo"], "logprobs": True}
    (reply,) = run(llm, CAPITAL, generation_kwargs=parameters if run.streams else {**parameters, "prompt_logprobs": 1})
    meta = reply.meta
    assert (meta["finish_reason"], meta["stop_reason"]) == ("stop", "Tokyo")
    assert len(meta["token_ids"]) == meta["usage"]["completion_tokens"]
    assert len(meta["prompt_token_ids"]) == meta["usage"]["prompt_tokens"]
    assert "".join(token["token"] for token in meta["logprobs"]["content"]).startswith("The capital of")
    assert run.streams or len(meta["prompt_logprobs"]) == len(meta["prompt_token_ids"])
    assert meta["system_fingerprint"].startswith("vllm-")
    assert json.loads(json.dumps(reply.to_dict())) == reply.to_dict()
    assert json.dumps([chunk.to_dict() for chunk in run.chunks])


@pytest.mark.vllm("tiny")
@reasoning_is_parsed
def test_logprobs_of_reasoning_and_text(llm, run):
    (reply,) = run(llm, CAPITAL, generation_kwargs={**THINK, "logprobs": True, "return_token_ids": True})
    assert reply.reasoning
    tokens = [token["token"] for token in reply.meta["logprobs"]["content"]]
    assert "".join(tokens).startswith(reply.reasoning.reasoning_text.strip())
    assert len(tokens) == len(reply.meta["token_ids"]) == reply.meta["usage"]["completion_tokens"]


@pytest.mark.vllm("tiny")
def test_several_replies(llm):
    replies = llm.run("Hello", generation_kwargs={"n": 2, "temperature": 0.5})["replies"]
    assert [reply.meta["index"] for reply in replies] == [0, 1]
    assert all(reply.text for reply in replies)


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 1,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": None},
    "completion_tokens_details": None,
}


def test_cached_tokens(stub_llm, fault_server, run):
    # Null fields are left out: Haystack's agents add up all fields of usage.
    if run.streams:
        chunks = payloads.chat_chunks("hi")
        fault_server.reply(faults.sse(*chunks, {**chunks[-1], "choices": [], "usage": USAGE}))
    else:
        fault_server.reply(faults.json_reply({**payloads.chat("hi"), "usage": USAGE}))
    usage = run(stub_llm)[0].meta["usage"]
    assert usage == {
        "prompt_tokens": 9,
        "completion_tokens": 1,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 8},
    }


def test_no_messages_send_no_request(stub_llm, fault_server, run):
    assert run(stub_llm, []) == []
    assert not fault_server.requests
