"""Server-sent events are parsed the same in whatever pieces and with whatever line ends they arrive."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_adapters._response.sse import EventSplitter
from vllm_adapters.testing import faults, payloads


def events(*pieces):
    splitter = EventSplitter()
    return [data for piece in pieces for data in splitter.feed(piece)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"data: one\n\ndata: two\n\n", [b"one", b"two"]),
        (b"data:one\n\n", [b"one"]),
        (b"data:  one\n\n", [b" one"]),
        (b"data: one\ndata: two\n\n", [b"one\ntwo"]),
        (b"data: one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
        (b"data: one\r\rdata: two\r\r", [b"one"]),  # the last \r may be half of a \r\n
        (b": ping\n\ndata: one\n\n", [b"one"]),
        (b"event: error\nid: 7\nretry: 10\ndata: one\n\n", [b"one"]),
        (b"data:\n\ndata: \n\ndata: one\n\n", [b"one"]),
        (b"\xef\xbb\xbfdata: one\n\n", [b"one"]),
        (b"data: one", []),
        (b"data: one\n", []),
        (b"\n\n\n", []),
        (b"", []),
    ],
)
def test_feed_returns_the_data_of_complete_events(text, found):
    assert events(text) == found


EVENTS = st.lists(
    st.sampled_from([b": ping\n", b"id: 3\n", b"data: one\n", b"data: h\xc3\xa9\n", b"data:\n", b"\n"]), max_size=12
).map(lambda lines: b"".join(lines) + b"\n\n:\n")


@given(EVENTS, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.lists(st.integers(0, 200), max_size=8))
def test_pieces_and_line_ends_do_not_change_the_events(text, line_end, cuts):
    changed = text.replace(b"\n", line_end)
    places = sorted({min(cut, len(changed)) for cut in cuts})
    pieces = [changed[start:end] for start, end in zip([0, *places], [*places, len(changed)], strict=True)]
    assert events(*pieces) == events(text)
    assert events(*(bytes([byte]) for byte in changed)) == events(text)


@pytest.mark.parametrize(
    ("pieces", "only_comments"),
    [
        ([b": ping\n\n"], True),
        ([b": pi", b"ng\n"], True),
        ([b": pi"], True),
        ([b"\n"], True),
        ([b"\r"], True),
        ([b"data: one\n\n"], False),
        ([b"data: o"], False),
        ([b": ping\n\ndata: one\n\n"], False),
        ([b": ping\n\ndat"], False),
        ([b"data: o", b"ne"], False),
        ([b"data: one\n\n", b": ping\n\n"], True),
        ([b"id: 3\n"], False),
    ],
)
def test_only_comments_tells_of_the_last_piece(pieces, only_comments):
    splitter = EventSplitter()
    for piece in pieces:
        splitter.feed(piece)
    assert splitter.only_comments is only_comments


def test_long_line_takes_linear_time():
    started = time.perf_counter()
    [data] = events(b"data: ", *[b"x" * 100] * 200_000, b"\n\n")
    assert len(data) == 20_000_000
    assert time.perf_counter() - started < 30, "well below a second; minutes if each piece were joined to the line"


# Through the client


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.mark.parametrize(
    "behaviour",
    [
        faults.sse(*payloads.chat_chunks("héllo wörld"), newline="\r\n"),
        faults.sse(*payloads.chat_chunks("héllo wörld"), newline="\r"),
        faults.split(faults.sse(*payloads.chat_chunks("héllo wörld"), newline="\r\n"), size=1),
        faults.sse(": ping", "retry: 10\nid: 3", *payloads.chat_chunks("héllo wörld"), ": bye"),
    ],
    ids=["crlf", "cr", "crlf-split-everywhere", "comments-retry-id"],
)
def test_client_reads_every_form_of_events(ask, fault_server, behaviour):
    fault_server.reply(behaviour)
    assert text_of(ask(fault_server.url, stream=True)) == "héllo wörld"


def test_client_reads_an_event_of_several_data_lines(ask, fault_server):
    first = '{"id":"x","object":"chat.completion.chunk","created":1,"model":"stub",'
    second = '"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}'
    fault_server.reply(faults.sse(f"data: {first}\ndata: {second}"))
    assert text_of(ask(fault_server.url, stream=True)) == "hi"
