"""Replies of ``VLLM``: text, thinking, usage, log probabilities and what else vLLM returns."""

import copy
import json
import pickle

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.base.llms.types import ChatMessage, TextBlock, ThinkingBlock
from version_marks import fingerprint_is_sent, metrics_are_sent, reasoning_is_parsed

from vllm_adapters.llamaindex import VLLM
from vllm_adapters.testing import faults, payloads

pytestmark = pytest.mark.smoke

recorded = pytest.mark.vllm("tiny")

CAPITAL = "What is the capital of Japan?"
TOKYO = "The capital of Japan is Tokyo."
THINK = {"enable_thinking": True}
TEXT = "/v1/completions"
MESSAGES = [ChatMessage(role="user", content=CAPITAL)]


def thinking(message):
    return "".join(block.content for block in message.blocks if isinstance(block, ThinkingBlock))


@recorded
@fingerprint_is_sent
def test_chat(llm, sent):
    response = llm.chat(MESSAGES)
    assert response.message.content == TOKYO
    details = response.additional_kwargs
    assert details["finish_reason"] == "stop"
    assert details["prompt_tokens"] > 0
    assert details["completion_tokens"] > 0
    assert details["total_tokens"] == details["prompt_tokens"] + details["completion_tokens"]
    assert details["system_fingerprint"].startswith("vllm-")
    assert response.raw["model"] == "tiny"
    assert sent.last.json == {
        "model": "tiny",
        "messages": [{"role": "user", "content": CAPITAL}],
        "temperature": 0.0,
        "stream": False,
    }


@recorded
async def test_achat_and_acomplete(llm):
    assert (await llm.achat(MESSAGES)).message.content == TOKYO
    assert (await llm.acomplete(CAPITAL)).text == TOKYO


@recorded
@pytest.mark.parametrize("mode", ["chat", "stream"])
@reasoning_is_parsed
def test_reasoning(llm, sent, mode):
    if mode == "chat":
        response = llm.chat(MESSAGES, chat_template_kwargs=THINK)
    else:
        responses = list(llm.stream_chat(MESSAGES, chat_template_kwargs=THINK))
        response = responses[-1]
        deltas = [found.additional_kwargs.get("thinking_delta") for found in responses]
        assert "".join(filter(None, deltas)) == thinking(response.message)
    blocks = response.message.blocks
    assert [type(block) for block in blocks] == [ThinkingBlock, TextBlock]
    assert blocks[0].content.strip()
    assert blocks[0].num_tokens == response.additional_kwargs["reasoning_tokens"] > 0
    assert response.message.content.strip() == TOKYO
    assert sent.last.json["chat_template_kwargs"] == THINK


@recorded
@pytest.mark.parametrize("mode", ["sync", "async"])
@reasoning_is_parsed
async def test_complete_has_thinking(llm, mode):
    # Stock: only in raw.
    call = {"chat_template_kwargs": THINK}
    response = llm.complete(CAPITAL, **call) if mode == "sync" else await llm.acomplete(CAPITAL, **call)
    assert response.additional_kwargs["thinking"].strip()
    assert response.text.strip() == TOKYO


@recorded
@metrics_are_sent
def test_response_fields_that_vllm_adds(llm):
    call = {"return_token_ids": True, "stop": ["Tokyo"]}
    for response in (
        llm.complete(CAPITAL, prompt_logprobs=1, **call),
        list(llm.stream_complete(CAPITAL, **call))[-1],
    ):
        details = response.additional_kwargs
        assert (details["finish_reason"], details["stop_reason"]) == ("stop", "Tokyo")
        assert len(details["token_ids"]) == details["completion_tokens"]
        assert len(details["prompt_token_ids"]) == details["prompt_tokens"]
        assert details["metrics"]["time_to_first_token_ms"] > 0
        assert details["cached_tokens"] >= 0


@recorded
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("top", [0, 2])
def test_logprobs(sent, streamed, top):
    # Stock: none without top_logprobs, none from complete, none in streams.
    llm = VLLM(temperature=0, max_tokens=3, logprobs=True, top_logprobs=top)
    chat = list(llm.stream_chat(MESSAGES))[-1] if streamed else llm.chat(MESSAGES)
    completed = list(llm.stream_complete(CAPITAL))[-1] if streamed else llm.complete(CAPITAL)
    for response, text in ((chat, chat.message.content), (completed, completed.text)):
        chosen = [token[0] for token in response.logprobs]
        assert "".join(token.token for token in chosen) == text
        assert all(token.logprob <= 0 for token in chosen)
        assert [len(token) for token in response.logprobs] == [max(1, top)] * 3
        assert len(response.additional_kwargs["logprobs"]["content"]) == 3
    assert (sent.last.json["logprobs"], sent.last.json["top_logprobs"]) == (True, top)
    assert llm.complete(CAPITAL, logprobs=False).logprobs is None
    assert "top_logprobs" not in sent.last.json


