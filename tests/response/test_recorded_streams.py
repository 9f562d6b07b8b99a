"""Streams that a real vLLM sent, in any pieces and cut anywhere: the same messages, or an error."""

import asyncio
import functools
import json
import operator
from pathlib import Path

import openai
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vllm_adapters import AsyncVLLMClient, VLLMClient
from vllm_adapters._response.stream import ChunkReader, split_chunk
from vllm_adapters.errors import VLLMError
from vllm_adapters.testing.cassette import load

CASSETTES = Path(__file__).parents[2] / "cassettes"
CHAT = "/v1/chat/completions"


@functools.cache
def recorded():
    """Requests and bytes of recorded streams, one of each sort of conversation, and not too long."""
    found = {}
    for path in sorted(CASSETTES.glob("client/test_client/*stream*.yaml")) + sorted(
        CASSETTES.glob("langchain/test_*/*.yaml")
    ):
        for said in load(path.read_text(encoding="utf-8")):
            if "event-stream" in said.headers.get("content-type", "") and len(said.answer) < 20_000:
                body = json.loads(said.body)
                sort = (
                    said.path,
                    b'"tool_calls"' in said.answer,
                    b'"reasoning"' in said.answer,
                    b'"length"' in said.answer,
                )
                found.setdefault(sort, (path.name, body, said.answer))
    assert len(found) >= 6
    return list(found.values())


def pieces_of(data, cuts):
    places = sorted({place % (len(data) + 1) for place in cuts})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def read(body, pieces):
    reader, chunks = ChunkReader(body, "chat" if "messages" in body else "completions"), []
    for piece in pieces:
        chunks += reader.feed(piece)
        if reader.error is not None:
            raise reader.error
    reader.check_complete()
    return chunks


