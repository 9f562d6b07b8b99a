"""Recorded streams of a real vLLM, split and truncated anywhere, give the same messages or an error."""

import asyncio
import functools
import json
import operator
from pathlib import Path

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_adapters import AsyncVLLMClient, VLLMClient
from vllm_adapters._response.stream import ChunkReader
from vllm_adapters.errors import VLLMError
from vllm_adapters.testing.cassettes import load

CASSETTES = Path(__file__).parents[2] / "cassettes"
CHAT = "/v1/chat/completions"


@functools.cache
def recorded():
    """Return name, request and bytes of one short recorded stream of each kind of reply."""
    found = {}
    paths = [*CASSETTES.glob("client/test_client/*stream*.yaml"), *CASSETTES.glob("langchain/test_*/*.yaml")]
    for path in sorted(paths):
        for exchange in load(path.read_text(encoding="utf-8")):
            content = exchange.response_body
            if "event-stream" in exchange.headers.get("content-type", "") and len(content) < 20_000:
                kind = (exchange.path, *(name in content for name in (b'"tool_calls"', b'"reasoning"', b'"length"')))
                found.setdefault(kind, (path.name, json.loads(exchange.request_body), content))
    assert len(found) >= 6
    return list(found.values())


def pieces_of(data, cuts):
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def read(body, pieces):
    """Return the chunks of a stream that arrives in ``pieces``, or raise its error."""
    reader, chunks = ChunkReader(body, "chat" if "messages" in body else "completions"), []
    for piece in pieces:
        chunks += reader.feed(piece)
        if reader.error is not None:
            raise reader.error
    reader.check_complete()
    return chunks


def outcome(body, pieces):
    """Return the chunks of a stream, or its error: of a recorded object that was truncated."""
    try:
        return read(body, pieces)
    except VLLMError as error:
        return type(error), str(error), error.partial


def as_messages(chunks):
    """Return text, reasoning, tool calls and finish reason of each choice."""
    messages = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        message = messages.setdefault(
            choice["index"], {"text": "", "reasoning": "", "tool_calls": {}, "finish_reason": None}
        )
        delta = choice.get("delta") or {"content": choice.get("text")}
        message["text"] += delta.get("content") or ""
        message["reasoning"] += delta.get("reasoning") or ""
        message["finish_reason"] = choice.get("finish_reason") or message["finish_reason"]
        for call in delta.get("tool_calls") or ():
            parts = message["tool_calls"].setdefault(call["index"], {"name": "", "arguments": ""})
            parts["name"] += call["function"].get("name") or ""
            parts["arguments"] += call["function"].get("arguments") or ""
    return messages


STREAMS = st.deferred(lambda: st.sampled_from(recorded()))
CHAT_STREAMS = STREAMS.filter(lambda stream: "messages" in stream[1])
CUTS = st.lists(st.integers(0, 1 << 16), max_size=12)
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(STREAMS, CUTS, LINE_ENDS)
def test_pieces_and_line_ends_do_not_change_the_chunks(stream, cuts, line_end):
    _, body, data = stream
    assert outcome(body, pieces_of(data.replace(b"\n", line_end), cuts)) == outcome(body, [data])


def test_single_bytes_give_the_same_chunks():
    for _, body, data in recorded():
        assert outcome(body, [bytes([byte]) for byte in data]) == outcome(body, [data])


@settings(max_examples=300)
@given(STREAMS, st.integers(0, 1 << 16), CUTS)
def test_truncated_stream_is_complete_or_raises(stream, end, cuts):
    _, body, data = stream
    try:
        chunks = read(body, pieces_of(data[: end % len(data)], cuts))
    except VLLMError:
        return
    assert as_messages(chunks) == as_messages(read(body, [data]))


def sent_in_pieces(data, cuts):
    async def behave(exchange):
        await exchange.head(content_type="text/event-stream; charset=utf-8")
        for piece in pieces_of(data, cuts):
            await exchange.data(piece)
            await asyncio.sleep(0)
        await exchange.finish()

    return behave


@settings(max_examples=25)
@given(stream=CHAT_STREAMS, cuts=CUTS)
@pytest.mark.parametrize("client_class", [VLLMClient, AsyncVLLMClient])
def test_pieces_do_not_change_the_messages_of_the_client(fault_server, client_class, stream, cuts):
    _, body, data = stream
    fault_server.reply(sent_in_pieces(data, cuts), CHAT)
    request = {"model": "stub", "messages": [{"role": "user", "content": "x"}], "stream": True, "n": body.get("n") or 1}

    def run():
        with VLLMClient(fault_server.url) as client:
            return list(client.chat.completions.create(**request))

    async def arun():
        async with AsyncVLLMClient(fault_server.url) as client:
            return [chunk async for chunk in await client.chat.completions.create(**request)]

    chunks = run() if client_class is VLLMClient else asyncio.run(arun())
    assert all(isinstance(chunk, openai.types.chat.ChatCompletionChunk) for chunk in chunks)
    found = as_messages([chunk.model_dump(warnings=False) for chunk in chunks])
    assert found == as_messages(read(request, [data]))


def in_langchain(url):
    from vllm_adapters.langchain import ChatVLLM

    total = functools.reduce(operator.add, ChatVLLM(base_url=url, model="stub").stream("x"))
    calls = [[(call["name"], call["args"]) for call in calls] for calls in (total.tool_calls, total.invalid_tool_calls)]
    return total.text, total.additional_kwargs.get("reasoning_content"), calls, total.response_metadata["finish_reason"]


def in_llamaindex(url):
    from llama_index.core.base.llms.types import ChatMessage

    from vllm_adapters.llamaindex import VLLM

    *_, last = VLLM("stub", api_base=url).stream_chat([ChatMessage(role="user", content="x")])
    blocks = [block.model_dump(exclude={"tool_call_id"}) for block in last.message.blocks]
    return blocks, last.message.additional_kwargs.get("invalid_tool_calls"), last.additional_kwargs["finish_reason"]


def in_haystack(url):
    from vllm_adapters.haystack import VLLMChatGenerator

    generator = VLLMChatGenerator(model="stub", api_base_url=url)
    [message] = generator.run("x", streaming_callback=lambda chunk: None)["replies"]
    calls = [(call.tool_name, call.arguments) for call in message.tool_calls]
    invalid_calls = message.meta.get("invalid_tool_calls")
    return message.text, str(message.reasoning), calls, invalid_calls, message.meta["finish_reason"]


@settings(max_examples=20)
@given(stream=CHAT_STREAMS.filter(lambda stream: (stream[1].get("n") or 1) == 1), cuts=CUTS, line_end=LINE_ENDS)
@pytest.mark.parametrize(
    ("reply", "module"),
    [(in_langchain, "langchain_openai"), (in_llamaindex, "llama_index"), (in_haystack, "haystack")],
    ids=["langchain", "llamaindex", "haystack"],
)
def test_pieces_do_not_change_the_message_of_a_framework(fault_server, reply, module, stream, cuts, line_end):
    pytest.importorskip(module)
    _, _, data = stream
    fault_server.reply(sent_in_pieces(data, []), CHAT)
    whole = reply(fault_server.url)
    assert any(whole)
    fault_server.reply(sent_in_pieces(data.replace(b"\n", line_end), cuts), CHAT)
    assert reply(fault_server.url) == whole
