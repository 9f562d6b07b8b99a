"""A streamed reply is accumulated from its chunks, without loss and without changing them."""

import copy
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_adapters._response.message import StreamedMessage
from vllm_adapters._response.stream import ChunkReader
from vllm_adapters.testing import payloads


def accumulated(*chunks):
    message = StreamedMessage()
    for chunk in chunks:
        message.add(chunk)
    return message


def delta(fields, **choice):
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None, **choice}]}


def test_new_message_is_empty():
    message = StreamedMessage()
    assert (message.text, message.reasoning, message.finish_reason) == ("", "", None)
    assert (message.usage, message.logprobs, message.fields, message.tool_calls()) == (None, None, {}, [])


@pytest.mark.parametrize(
    ("chunk", "returned"),
    [
        (delta({"role": "assistant", "content": "hi"}), {"role": "assistant", "content": "hi"}),
        (delta({"reasoning": "hm"}), {"reasoning": "hm"}),
        (delta({}), {}),
        ({"choices": [{"index": 0, "text": "hi"}]}, {"index": 0, "text": "hi"}),
        ({"choices": [], "usage": {"total_tokens": 3}}, {}),
        ({"usage": {"total_tokens": 3}}, {}),
    ],
    ids=["delta", "reasoning", "empty-delta", "completion", "no-choices", "no-choices-field"],
)
def test_add_returns_the_delta(chunk, returned):
    assert StreamedMessage().add(chunk) == returned


def test_chat_completion_is_accumulated():
    calls = [payloads.tool_call("add", '{"a": 1}'), payloads.tool_call("now", "")]
    message = accumulated(
        *payloads.chat_chunks("one two three", reasoning="hm", tool_calls=calls, finish_reason="tool_calls", usage=True)
    )
    assert (message.text, message.reasoning, message.finish_reason) == ("one two three", "hm", "tool_calls")
    assert message.usage["completion_tokens"] == 3
    assert [(call.id, call.name, call.arguments) for call in message.tool_calls()] == [
        (calls[0]["id"], "add", {"a": 1}),
        (calls[1]["id"], "now", {}),
    ]


def test_completion_is_accumulated():
    message = accumulated(*payloads.completion_chunks("one two three", usage=True, finish_reason="length"))
    assert (message.text, message.reasoning, message.finish_reason) == ("one two three", "", "length")
    assert message.usage["completion_tokens"] == 3


def test_last_tool_call_is_truncated_until_the_reply_has_ended():
    chunks = payloads.chat_chunks(None, tool_calls=[payloads.tool_call(name, "{}") for name in ("one", "two")])
    message = accumulated(*chunks[:-1])
    first, last = message.tool_calls()
    assert (first.arguments, last.arguments) == ({}, None)
    assert "truncated" in last.error
    message.add(chunks[-1])
    assert [call.error for call in message.tool_calls()] == [None, None]


def test_token_limit_truncates_the_last_tool_call():
    chunks = payloads.chat_chunks(None, tool_calls=[payloads.tool_call("one", "{}")], finish_reason="length")
    assert "truncated" in accumulated(*chunks).tool_calls()[0].error


def test_logprobs_are_concatenated():
    tokens = [{"token": text, "logprob": -0.5} for text in ("one", " two")]
    chat = accumulated(
        delta({"content": "one"}, logprobs={"content": tokens[:1], "refusal": None}),
        delta({"content": ""}, logprobs=None),
        delta({"content": " two"}, logprobs={"content": tokens[1:], "refusal": None}),
    )
    assert chat.logprobs == {"content": tokens}
    pieces = [{"tokens": ["one"], "text_offset": [0]}, {"tokens": [" two"], "text_offset": [3]}]
    completion = accumulated(*({"choices": [{"index": 0, "text": "x", "logprobs": piece}]} for piece in pieces))
    assert completion.logprobs == {"tokens": ["one", " two"], "text_offset": [0, 3]}


def test_added_fields_are_concatenated_or_replaced():
    message = accumulated(
        {**delta({"content": "one"}, token_ids=[1]), "prompt_token_ids": [7, 8], "system_fingerprint": None},
        delta({"content": " two"}, token_ids=[2, 3]),
        {**delta({}, token_ids=None, stop_reason=5), "system_fingerprint": "vllm-0.32.0"},
        {"choices": [], "metrics": {"queue_time_ms": 1}},
    )
    assert message.fields == {
        "token_ids": [1, 2, 3],
        "prompt_token_ids": [7, 8],
        "stop_reason": 5,
        "system_fingerprint": "vllm-0.32.0",
        "metrics": {"queue_time_ms": 1},
    }


def test_fields_of_openai_are_not_added_fields():
    assert accumulated(*payloads.chat_chunks("one two")).fields == {"system_fingerprint": payloads.FINGERPRINT}


def test_long_message_takes_linear_time():
    def seconds(count):
        message, began = StreamedMessage(), time.process_time()
        for _ in range(count):
            message.add(delta({"content": "a word of a long reply"}))
        assert len(message.text) == 22 * count
        return time.process_time() - began

    assert seconds(160_000) < 12 * seconds(20_000) + 0.5


def test_chunks_are_not_changed():
    chunks = [
        {**delta({"content": "one"}, token_ids=[1], logprobs={"content": [{"token": "one"}]}), "prompt_token_ids": [7]},
        delta({"content": " two"}, token_ids=[2], logprobs={"content": [{"token": " two"}]}),
        *payloads.chat_chunks("one", tool_calls=[payloads.tool_call("add", '{"a": 1}')]),
    ]
    before = copy.deepcopy(chunks)
    accumulated(*chunks)
    assert chunks == before


TEXT = st.text(max_size=5)
DELTAS = st.lists(st.fixed_dictionaries({}, optional={"reasoning": TEXT, "content": TEXT}), max_size=6)


@given(DELTAS, st.booleans())
def test_nothing_of_a_checked_stream_is_lost(deltas, legacy):
    name = "reasoning_content" if legacy else "reasoning"
    sent = [{name if kind == "reasoning" else kind: text for kind, text in fields.items()} for fields in deltas]
    reader, message = ChunkReader({}, "chat"), StreamedMessage()
    for fields in sent:
        for chunk in reader.feed(b"data: " + json.dumps(payloads.chunk(fields)).encode() + b"\n\n"):
            message.add(chunk)
    assert message.text == "".join(fields.get("content", "") for fields in deltas)
    assert message.reasoning == "".join(fields.get("reasoning", "") for fields in deltas)
