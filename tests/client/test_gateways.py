"""What gateways in front of a vLLM change in its responses is read as vLLM sent it, or raises an error."""

import gzip
import json

import pytest

from vllm_adapters import VLLMClient
from vllm_adapters import errors as e
from vllm_adapters.testing import faults, payloads

HELLO = {"model": "stub", "messages": [{"role": "user", "content": "x"}]}
FIRST, *WORDS, LAST = payloads.chat_chunks("one two")
USAGE = {**payloads.chunk({}), "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def finish_reasons(chunks):
    return [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]


def replaced(chunk, name, value=None):
    """Return ``chunk`` with a field of it, or of its choice, set to null (or another value)."""
    choices = [{**choice, **({name: value} if name in choice else {})} for choice in chunk["choices"]]
    return {**chunk, "choices": choices, **({name: value} if name in chunk else {})}


def stream_of(*chunks, before=""):
    """Return the bytes of a stream that ``faults.sse`` cannot write."""
    events = (chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return "".join((before, *events, "data: [DONE]\n\n")).encode()


# Streams


@pytest.mark.parametrize(
    "body",
    [
        stream_of(*WORDS, LAST, before="\ufeff"),
        stream_of(FIRST, *WORDS, LAST, before="data:\n\ndata: \n\n"),
        stream_of(FIRST, *WORDS, LAST, before='event: ping\ndata: {"type": "ping"}\n\n'),
        stream_of(FIRST, *WORDS, LAST, LAST),
        stream_of(FIRST, *WORDS, LAST, replaced(LAST, "finish_reason", "length")),
        stream_of(FIRST, *WORDS, replaced(LAST, "delta")),
        stream_of(*(replaced(chunk, "object", "x") for chunk in (FIRST, *WORDS, LAST))),
        stream_of(*(replaced(chunk, "index") for chunk in (FIRST, *WORDS, LAST))),
    ],
    ids=[
        "byte-order-mark",
        "empty-events",
        "ping-with-data",
        "two-ends",
        "two-ends-that-differ",
        "no-delta-at-the-end",
        "another-object",
        "no-index",
    ],
)
def test_stream_in_another_form_is_complete(ask, fault_server, body):
    fault_server.reply(faults.reply(body, content_type="Text/Event-Stream"))
    chunks = ask(fault_server.url, stream=True)
    assert text_of(chunks) == "one two"
    assert finish_reasons(chunks) == ["stop"]
    with (
        VLLMClient(fault_server.url, max_retries=0) as client,
        client.chat.completions.stream(**HELLO) as stream,
    ):
        assert stream.get_final_completion().choices[0].message.content == "one two"


@pytest.mark.parametrize(
    "usage",
    [USAGE, replaced(USAGE, "choices"), {name: value for name, value in USAGE.items() if name != "choices"}],
    ids=["no-choices", "null-choices", "no-choices-field"],
)
def test_usage_after_the_last_choice_is_passed_on(ask, fault_server, usage):
    fault_server.reply(faults.sse(FIRST, *WORDS, LAST, usage))
    chunks = ask(fault_server.url, stream=True)
    assert text_of(chunks) == "one two"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 2)


@pytest.mark.parametrize(
    "event",
    [
        {"object": "error", "message": "out of memory", "type": "InternalServerError", "code": 500},
        {"detail": "out of memory"},
        'event: error\ndata: {"message": "out of memory"}',
        'event: error\ndata: {"message": "out of memory", "code": 500}',
    ],
    ids=["flat", "detail", "event-error", "event-error-code"],
)
def test_error_event_in_another_form_raises(ask, fault_server, event):
    fault_server.reply(faults.sse(FIRST, *WORDS, event, LAST))
    with pytest.raises(e.ServerFailed, match="out of memory") as caught:
        ask(fault_server.url, stream=True)
    assert caught.value.partial == "one two"


# Compression


GZIP = {"content-encoding": "gzip"}


@pytest.mark.parametrize("stream", [True, False])
def test_body_that_is_not_compressed_as_declared_raises(ask, fault_server, stream):
    fault_server.reply(faults.reply(stream_of(FIRST, LAST), content_type="text/event-stream", headers=GZIP))
    with pytest.raises(e.IncompleteStream if stream else e.ServerUnreachable, match="while decompressing"):
        ask(fault_server.url, stream=stream)


@pytest.mark.parametrize("intact", [0, 600])
def test_corrupted_compression_raises(ask, fault_server, intact):
    packed = gzip.compress(stream_of(*payloads.chat_chunks("word " * 400)))
    corrupted = packed[:intact] + b"\x00" * 80 + packed[intact:]
    fault_server.reply(faults.split(faults.reply(corrupted, content_type="text/event-stream", headers=GZIP), 100))
    # What is corrupted may at first decompress to other text.
    with pytest.raises((e.IncompleteStream, e.InvalidResponse), match=r"decompressing|is not JSON"):
        ask(fault_server.url, stream=True)
    fault_server.reply(faults.reply(corrupted, headers=GZIP))
    with pytest.raises(e.ServerUnreachable, match="decompressing"):
        ask(fault_server.url, stream=True)


@pytest.mark.parametrize(
    "behaviour",
    [
        faults.reply(b"{}", 500, headers=GZIP),
        faults.reply(b"{}", headers=GZIP),
        faults.truncate(faults.error(400), after=10),
        faults.truncate(faults.chat("hi"), after=10),
    ],
    ids=["error-gzip", "reply-gzip", "error-truncated", "reply-truncated"],
)
def test_body_that_breaks_after_its_headers_raises(fault_server, behaviour):
    fault_server.reply(behaviour)
    with (
        VLLMClient(fault_server.url, max_retries=0) as client,
        pytest.raises(e.ServerUnreachable, match=r"did not respond: (Error -3 while decompressing|peer closed)"),
        client.chat.completions.with_streaming_response.create(**HELLO) as response,
    ):
        response.read()


# Something else in place of vLLM's response


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_gateway_without_n_raises(fault_server, kind):
    fault_server.reply(faults.json_reply(payloads.chat("x") if kind == "chat" else payloads.completion("x")))
    with VLLMClient(fault_server.url, max_retries=0) as client:
        create = client.chat.completions.create if kind == "chat" else client.completions.create
        request = HELLO if kind == "chat" else {"model": "stub", "prompt": "x"}
        with pytest.raises(e.InvalidResponse, match="1 choices, not 2"):
            create(**request, n=2)


@pytest.mark.parametrize(
    ("behaviour", "error", "text"),
    [
        (faults.html(), e.InvalidResponse, "text/html"),
        (faults.json_reply([1]), e.InvalidResponse, r"is not a JSON object|cannot be parsed"),
        (faults.reply(b""), e.InvalidResponse, "cannot be parsed"),
        # The SDK's class of a response has a field of this name, so that one raises the other error.
        (faults.json_reply(payloads.error("went wrong", code=500)), (e.ServerFailed, e.InvalidResponse), "went wrong"),
    ],
    ids=["html", "list", "empty", "error"],
)
@pytest.mark.parametrize(
    "send",
    [
        lambda client: client.models.list(),
        lambda client: client.models.retrieve("stub"),
        lambda client: client.models.with_raw_response.list(),
        lambda client: client.responses.create(model="stub", input="x"),
    ],
    ids=["models", "model", "raw-models", "responses"],
)
def test_200_of_a_gateway_raises_for_every_resource(fault_server, behaviour, error, text, send):
    for path in ("/v1/models", "/v1/models/stub", "/v1/responses"):
        fault_server.reply(behaviour, path)
    with VLLMClient(fault_server.url, max_retries=0) as client, pytest.raises(error, match=text):
        send(client)
