"""Chunks that differ in their text alone are read without parsing the rest, and copied instead of made anew."""

import json
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from vllm_adapters._response import stream
from vllm_adapters._response.stream import ChunkReader
from vllm_adapters._response.text_chunks import ArgumentsChunk, LastText, TextChunk, TextTemplate, copy_model
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"
FIRST = {"role": "assistant", "content": ""}


def event_of(delta, *, spaces=False, envelope=(), **choice):
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", **dict(envelope)}
    event["choices"] = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **choice}]
    return json.dumps(event, separators=None if spaces else (",", ":")).encode()


def read(events, body=(), endpoint="chat"):
    """Return the chunks of a stream with these events, and how many were parsed in full."""
    reader, chunks = ChunkReader(dict(body), endpoint), []
    with mock.patch.object(stream, "from_json", wraps=stream.from_json) as parse:
        for event in events:
            chunks += reader.feed(b"data: " + event + b"\n\n")
            assert reader.error is None
    return chunks, parse.call_count


def read_one_by_one(events, body=(), endpoint="chat"):
    """Return the chunks as they are without templates."""
    with mock.patch.object(TextTemplate, "of", return_value=None):
        return read(events, body, endpoint)[0]


@pytest.mark.parametrize("kind", ["content", "reasoning"])
@pytest.mark.parametrize("spaces", [False, True])
def test_texts_after_the_first_are_not_parsed_in_full(kind, spaces):
    events = [event_of(delta, spaces=spaces) for delta in (FIRST, *({kind: str(number)} for number in range(50)))]
    chunks, parsed = read(events)
    assert chunks == read_one_by_one(events)
    assert parsed == 2
    assert all(type(chunk) is TextChunk for chunk in chunks[1:])


def arguments_of(text, index=0, **call):
    return {"tool_calls": [{"index": index, **call, "function": {"arguments": text}}]}


def name_of(name, index=0):
    return {"tool_calls": [{"index": index, "id": f"call-{index}", "type": "function", "function": {"name": name}}]}


@pytest.mark.parametrize("beside", [{}, {"type": "function"}, {"id": "call-0"}], ids=["alone", "type", "id"])
def test_arguments_after_the_first_are_not_parsed_in_full(beside):
    deltas = [FIRST, name_of("f"), arguments_of('{"a": "'), *(arguments_of(str(n), **beside) for n in range(50))]
    events = [event_of(delta) for delta in (*deltas, arguments_of('"}', **beside))]
    events.append(event_of({}, finish_reason="tool_calls"))
    chunks, parsed = read(events)
    assert chunks == read_one_by_one(events)
    assert parsed <= 5
    assert all(type(chunk) is ArgumentsChunk for chunk in chunks[3:-1])


@given(pieces=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["", " ", "{", '"', "}", "1, 2", "[", "é", "\\"]))))
def test_any_stream_of_tool_calls_is_read_as_if_each_event_were_parsed(pieces):
    deltas = [FIRST, *(name_of(f"f{index}", index) for index in range(3))]
    deltas += [arguments_of(text, index) if text != "[" else {"content": "text"} for index, text in pieces]
    events = [event_of(delta) for delta in deltas]
    for end in ("tool_calls", "length"):
        whole = [*events, event_of({}, finish_reason=end)]
        assert read(whole)[0] == read_one_by_one(whole)


def test_arguments_without_an_index_are_parsed_in_full():
    call = {"id": None, "function": {"arguments": "1"}}
    events = [event_of(FIRST), event_of(name_of("f")), *[event_of({"tool_calls": [call]})] * 9]
    chunks, parsed = read(events)
    assert parsed == len(events)
    assert chunks == read_one_by_one(events)


def test_blank_arguments_do_not_begin_a_call():
    events = [event_of(FIRST), event_of(name_of("f")), *[event_of(arguments_of(text)) for text in (" ", " ", "{}")]]
    events.append(event_of({}, finish_reason="tool_calls"))
    chunks, parsed = read(events)
    assert parsed == len(events)
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


TEXTS = st.text() | st.sampled_from(['"content":"x"', '","reasoning":"y', "\\", '"', "\n\n", "data: ", "\u2028", "😀"])


