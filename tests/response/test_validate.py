"""A part of a reply that is something else than it must be: named, never tripped over."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_adapters._response.stream import ChunkReader
from vllm_adapters._response.validate import validate_response, validate_types
from vllm_adapters.errors import InvalidResponse, VLLMError
from vllm_adapters.testing import payloads

CHAT, TEXT = "chat", "completions"
CALLS = [payloads.tool_call("add", '{"a": 1}')]
SAID = payloads.chat("hi", reasoning="hm", tool_calls=CALLS, finish_reason="tool_calls")
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "name", "index"]), inner),
    max_leaves=4,
)


def places(part, place=()):
    """The place of every part of a reply."""
    yield place
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, inner in items:
        yield from places(inner, (*place, key))


def with_part(whole, place, part):
    """A copy with something else in one place."""
    if not place:
        return part
    changed = at = copy.deepcopy(whole)
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = part
    return changed


@pytest.mark.parametrize(
    ("place", "part"),
    [
        (("choices",), "x"),
        (("choices", 0), 5),
        (("choices", 0, "index"), -1),
        (("choices", 0, "finish_reason"), ["stop"]),
        (("choices", 0, "message"), "hi"),
        (("choices", 0, "message", "content"), ["hi"]),
        (("choices", 0, "message", "reasoning"), 5),
        (("choices", 0, "message", "tool_calls"), {"name": "add"}),
        (("choices", 0, "message", "tool_calls", 0), "add"),
        (("choices", 0, "message", "tool_calls", 0, "function", "arguments"), {"a": 1}),
        (("choices", 0, "logprobs"), 0.5),
        (("usage",), 7),
        (("usage", "prompt_tokens"), "7"),
        (("model",), ["stub"]),
    ],
)
def test_the_place_is_told(place, part):
    with pytest.raises(InvalidResponse) as caught:
        validate_types(with_part(SAID, place, part))
    fault = caught.value.reason.partition("(")[2]
    assert fault.startswith("".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).lstrip("."))
    validate_types(SAID)


@given(place=st.sampled_from(list(places(SAID))), part=ANYTHING)
def test_a_reply_is_whole_or_refused(place, part):
    reply = with_part(SAID, place, part)
    try:
        validate_response(reply, {}, endpoint=CHAT)
    except VLLMError:
        return
    validate_types(reply)
    assert all(choice["message"] is not None for choice in reply["choices"])


STREAMS = {
    CHAT: payloads.chat_chunks("one two", reasoning="hm", tool_calls=CALLS, finish_reason="tool_calls"),
    TEXT: payloads.completion_chunks("one two"),
}


@pytest.mark.parametrize("call", STREAMS, ids=["chat", "completions"])
@given(data=st.data())
def test_a_chunk_is_whole_or_refused(call, data):
    chunks = STREAMS[call]
    place = data.draw(st.sampled_from(list(places(chunks))[1:]))
    changed = with_part(chunks, place, data.draw(ANYTHING))
    reader, read = ChunkReader({}, call), []
    for chunk in changed:
        read += reader.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        if reader.error is not None:
            break
    for chunk in read:
        validate_types(chunk)
        for choice in chunk["choices"]:
            assert isinstance(choice["index"], int)
            assert isinstance(choice["delta"], dict) if call is CHAT else isinstance(choice["text"], str)


@pytest.mark.parametrize("call", STREAMS, ids=["chat", "completions"])
@pytest.mark.parametrize("chunk", [{}, {"choices": None}, {"choices": [{}]}, {"choices": [{"index": None}]}])
def test_what_a_chunk_may_leave_out_is_filled_in(call, chunk):
    read = list(ChunkReader({}, call).feed(b"data: " + json.dumps(chunk).encode() + b"\n\n"))
    said = {"text": ""} if call is TEXT else {"delta": {}}
    assert [found["choices"] for found in read] == [[{"index": 0, **said}] if chunk.get("choices") else []]


def test_a_chunk_of_another_shape_is_named():
    chunk = {"choices": [{"index": 0, "delta": {"content": 5}}]}
    reader = ChunkReader({}, CHAT)
    assert reader.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n") == []
    assert isinstance(reader.error, InvalidResponse)
    assert "choices[0].delta.content: Input should be a valid string" in str(reader.error)
