"""``RawCompletions`` returns plain dicts, which are checked as the SDK's objects are."""

import asyncio

import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient
from vllm_adapters import errors as e
from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters.testing import faults, payloads

HELLO = {"model": "stub", "messages": [{"role": "user", "content": "one two"}]}


@pytest.fixture
def client(fault_server):
    with VLLMClient(fault_server.url, max_retries=0) as client:
        yield client


def test_chat_completions_are_dicts(client):
    reply = RawCompletions(client).create(**HELLO)
    assert reply["choices"][0]["message"]["content"] == "one two"
    chunks = list(RawCompletions(client).create(**HELLO, stream=True))
    assert all(isinstance(chunk, dict) for chunk in chunks)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "one two"


def test_completions_are_dicts(client):
    completions = RawCompletions(client, path="/completions")
    assert completions.create(model="", prompt="one two")["choices"][0]["text"] == "one two"
    chunks = list(completions.create(model="", prompt="one two", stream=True))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"]) == "one two"


def test_async_client_returns_awaitables(fault_server):
    async def run():
        async with AsyncVLLMClient(fault_server.url, max_retries=0) as client:
            completions = RawCompletions(client)
            reply = await completions.create(**HELLO)
            chunks = [chunk async for chunk in await completions.create(**HELLO, stream=True)]
            return reply, chunks

    reply, chunks = asyncio.run(run())
    assert reply["choices"][0]["message"]["content"] == "one two"
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "one two"


def test_raw_response_has_headers_and_the_dict(client, fault_server):
    headers = {"x-request-id": "r-1"}
    fault_server.script("/v1/chat/completions", [faults.json_reply(payloads.chat("hi"), headers=headers)])
    raw = RawCompletions(client).with_raw_response.create(**HELLO, extra_headers={"x-mine": "1"})
    assert raw.headers["x-request-id"] == "r-1"
    assert raw.parse()["choices"][0]["message"]["content"] == "hi"
    stream = RawCompletions(client).with_raw_response.create(**HELLO, stream=True).parse()
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in stream) == "one two"
    assert [post.headers.get("x-mine") for post in fault_server.posts()] == ["1", None]


def test_send_options_are_not_in_the_body(client, fault_server):
    options = {"extra_headers": {"x-mine": "1"}, "extra_query": {"a": "b"}, "timeout": 30, "extra_body": {"top_k": 1}}
    RawCompletions(client).create(**HELLO, **options)
    [post] = fault_server.posts()
    assert post.json == {**HELLO, "top_k": 1}
    assert (post.headers["x-mine"], post.path) == ("1", "/v1/chat/completions?a=b")


def test_incomplete_stream_raises(client, fault_server):
    fault_server.reply(faults.sse(*payloads.completion_chunks("one two", finish_reason=None), end="clean"))
    with pytest.raises(e.IncompleteStream, match="without a finish reason"):
        list(RawCompletions(client, path="/completions").create(model="", prompt="one two", stream=True))


def test_error_in_a_200_raises(client, fault_server):
    fault_server.reply(faults.json_reply({"error": {"message": "out of memory", "code": 500}}))
    with pytest.raises(e.ServerFailed, match="out of memory") as caught:
        RawCompletions(client).create(**HELLO)
    assert caught.value.status_code == 500


def test_violated_constraint_raises(client, fault_server):
    fault_server.reply(faults.chat("perhaps"))
    with pytest.raises(e.ConstraintNotEnforced, match="none of the choices"):
        RawCompletions(client).create(**HELLO, structured_outputs={"choice": ["yes", "no"]})


def test_unknown_parameter_raises(client, fault_server):
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
        RawCompletions(client).create(**HELLO, topk=1)
    assert not fault_server.requests
