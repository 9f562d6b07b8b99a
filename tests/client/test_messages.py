"""Anthropic's route ``/v1/messages``, by the client's ``post``: replies, complete streams, and typed errors."""

from functools import partial

import openai
import pytest
from version_marks import vllm_since

from vllm_adapters import VLLMClient
from vllm_adapters import errors as e
from vllm_adapters.testing import faults

last_piece_is_sent = partial(vllm_since, "0.18", before=e.IncompleteStream, match="may lack its last piece")
HELLO = [{"role": "user", "content": "What is the capital of France?"}]
ROUTE = "/v1/messages"
EVENTS = [
    {
        "type": "message_start",
        "message": {"id": "msg_1", "role": "assistant", "content": [], "model": "stub", "stop_reason": None},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one "}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "two"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]


def send(client, **request):
    body = {"model": "tiny", "max_tokens": 30, "messages": HELLO, **request}
    if not request.get("stream"):
        return client.post("/messages", body=body, cast_to=dict[str, object])
    return list(client.post("/messages", body=body, cast_to=object, stream=True, stream_cls=openai.Stream[object]))


def text_of(events):
    return "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")


@pytest.mark.vllm("tiny")
class TestRealServer:
    @pytest.fixture
    def client(self, vllm_url):
        with VLLMClient(vllm_url, max_retries=0) as client:
            yield client

    def test_reply_of_messages(self, client, sent):
        reply = send(client, temperature=0)
        assert reply["content"][0]["text"] == "The capital of France is Paris."
        assert reply["stop_reason"] == "end_turn"
        assert sent.last.json["messages"] == HELLO

    @last_piece_is_sent(sometimes=True)
    def test_whole_stream_of_messages(self, client):
        events = send(client, temperature=0, stream=True)
        assert text_of(events) == "The capital of France is Paris."
        assert events[-1]["type"] == "message_stop"

    @last_piece_is_sent()
    def test_stream_that_the_token_limit_ends(self, client):
        events = send(client, temperature=0, stream=True, max_tokens=3)
        assert text_of(events) == "The capital"
        assert events[-2]["delta"]["stop_reason"] == "max_tokens"

    def test_model_that_is_not_served(self, client):
        with pytest.raises(e.ModelNotServed) as caught:
            send(client, model="other")
        assert caught.value.served == ("tiny",)

    def test_required_parameter_that_is_missing(self, client):
        with pytest.raises(e.InvalidRequest, match="max_tokens"):
            client.post("/messages", body={"model": "tiny", "messages": HELLO}, cast_to=dict[str, object])


def test_cut_stream_of_messages_raises(fault_server):
    fault_server.reply(faults.sse(*EVENTS[:4], end="clean"), ROUTE)
    with VLLMClient(fault_server.url, max_retries=0) as client, pytest.raises(e.IncompleteStream) as caught:
        send(client, stream=True)
    assert caught.value.partial == "one two"


def test_complete_stream_of_messages(fault_server):
    fault_server.reply(faults.sse(*EVENTS, end="clean"), ROUTE)
    with VLLMClient(fault_server.url, max_retries=0) as client:
        assert text_of(send(client, stream=True)) == "one two"


def test_error_event_of_messages_raises(fault_server):
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "too much"}}
    fault_server.reply(faults.sse(*EVENTS[:3], error, end="clean"), ROUTE)
    with VLLMClient(fault_server.url, max_retries=0) as client, pytest.raises(e.VLLMError, match="too much") as caught:
        send(client, stream=True)
    assert caught.value.partial == "one "


def of_old_server(*deltas, stop_reason, tokens):
    """Return the events of vLLM 0.14, which drops the text that comes with the stop reason."""
    start = {"type": "message_start", "message": {"id": "msg_1", "content": [], "model": "stub"}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    parts = [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
    end = {"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": tokens}}
    return faults.sse(start, block, *parts, EVENTS[4], end, EVENTS[6], end="clean")


ONE, TWO = ({"type": "text_delta", "text": text} for text in ("one ", "two"))
CALL = {"type": "input_json_delta", "partial_json": '{"city": "Rome"'}
END = {"type": "input_json_delta", "partial_json": "}"}


@pytest.mark.parametrize(
    ("deltas", "end"),
    [
        ([ONE, TWO], {"stop_reason": "end_turn", "tokens": 4}),
        ([ONE, TWO], {"stop_reason": "max_tokens", "tokens": 3}),
        ([CALL], {"stop_reason": "tool_use", "tokens": 9}),
    ],
    ids=["end of text", "token limit", "tool call"],
)
def test_stream_whose_last_piece_an_older_server_drops_raises(fault_server, deltas, end):
    fault_server.reply(of_old_server(*deltas, **end), ROUTE)
    error = pytest.raises(e.IncompleteStream, match=r"may lack its last piece.*or no stream")
    with VLLMClient(fault_server.url, max_retries=0) as client, error as caught:
        send(client, stream=True)
    assert caught.value.partial == "".join(delta.get("text", "") for delta in deltas)


@pytest.mark.parametrize(
    ("deltas", "end"),
    [
        ([ONE, TWO], {"stop_reason": "end_turn", "tokens": 3}),
        ([ONE, TWO], {"stop_reason": "max_tokens", "tokens": 2}),
        ([CALL, END], {"stop_reason": "tool_use", "tokens": 9}),
    ],
    ids=["end of text", "token limit", "tool call"],
)
def test_whole_stream_of_an_older_server(fault_server, deltas, end):
    fault_server.reply(of_old_server(*deltas, **end), ROUTE)
    with VLLMClient(fault_server.url, max_retries=0) as client:
        assert send(client, stream=True)[-1]["type"] == "message_stop"
