"""What gateways before a vLLM make of its replies: read as it was meant, or refused with an error of ours."""

import json

import pytest

from vllm_adapters import VLLMClient
from vllm_adapters import errors as e
from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters.testing import faults, payloads

HELLO = {"model": "stub", "messages": [{"role": "user", "content": "x"}]}
FIRST, *WORDS, LAST = payloads.chat_chunks("one two")
USAGE = {**payloads.chunk({}), "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def finish_reasons(chunks):
    return [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]


def without(chunk, name, value=None):
    """``chunk`` with a field of it, or of its choice, null (or another value)."""
    choices = [{**choice, **({name: value} if name in choice else {})} for choice in chunk["choices"]]
    return {**chunk, "choices": choices, **({name: value} if name in chunk else {})}


def events(*chunks, before=""):
    """The bytes of a stream, for those that ``faults.sse`` does not write."""
    said = (chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return "".join((before, *said, "data: [DONE]\n\n")).encode()


@pytest.mark.parametrize(
    "body",
    [
        events(*WORDS, LAST, before="\ufeff"),
        events(FIRST, *WORDS, LAST, before="data:\n\ndata: \n\n"),
        events(FIRST, *WORDS, LAST, before='event: ping\ndata: {"type": "ping"}\n\n'),
        events(FIRST, *WORDS, LAST, without(USAGE, "choices")),
        events(FIRST, *WORDS, LAST, {name: value for name, value in USAGE.items() if name != "choices"}),
        events(FIRST, *WORDS, LAST, LAST),
        events(FIRST, *WORDS, LAST, without(LAST, "finish_reason", "length")),
        events(FIRST, *WORDS, without(LAST, "delta")),
        events(*(without(chunk, "object", "x") for chunk in (FIRST, *WORDS, LAST))),
        events(*(without(chunk, "index") for chunk in (FIRST, *WORDS, LAST))),
    ],
    ids=[
        "byte-order-mark",
        "empty-events",
        "ping-with-data",
        "usage-and-null-choices",
        "usage-without-choices",
        "two-ends",
        "two-ends-that-differ",
        "no-delta-at-the-end",
        "another-object",
        "no-index",
    ],
)
def test_a_stream_in_another_form_is_whole(ask, fault_server, body):
    fault_server.reply(faults.reply(body, content_type="Text/Event-Stream"))
    chunks = ask(fault_server.url, stream=True)
    assert text_of(chunks) == "one two"
    assert finish_reasons(chunks) == ["stop"]
    assert all(isinstance(chunk.choices, list) for chunk in chunks)
    with (
        VLLMClient(fault_server.url, max_retries=0) as client,
        client.chat.completions.stream(**HELLO) as stream,
    ):
        assert stream.get_final_completion().choices[0].message.content == "one two"


@pytest.mark.parametrize(
    "said",
    ['event: error\ndata: {"message": "engine died", "code": 500}\n\n', 'data: {"detail": "engine died"}\n\n'],
    ids=["message", "detail"],
)
def test_a_complaint_under_another_name_is_an_error(ask, fault_server, said):
    fault_server.reply(faults.reply(events(FIRST, *WORDS, said, LAST), content_type="text/event-stream"))
    with pytest.raises(e.ServerFailed, match="engine died") as caught:
        ask(fault_server.url, stream=True)
    assert caught.value.partial == "one two"


@pytest.mark.parametrize(
    "chunk",
    [
        payloads.chat("one two"),
        without(LAST, "delta", "one two"),
        payloads.chunk({"content": 5}),
        payloads.chunk({"reasoning": 5}),
    ],
    ids=["a-message", "a-text", "a-number", "a-thought-number"],
)
def test_what_is_no_delta_is_not_taken_for_an_empty_one(ask, fault_server, chunk):
    fault_server.reply(faults.sse(chunk))
    with pytest.raises(e.InvalidResponse):
        ask(fault_server.url, stream=True)


def calls_of(chunks):
    found = {}
    for chunk in chunks:
        for call in chunk.choices[0].delta.tool_calls or ():
            name, text = found.get(call.index, ("", ""))
            found[call.index] = (name + (call.function.name or ""), text + (call.function.arguments or ""))
    return [found[index] for index in sorted(found)]


def test_calls_without_indices_are_kept_apart(ask, fault_server):
    calls = [payloads.tool_call("add", '{"a"'), payloads.tool_call("add", ": 1}"), payloads.tool_call("now", "")]
    calls[1] = {"function": {"arguments": ": 1}"}}
    fault_server.reply(faults.deltas(*({"tool_calls": [call]} for call in calls), finish_reason="tool_calls"))
    assert calls_of(ask(fault_server.url, stream=True)) == [("add", '{"a": 1}'), ("now", "")]


def test_calls_that_the_sdks_helper_cannot_put_together(fault_server):
    call = payloads.tool_call("add", "{}", index=2)
    fault_server.reply(faults.deltas({"tool_calls": [call]}, finish_reason="tool_calls"))
    with (
        VLLMClient(fault_server.url, max_retries=0) as client,
        client.chat.completions.stream(**HELLO) as stream,
        pytest.raises(e.InvalidResponse, match="count from 0"),
    ):
        stream.get_final_completion()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("choices", "x"),
        ("choices", [None]),
        ("choices", ["x"]),
        ("message", "hi"),
        ("message", 5),
        ("content", 5),
        ("content", float("nan")),
        ("tool_calls", "x"),
        ("tool_calls", [None]),
        ("usage", []),
        ("usage", "x"),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
def test_json_of_another_form_is_no_answer(fault_server, part, value, plain):
    whole = payloads.chat("hi")
    choice = whole["choices"][0]
    part_of = {"choices": whole, "usage": whole, "message": choice}
    part_of.get(part, choice["message"])[part] = value
    fault_server.reply(faults.json_reply(whole))
    with VLLMClient(fault_server.url, max_retries=0) as client:
        completions = RawCompletions(client) if plain else client.chat.completions
        with pytest.raises(e.InvalidResponse):
            completions.create(**HELLO)


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_as_many_choices_as_were_asked_for(fault_server, kind):
    fault_server.reply(faults.json_reply(payloads.chat("x") if kind == "chat" else payloads.completion("x")))
    with VLLMClient(fault_server.url, max_retries=0) as client:
        create = client.chat.completions.create if kind == "chat" else client.completions.create
        asked = HELLO if kind == "chat" else {"model": "stub", "prompt": "x"}
        with pytest.raises(e.InvalidResponse, match="1 choices, not 2"):
            create(**asked, n=2)


def embed(client, **asked):
    reply = client.embeddings.create(model="stub", input=["a", "b"], **asked)
    return [item.embedding for item in reply.data]


# Stock, and vLLM's float16 read as half as many numbers of float32: all wrong, and none of them looks it.
@pytest.mark.parametrize("said", [{"embed_dtype": "float16"}, {"endianness": "big"}])
def test_vectors_of_another_type_are_asked_for_as_numbers(fault_server, said):
    with VLLMClient(fault_server.url, max_retries=0) as client:
        assert embed(client, extra_body=said) == [payloads.vector("a"), payloads.vector("b")]
        assert fault_server.posts("/v1/embeddings")[-1].json["encoding_format"] == "float"
        embed(client, encoding_format="base64", extra_body=said)
        assert fault_server.posts("/v1/embeddings")[-1].json["encoding_format"] == "base64"
        embed(client)
        assert fault_server.posts("/v1/embeddings")[-1].json["encoding_format"] == "base64"


GZIP = {"content-encoding": "gzip"}


@pytest.mark.parametrize("stream", [True, False])
def test_a_body_that_is_not_compressed_as_it_says(ask, fault_server, stream):
    fault_server.reply(faults.reply(events(FIRST, LAST), content_type="text/event-stream", headers=GZIP))
    with pytest.raises(e.VLLMError, match="decompressing"):
        ask(fault_server.url, stream=stream)


@pytest.mark.parametrize(
    "behaviour",
    [
        faults.reply(b"{}", 500, headers=GZIP),
        faults.reply(b"{}", headers=GZIP),
        faults.truncate(faults.error(400), after=10),
        faults.truncate(faults.chat("hi"), after=10),
    ],
    ids=["error-gzip", "reply-gzip", "error-cut", "reply-cut"],
)
def test_bodies_that_break_off_behind_their_headers(fault_server, behaviour):
    fault_server.reply(behaviour)
    with (
        VLLMClient(fault_server.url, max_retries=0) as client,
        pytest.raises(e.ServerUnreachable),
        client.chat.completions.with_streaming_response.create(**HELLO) as response,
    ):
        response.read()


PAGE = [
    faults.html(),
    faults.json_reply([1]),
    faults.reply(b""),
    faults.json_reply(payloads.error("went wrong", code=500)),
]


@pytest.mark.parametrize("behaviour", PAGE, ids=["html", "list", "empty", "error"])
@pytest.mark.parametrize(
    "ask_for",
    [
        lambda client: client.models.list(),
        lambda client: client.models.retrieve("stub"),
        lambda client: client.models.with_raw_response.list(),
        lambda client: client.responses.create(model="stub", input="x"),
    ],
    ids=["models", "model", "raw-models", "responses"],
)
def test_a_page_is_no_answer_to_any_question(fault_server, behaviour, ask_for):
    for path in ("/v1/models", "/v1/models/stub", "/v1/responses"):
        fault_server.reply(behaviour, path)
    with VLLMClient(fault_server.url, max_retries=0) as client, pytest.raises((e.InvalidResponse, e.ServerFailed)):
        ask_for(client)