@recorded
@pytest.mark.parametrize("streamed", [False, True])
def test_logprobs_of_completions(sent, streamed):
    llm = VLLM(temperature=0, max_tokens=3, logprobs=True, is_chat_model=False)
    response = list(llm.stream_complete("Hello"))[-1] if streamed else llm.complete("Hello")
    assert "".join(token[0].token for token in response.logprobs) == response.text
    assert sent.last.json["logprobs"] == 0
    assert [len(token) for token in llm.complete("Hello", logprobs=True, top_logprobs=2).logprobs] == [2, 2, 2]
    assert (sent.last.json["logprobs"], "top_logprobs" in sent.last.json) == (2, False)


def test_top_logprobs_of_a_call(fault_server, is_chat_model, method):
    llm = VLLM(base_url=fault_server.url, is_chat_model=is_chat_model, logprobs=True, top_logprobs=1)
    method(llm, top_logprobs=3)
    method(llm, logprobs=False)
    number, none = [request.json for request in fault_server.posts()]
    flag, top = (number["logprobs"], number["top_logprobs"]) if is_chat_model else (True, number["logprobs"])
    assert (flag, top) == (True, 3)
    assert not none.get("logprobs")
    assert "top_logprobs" not in none


@recorded
def test_completions(sent):
    llm = VLLM(temperature=0, max_retries=0, is_chat_model=False)
    response = llm.complete("Hello", max_tokens=4, top_k=1)
    assert response.text
    assert response.additional_kwargs["finish_reason"] in ("stop", "length")
    assert sent.last.json == {
        "model": "tiny",
        "prompt": "Hello",
        "temperature": 0.0,
        "max_tokens": 4,
        "top_k": 1,
        "stream": False,
    }


@recorded
async def test_chat_on_the_completions_endpoint(sent):
    # Stock: usage moves to the message, everything else is lost.
    llm = VLLM(temperature=0, max_retries=0, is_chat_model=False)
    responses = [
        llm.chat(MESSAGES, max_tokens=4),
        await llm.achat(MESSAGES, max_tokens=4),
        list(llm.stream_chat(MESSAGES, max_tokens=4))[-1],
        [found async for found in await llm.astream_chat(MESSAGES, max_tokens=4)][-1],
    ]
    assert len({response.message.content for response in responses}) == 1
    for response in responses:
        assert response.additional_kwargs["finish_reason"] == "length"
        assert response.additional_kwargs["completion_tokens"] == 4
    assert sent.bodies(TEXT)[0]["prompt"].startswith("user: What is")


@recorded
def test_endpoint_of_one_call(llm, sent):
    # Stock: a TypeError from the SDK.
    assert llm.complete("Hello", use_chat_completions=False, max_tokens=2).text
    assert [request.path for request in sent if request.method == "POST"] == [TEXT]


def test_several_choices(fault_llm, fault_server):
    fault_server.reply(faults.json_reply({**payloads.chat("one"), "choices": payloads.chat("one")["choices"] * 2}))
    response = fault_llm.chat(MESSAGES, n=2)
    assert response.message.content == "one"
    assert len(response.raw["choices"]) == 2


# The server's reply


def test_raw_reads_as_a_dict_and_as_an_object(fault_server, method, is_chat_model):
    # Code for stock LLMs reads `response.raw.usage`.
    raw = method(VLLM(base_url=fault_server.url, is_chat_model=is_chat_model)).raw
    assert raw.usage.prompt_tokens == raw["usage"]["prompt_tokens"] > 0
    assert raw.usage.prompt_tokens_details is None
    assert (raw.model, raw.id, raw.service_tier) == ("stub", raw["id"], None)
    assert isinstance(raw, dict)
    assert json.loads(json.dumps(raw)) == copy.deepcopy(raw) == pickle.loads(pickle.dumps(raw)) == raw
    assert not hasattr(raw, "model_dump")
    with pytest.raises(AttributeError, match="does not have the field `usge`"):
        raw.usge  # noqa: B018


def test_raw_choices_are_objects(fault_llm, fault_server):
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("add", '{"a": 1}')], finish_reason="tool_calls"))
    choice = fault_llm.chat(MESSAGES).raw.choices[0]
    assert choice.message.tool_calls[0].function.arguments == '{"a": 1}'
    assert choice.message.refusal is choice.logprobs is None
    chunks = [response.raw for response in fault_llm.stream_chat(MESSAGES)]
    called = [chunk.choices[0].delta.tool_calls for chunk in chunks if chunk.choices]
    assert any(calls and calls[0].function.name == "add" for calls in called)


def test_messages_as_a_text(fault_llm, fault_server):
    # Stock: an AttributeError about its first character.
    for send in (fault_llm.chat, fault_llm.model_copy(update={"is_chat_model": False}).chat):
        with pytest.raises(TypeError, match="must be a sequence of ChatMessage, not str"):
            send("hi")
    assert not fault_server.requests