def as_message(chunks):
    """What a user would make of chunks: texts, thoughts, calls and finish reason by choice."""
    found = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        said = found.setdefault(choice["index"], {"text": "", "thought": "", "calls": {}, "finish": None})
        delta = choice.get("delta") or {"content": choice.get("text")}
        said["text"] += delta.get("content") or ""
        said["thought"] += delta.get("reasoning") or ""
        said["finish"] = choice.get("finish_reason") or said["finish"]
        for call in delta.get("tool_calls") or ():
            own = said["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
            own["name"] += call["function"].get("name") or ""
            own["arguments"] += call["function"].get("arguments") or ""
    return found


STREAMS = st.deferred(lambda: st.sampled_from(recorded()))
CUTS = st.lists(st.integers(0, 1 << 16), max_size=12)
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(STREAMS, CUTS, LINE_ENDS)
def test_any_split_yields_the_same_chunks(stream, cuts, line_end):
    _, body, data = stream
    assert read(body, pieces_of(data.replace(b"\n", line_end), cuts)) == read(body, [data])


def test_every_byte_a_piece():
    for _, body, data in recorded():
        assert read(body, [bytes([byte]) for byte in data]) == read(body, [data])


@settings(max_examples=300)
@given(STREAMS, st.integers(0, 1 << 16), CUTS)
def test_a_stream_cut_anywhere_is_whole_or_raises(stream, end, cuts):
    _, body, data = stream
    try:
        chunks = read(body, pieces_of(data[: end % len(data)], cuts))
    except VLLMError:
        return
    assert as_message(chunks) == as_message(read(body, [data]))


def sent_in(data, pieces_at):
    async def behave(exchange):
        await exchange.head(content_type="text/event-stream; charset=utf-8")
        for piece in pieces_of(data, pieces_at):
            await exchange.data(piece)
            await asyncio.sleep(0)
        await exchange.finish()

    return behave


@settings(max_examples=25)
@given(stream=STREAMS, cuts=CUTS)
@pytest.mark.parametrize("life", ["sync", "async"])
def test_any_split_yields_the_same_messages_over_http(fault_server, life, stream, cuts):
    _, body, data = stream
    if "messages" not in body:
        return
    fault_server.reply(sent_in(data, cuts), CHAT)
    request = {"model": "stub", "messages": [{"role": "user", "content": "x"}], "stream": True, "n": body.get("n") or 1}

    async def run():
        async with AsyncVLLMClient(fault_server.url) as client:
            return [chunk async for chunk in await client.chat.completions.create(**request)]

    if life == "sync":
        with VLLMClient(fault_server.url) as client:
            chunks = list(client.chat.completions.create(**request))
    else:
        chunks = asyncio.run(run())
    assert all(isinstance(chunk, openai.types.chat.ChatCompletionChunk) for chunk in chunks)
    found = as_message([chunk.model_dump(warnings=False) for chunk in chunks])
    assert found == as_message(read(request, [data]))


def in_langchain(url):
    from vllm_adapters.langchain import ChatVLLM

    total = functools.reduce(operator.add, ChatVLLM(base_url=url, model="stub").stream("x"))
    calls = [[(call["name"], call["args"]) for call in kind] for kind in (total.tool_calls, total.invalid_tool_calls)]
    return total.text, total.additional_kwargs.get("reasoning_content"), calls, total.response_metadata["finish_reason"]


def in_llamaindex(url):
    from llama_index.core.base.llms.types import ChatMessage

    from vllm_adapters.llamaindex import VLLM

    *_, last = VLLM("stub", api_base=url).stream_chat([ChatMessage(role="user", content="x")])
    blocks = [block.model_dump(exclude={"tool_call_id"}) for block in last.message.blocks]
    return blocks, last.message.additional_kwargs.get("invalid_tool_calls"), last.additional_kwargs["finish_reason"]


def in_haystack(url):
    from vllm_adapters.haystack import VLLMChatGenerator

    found = VLLMChatGenerator(model="stub", api_base_url=url).run("x", streaming_callback=lambda chunk: None)
    [message] = found["replies"]
    calls = [(call.tool_name, call.arguments) for call in message.tool_calls]
    broken = message.meta.get("invalid_tool_calls")
    return message.text, str(message.reasoning), calls, broken, message.meta["finish_reason"]


@settings(max_examples=20)
@given(stream=STREAMS, cuts=CUTS, line_end=LINE_ENDS)
@pytest.mark.parametrize(
    ("room", "needs"), [(in_langchain, "langchain_openai"), (in_llamaindex, "llama_index"), (in_haystack, "haystack")]
)
def test_any_split_yields_the_same_message_in_every_room(fault_server, room, needs, stream, cuts, line_end):
    pytest.importorskip(needs)
    _, body, data = stream
    if "messages" not in body or (body.get("n") or 1) > 1:
        return
    fault_server.reply(sent_in(data, []), CHAT)
    whole = room(fault_server.url)
    assert any(whole)
    fault_server.reply(sent_in(data.replace(b"\n", line_end), cuts), CHAT)
    assert room(fault_server.url) == whole


@st.composite
def chunks(draw):
    """A chunk of several choices, each with any mixture of kinds."""

    def choice(index):
        texts = st.none() | st.just("") | st.text(min_size=1, max_size=3)
        delta = {
            name: value
            for name in ("role", "reasoning", "reasoning_content", "content")
            if (value := draw(texts)) is not None
        }
        if "reasoning" in delta:
            delta.pop("reasoning_content", None)
        if calls := draw(st.lists(st.integers(0, 3), max_size=3)):
            delta["tool_calls"] = [{"index": i, "function": {"arguments": draw(st.text(max_size=2))}} for i in calls]
        reason = draw(st.sampled_from([None, "stop", "length"]))
        return {"index": index, "delta": delta, "finish_reason": reason, "stop_reason": reason and 7, "logprobs": None}

    made = [choice(index) for index in range(draw(st.integers(0, 3)))]
    return {"id": "x", "model": "m", "choices": made, **draw(st.sampled_from([{}, {"usage": {"total_tokens": 3}}]))}


def once(fields, name):
    return [fields[name]] if name in fields else []


@given(chunks())
@example({"choices": [], "usage": {"total_tokens": 3}})
def test_one_kind_each_loses_and_doubles_nothing(chunk):
    was = json.loads(json.dumps(chunk))
    pieces = split_chunk(chunk)
    assert [piece["usage"] for piece in pieces if "usage" in piece] == once(was, "usage")
    for choice in was["choices"]:
        said = [c for piece in pieces for c in piece["choices"] if c["index"] == choice["index"]]
        for part in said:
            delta = part["delta"]
            kinds = bool(delta.get("reasoning")) + bool(delta.get("content")) + len(delta.get("tool_calls") or ())
            assert kinds <= 1
        before = choice["delta"]
        assert "".join(c["delta"].get("reasoning") or "" for c in said) == (
            before.get("reasoning") or before.get("reasoning_content") or ""
        )
        assert "".join(c["delta"].get("content") or "" for c in said) == (before.get("content") or "")
        assert [t for c in said for t in c["delta"].get("tool_calls") or ()] == before.get("tool_calls", [])
        assert [c["delta"]["role"] for c in said if "role" in c["delta"]] == once(before, "role")
        assert [c["finish_reason"] for c in said][:-1] == [None] * (len(said) - 1)
        assert (said[-1]["finish_reason"], said[-1]["stop_reason"]) == (choice["finish_reason"], choice["stop_reason"])
