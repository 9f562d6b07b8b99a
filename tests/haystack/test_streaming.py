"""Streams of VLLMChatGenerator: chunks with one kind of content, callbacks, and streams that end early."""

import asyncio
from unittest import mock

import pytest

from chunk_variants import CALLS, in_pieces, with_reasoning
from vllm_adapters import errors as e
from vllm_adapters._response.text_chunks import TextTemplate
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
ADD = payloads.tool_call("add", '{"a": 1, "b": 2}', index=0)


@pytest.mark.parametrize("end", ["clean", "close"])
def test_truncated_stream_raises(stub_llm, fault_server, stream, end):
    # vllm-haystack returns a stream that ends cleanly as a reply, and raises httpx's errors for the others.
    fault_server.reply(faults.sse(*payloads.chat_chunks("one two three", finish_reason=None), end=end))
    with pytest.raises(e.IncompleteStream) as caught:
        stream(stub_llm)
    assert caught.value.partial == "one two three"
    assert "".join(chunk.content for chunk in stream.chunks) == "one two three"


@pytest.mark.parametrize(
    ("delta", "reasoning", "text", "tool_calls"),
    [
        ({"reasoning": "because", "content": "six"}, "because", "six", 0),
        ({"reasoning": "because", "tool_calls": [ADD]}, "because", None, 1),
        ({"content": "six", "tool_calls": [ADD]}, None, "six", 1),
    ],
    ids=["reasoning+text", "reasoning+call", "text+call"],
)
def test_deltas_with_several_kinds_are_split(stub_llm, fault_server, stream, delta, reasoning, text, tool_calls):
    # vllm-haystack loses the text, drops the call, and raises ValueError.
    fault_server.reply(faults.deltas(delta))
    (reply,) = stream(stub_llm)
    assert (reply.reasoning and reply.reasoning.reasoning_text, reply.text) == (reasoning, text)
    assert [call.arguments for call in reply.tool_calls] == [{"a": 1, "b": 2}] * tool_calls
    assert [chunk.index for chunk in stream.chunks if chunk.start] == [0, 1]


def test_deltas_of_alternating_tool_calls_belong_to_their_blocks(stub_llm, fault_server):
    parts = [(0, "weather", '{"city": '), (1, "weather", '{"city": '), (0, None, '"Rome"}'), (1, None, '"Oslo"}')]
    calls = [{"index": at, "function": {"name": name, "arguments": text}} for at, name, text in parts]
    deltas = [{"content": "I look."}, *({"tool_calls": [call]} for call in calls), {"content": " Wait."}]
    fault_server.reply(faults.deltas(*deltas, finish_reason="tool_calls"))
    chunks = []
    stub_llm.run("hi", streaming_callback=chunks.append)
    blocks = [(chunk.index, chunk.start) for chunk in chunks if chunk.index is not None]
    assert blocks == [(0, True), (1, True), (2, True), (1, False), (2, False), (3, True)]


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "repetition"])
def test_finish_reason_of_a_chunk_with_reasoning(stub_llm, fault_server, stream, reason):
    # vllm-haystack loses it on chunks of reasoning, and does not know vLLM's own reasons.
    last = payloads.chunk({"reasoning": "because"}, finish_reason=reason)
    last["choices"][0]["logprobs"] = {"content": [{"token": "because", "logprob": -0.1, "top_logprobs": []}]}
    last["choices"][0]["stop_reason"] = "x"
    fault_server.reply(faults.sse(payloads.chunk({"role": "assistant", "content": ""}), last))
    (reply,) = stream(stub_llm)
    assert reply.meta["finish_reason"] == stream.chunks[-1].finish_reason == reason
    assert reply.meta["stop_reason"] == "x"
    assert reply.meta["logprobs"]["content"][0]["token"] == "because"


def test_chunks_name_the_component(stub_llm, stream):
    stream(stub_llm)
    (type_,) = {chunk.component_info.type for chunk in stream.chunks}
    assert type_ == "haystack_integrations.components.vllm_adapters.VLLMChatGenerator"


def test_callback_of_the_constructor(stub_llm):
    chunks = []
    stub_llm.streaming_callback = chunks.append
    assert stub_llm.run("one two")["replies"][0].text == "one two"
    assert "".join(chunk.content for chunk in chunks) == "one two"


def test_sync_callback_in_run_async(stub_llm):
    chunks = []
    asyncio.run(stub_llm.run_async("one two", streaming_callback=chunks.append))
    assert "".join(chunk.content for chunk in chunks) == "one two"


def test_failing_callback_closes_the_connection(stub_llm, fault_server):
    fault_server.reply(faults.chat("word " * 400, pause=0.05))

    def fail(chunk):
        raise LookupError

    with pytest.raises(LookupError):
        stub_llm.run("x", streaming_callback=fail)
    assert fault_server.wait_for(lambda: fault_server.posts(CHAT)[0].disconnected_at is not None, timeout=5)


@pytest.mark.parametrize("failure", ["raise", "cancel"])
def test_failing_async_callback_closes_the_connection(stub_llm, fault_server, failure):
    fault_server.reply(faults.chat("word " * 400, pause=0.05))

    async def fail(chunk):
        if failure == "raise":
            raise LookupError
        await asyncio.sleep(60)

    async def run():
        with pytest.raises(LookupError if failure == "raise" else TimeoutError):
            await asyncio.wait_for(stub_llm.run_async("x", streaming_callback=fail), 0.5)
        await asyncio.sleep(0.3)

    asyncio.run(run())
    assert fault_server.posts(CHAT)[0].disconnected_at is not None


@pytest.mark.parametrize("tool_calls", [(), CALLS], ids=["text", "tool-calls"])
@pytest.mark.parametrize("convert", [list, with_reasoning, in_pieces], ids=["plain", "reasoning", "pieces"])
def test_copied_chunks_equal_new_ones(stream, stub_llm, fault_server, convert, tool_calls):
    chunks = convert(payloads.chat_chunks("one two three four", usage=True, tool_calls=tool_calls))
    fault_server.reply(faults.sse(*chunks))
    stream(stub_llm)
    copied = [*stream.chunks]
    with mock.patch.object(TextTemplate, "of", return_value=None):
        stream(stub_llm)
    assert len(copied) == len(stream.chunks) == len(chunks)
    for chunk, new in zip(copied, stream.chunks, strict=True):
        assert chunk.meta.pop("received_at") <= new.meta.pop("received_at")
        assert vars(chunk) == vars(new)
        assert list(vars(chunk)) == list(vars(new))
    copied[2].meta["seen"] = True
    assert "seen" not in copied[3].meta
