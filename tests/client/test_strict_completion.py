"""``strict_completion``: a stream that a gateway ended in the server's place is incomplete. Sessions in a header."""

import pytest

from vllm_adapters import errors as e
from vllm_adapters.testing import faults, payloads

CHUNKS = payloads.chat_chunks("one two three", usage=True)
USAGE = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
STRICT = {"stream": True, "extra_body": {"strict_completion": True}}


def invented(**usage):
    """A stream as LiteLLM ends one that was cut: a finish reason and a usage of its own."""
    end = payloads.chunk({}, finish_reason="stop")
    last = {**payloads.chunk({}), "usage": {**USAGE, **usage}}
    last.pop("system_fingerprint", None)
    return faults.sse(*CHUNKS[:3], end, last)


def test_complete_stream_passes(fault_server, ask):
    chunks = ask(fault_server.url, **STRICT)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two three four five"
    sent = fault_server.posts()[-1].json
    assert sent["stream_options"] == {"include_usage": True}
    assert "strict_completion" not in sent


@pytest.mark.vllm("tiny")
def test_complete_stream_of_a_real_server_passes(vllm_url, ask, sent):
    request = {**STRICT, "messages": [{"role": "user", "content": "What is the capital of Japan?"}], "model": "tiny"}
    chunks = ask(vllm_url, client={"timeout": 60}, **request)
    assert "Tokyo" in "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert sent.last.json["stream_options"] == {"include_usage": True}


def test_invented_end_passes_without_it(fault_server, ask):
    fault_server.reply(invented())
    assert ask(fault_server.url, stream=True)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (invented(), "no system_fingerprint"),
        (invented(completion_tokens=0), "counts 0 tokens"),
        (faults.sse(*CHUNKS[:3], payloads.chunk({}, finish_reason="stop")), "usage is missing"),
    ],
    ids=["fingerprint", "tokens", "usage"],
)
def test_invented_end_is_incomplete(fault_server, ask, behaviour, reason):
    fault_server.reply(behaviour)
    with pytest.raises(e.IncompleteStream, match=reason) as caught:
        ask(fault_server.url, **STRICT)
    assert caught.value.partial == "one two"


def test_older_servers_send_no_fingerprint(fault_server, ask):
    fault_server.reply(invented())
    assert ask(fault_server.url, client={"server_version": "0.18.1"}, **STRICT)


def test_version_is_looked_up(make_fault_server, ask):
    server = make_fault_server(version="0.14.1")
    server.reply(invented(), "/v1/chat/completions")
    assert ask(server.url, **STRICT)
    assert [request.route for request in server.requests] == ["/version", "/v1/chat/completions"]


def test_replies_that_are_not_streamed_pass(fault_server, ask):
    ask(fault_server.url, extra_body={"strict_completion": True})
    assert not {"strict_completion", "stream_options"} & fault_server.posts()[-1].json.keys()


# Sessions


def test_session_is_sent_in_body_and_header(fault_server, ask):
    ask(fault_server.url, extra_body={"session_id": "thread-1"})
    (post,) = fault_server.posts()
    assert (post.json["session_id"], post.headers["x-session-id"]) == ("thread-1", "thread-1")


def test_header_of_the_caller_is_kept(fault_server, ask):
    ask(fault_server.url, extra_body={"session_id": "a"}, extra_headers={"x-session-id": "b"})
    assert fault_server.posts()[0].headers["x-session-id"] == "b"


def test_session_of_a_version_without_it_is_a_header_only(fault_server, ask):
    ask(fault_server.url, client={"server_version": "0.18.1"}, extra_body={"session_id": "a"})
    (post,) = fault_server.posts()
    assert "session_id" not in post.json
    assert post.headers["x-session-id"] == "a"


@pytest.mark.parametrize(("session", "header"), [("Gespräch\n1", "Gespr%C3%A4ch%0A1"), ("a/b:c=1", "a/b:c=1")])
def test_session_is_encoded_for_the_header(fault_server, ask, session, header):
    ask(fault_server.url, extra_body={"session_id": session})
    assert fault_server.posts()[0].headers["x-session-id"] == header


def test_no_session_no_header(fault_server, ask):
    ask(fault_server.url)
    assert "x-session-id" not in fault_server.posts()[0].headers