@given(
    texts=st.lists(st.tuples(st.sampled_from(["content", "reasoning", "both", "refusal"]), TEXTS), max_size=12),
    envelope=st.fixed_dictionaries(
        {},
        optional={
            "system_fingerprint": st.just("vllm-0.32.0"),
            "usage": st.none(),
            "provider": st.just({"name": "gateway"}),
            "content": TEXTS,
        },
    ),
    choice=st.fixed_dictionaries(
        {}, optional={"token_ids": st.none() | st.just([1]), "stop_reason": st.none(), "matched": st.just([1])}
    ),
    ascii_only=st.booleans(),
)
def test_any_stream_is_read_as_if_each_event_were_parsed(texts, envelope, choice, ascii_only):
    deltas = [FIRST]
    for kind, text in texts:
        deltas.append({"reasoning": text, "reasoning_content": text} if kind == "both" else {kind: text})
    events = [event_of(delta, envelope=envelope, **choice) for delta in deltas]
    events = [event if ascii_only else json.dumps(json.loads(event), ensure_ascii=False).encode() for event in events]
    events.append(event_of({}, finish_reason="stop"))
    chunks, _ = read(events)
    assert chunks == read_one_by_one(events)
    assert [list(chunk) for chunk in chunks] == [list(chunk) for chunk in read_one_by_one(events)]


@pytest.mark.parametrize(
    "literal",
    [b"null", b"7", b'""', b'{"a":1}', b'"a","content":"b"', b'"\\ud83d"', b'"a', b"", b'"a"}]}{"choices":[{'],
)
def test_event_with_another_value_than_a_text_is_parsed_in_full(literal):
    events = [event_of(FIRST), event_of({"content": "a"})]
    other = event_of({"content": "?"}).replace(b'"?"', literal)
    whole, once = ChunkReader({}, "chat"), ChunkReader({}, "chat")
    with mock.patch.object(TextTemplate, "of", return_value=None):
        expected = [once.feed(b"data: " + event + b"\n\n") for event in (*events, other)]
    assert [whole.feed(b"data: " + event + b"\n\n") for event in (*events, other)] == expected
    assert str(whole.error) == str(once.error)
    assert type(whole.error) is type(once.error)


@pytest.mark.parametrize(
    "event",
    [
        event_of(FIRST),
        event_of({"role": "assistant", "content": "."}),
        event_of({"content": "."}, finish_reason="stop"),
        event_of({"content": "."}, logprobs={"content": []}),
        event_of({"content": "."}, token_ids=[1]),
        event_of({"content": ".", "tool_calls": None}),
        event_of({"content": "."}, envelope={"usage": {"prompt_tokens": 1}}),
        event_of({"content": "."}, envelope={"prompt_token_ids": [1]}),
        event_of({"content": "."}, envelope={"gateway": {"content": "."}}),
    ],
    ids=["first", "role", "finish", "logprobs", "token-ids", "tool-calls", "usage", "prompt-token-ids", "gateway"],
)
def test_chunk_with_more_than_a_text_is_no_template(event):
    assert TextTemplate.of(event, json.loads(event)) is None


def test_template_of_a_text_whose_name_occurs_before_it():
    event = event_of({"content": "b"}, envelope={"content": "a"})
    assert TextTemplate.of(event, json.loads(event)) is None


def test_long_text_is_no_template():
    event = event_of({"content": "\\" * 100_000})
    assert TextTemplate.of(event, json.loads(event)) is None


def test_texts_of_several_choices_are_parsed_in_full():
    events = [event_of({"content": str(number)}, index=number % 2) for number in range(9)]
    chunks, parsed = read(events, {"n": 2})
    assert parsed == 9
    assert chunks == read_one_by_one(events, {"n": 2})


def test_stream_whose_other_fields_change_is_parsed_in_full():
    events = [event_of({"content": "."}, envelope={"created": number}) for number in range(100)]
    with mock.patch.object(TextTemplate, "of", wraps=TextTemplate.of) as made:
        assert len(read(events)[0]) == 100
    assert made.call_count == 8


def test_text_after_the_finish_reason_is_parsed_in_full():
    events = [
        event_of(FIRST),
        event_of({"content": "a"}),
        event_of({}, finish_reason="stop"),
        event_of({"content": "b"}),
    ]
    chunks, parsed = read(events)
    assert parsed == 4
    assert chunks == read_one_by_one(events)


def test_chunks_share_nothing():
    chunks, _ = read([event_of(FIRST), *(event_of({"content": text}) for text in "abc")])
    chunks[1]["choices"][0]["delta"]["content"] = "changed"
    chunks[1]["choices"][0]["seen"] = chunks[1]["seen"] = True
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks[2:]] == ["b", "c"]
    assert not any("seen" in chunk or "seen" in chunk["choices"][0] for chunk in chunks[2:])


# The SDK's objects


@pytest.mark.parametrize("kind", ["content", "reasoning"])
def test_copied_objects_equal_validated_ones(ask, fault_server, kind):
    events = [json.loads(event_of(delta)) for delta in (FIRST, {kind: "a"}, {kind: "b"}, {kind: "c"})]
    end = json.loads(event_of({}, finish_reason="stop"))
    fault_server.reply(faults.sse(*events, end), CHAT)
    chunks = []
    ask(fault_server.url, chunks=chunks, stream=True)
    assert len(chunks) == 5
    for chunk, event in zip(chunks, [*events, end], strict=True):
        assert_same(chunk, ChatCompletionChunk.model_validate(event))
    chunks[1].choices[0].delta.role = "user"
    chunks[1].seen = True
    assert chunks[2].choices[0].delta.role is None
    assert not hasattr(chunks[2], "seen")


def test_copied_tool_calls_equal_validated_ones(ask, fault_server):
    deltas = [FIRST, name_of("f"), *(arguments_of(text) for text in ('{"a": ', "1", ", ", '"b": 2}'))]
    events = [json.loads(event_of(delta)) for delta in deltas]
    end = json.loads(event_of({}, finish_reason="tool_calls"))
    fault_server.reply(faults.sse(*events, end), CHAT)
    chunks = []
    ask(fault_server.url, chunks=chunks, stream=True)
    for chunk, event in zip(chunks, [*events, end], strict=True):
        assert_same(chunk, ChatCompletionChunk.model_validate(event))
    chunks[3].choices[0].delta.tool_calls[0].function.arguments = "changed"
    assert chunks[4].choices[0].delta.tool_calls[0].function.arguments == ", "


@pytest.mark.parametrize("deltas", [[{"content": t} for t in "abcd"], [arguments_of(t) for t in "abcd"]])
def test_changes_of_a_chunk_are_in_no_later_one(fault_server, deltas):
    from vllm_adapters import VLLMClient

    first = [FIRST, name_of("f")] if "tool_calls" in deltas[0] else [FIRST]
    events = [json.loads(event_of(delta)) for delta in (*first, *deltas)]
    fault_server.reply(faults.sse(*events, json.loads(event_of({}, finish_reason="stop"))), CHAT)
    with VLLMClient(fault_server.url) as client:
        for chunk in client.chat.completions.create(model="tiny", messages=[], stream=True):
            assert not hasattr(chunk, "seen")
            assert chunk.choices[0].delta.role != "user"
            chunk.seen = True
            chunk.choices[0].delta.role = "user"


def test_copied_completions_equal_validated_ones(fault_server):
    from vllm_adapters import VLLMClient

    part = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "tiny"}
    events = [
        {**part, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]}
        for text, reason in (("a", None), ("b", None), ("c", None), ("", "stop"))
    ]
    fault_server.reply(faults.sse(*events), "/v1/completions")
    with VLLMClient(fault_server.url) as client:
        chunks = list(client.completions.create(model="tiny", prompt="x", stream=True))
    assert [chunk.choices[0].text for chunk in chunks] == ["a", "b", "c", ""]
    for chunk, event in zip(chunks[:3], events, strict=False):
        found = chunk.model_dump()
        found["choices"][0].pop("finish_reason")  # null, which the SDK's type does not have
        expected = Completion.construct(**event).model_dump()
        expected["choices"][0].pop("finish_reason")
        assert found == expected
        assert type(chunk.choices[0]) is type(chunks[0].choices[0])


def assert_same(found, expected):
    """Compare two Pydantic objects field by field, with what the user does not see."""
    assert type(found) is type(expected)
    if isinstance(found, BaseModel):
        assert found.__pydantic_fields_set__ == expected.__pydantic_fields_set__
        assert found.__pydantic_private__ == expected.__pydantic_private__
        for before, after in ((vars(found), vars(expected)), (found.model_extra, expected.model_extra)):
            assert_same(before, after)
    elif isinstance(found, dict):
        assert list(found) == list(expected)
        for name, value in found.items():
            assert_same(value, expected[name])
    elif isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def test_copy_of_a_model_has_its_own_extra_fields():
    class Open(BaseModel, extra="allow"):
        text: str

    first = Open(text="a", more=1)
    second = copy_model(first, {"text": "b"})
    second.more = 2
    assert (first.text, first.more) == ("a", 1)
    assert second == Open(text="b", more=2)


def test_last_text_is_that_of_the_chunk_before_only():
    last = LastText()
    one, two = read([event_of(FIRST), event_of({"content": "a"}), event_of({"content": "b"})])[0][1:]
    assert last.like(one) is None
    assert last.keep(one, "made of a") == "made of a"
    assert last.like(two) == "made of a"
    last.keep({"choices": []}, "made of another")
    assert last.like(two) is None
