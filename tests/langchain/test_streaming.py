"""ChatVLLM: streams, complete or an error, and their chunks and events."""

import asyncio
import json
from unittest import mock

import langchain_core.exceptions as lc
import pytest
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.messages import AIMessageChunk
from langchain_openai.chat_models.base import BaseChatOpenAI
from version_marks import fingerprint_is_sent, reasoning_is_parsed

from chunk_variants import CALLS, in_pieces
from vllm_adapters import Timeouts
from vllm_adapters import errors as e
from vllm_adapters._response.text_chunks import TextTemplate
from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
CAPITAL = "What is the capital of Japan?"
TOKYO = "The capital of Japan is Tokyo."

recorded = pytest.mark.vllm("tiny")


@recorded
@fingerprint_is_sent
def test_stream_with_usage(llm, sent):
    chunks = list(llm.stream(CAPITAL))
    assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
    assert len(chunks) > 3
    message = chunks[0] + chunks[1:]
    assert message.text == TOKYO
    assert message.usage_metadata["output_tokens"] > 0
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["system_fingerprint"].count("vllm-") == 1
    assert sent.last.json["stream_options"] == {"include_usage": True}


@recorded
@reasoning_is_parsed
def test_astream(llm, call):
    message = call("astream", llm, CAPITAL, chat_template_kwargs={"enable_thinking": True})
    assert message.text.strip() == TOKYO
    assert message.additional_kwargs["reasoning_content"].strip()


# Stock ChatOpenAI: {}, since it requests no usage when the address is not OpenAI's.
@recorded
def test_usage_of_streams_is_counted(llm, call):
    with get_usage_metadata_callback() as counted:
        message = call("stream", llm, CAPITAL)
        list(llm.stream("Hello"))
    assert counted.usage_metadata["tiny"]["output_tokens"] > message.usage_metadata["output_tokens"] > 0


# Complete or an error. The fault matrix has every way to end a stream early; here are LangChain's own ways to read one.


# Stock ChatOpenAI: a bare httpx error; and where the connection ends cleanly, half a reply as if it were complete.
@pytest.mark.parametrize("way", ["stream", "astream", "invoke_streaming", "ainvoke_streaming", "events_v3"])
@pytest.mark.parametrize("end", ["clean", "close"])
def test_truncated_stream_raises(fault_server, faulty_llm, call, way, end):
    fault_server.reply(faults.sse(*payloads.chat_chunks("one two three", finish_reason=None), end=end))
    with pytest.raises(lc.ModelConnectionError) as caught:
        call(way, faulty_llm)
    assert isinstance(caught.value, e.IncompleteStream)
    assert caught.value.partial == "one two three"
    assert caught.value.is_retryable


# Stock ChatOpenAI: a bare openai.APIError without its code.
@pytest.mark.parametrize("way", ["stream", "events_v3"])
def test_error_event_raises(fault_server, faulty_llm, call, way):
    fault_server.reply(faults.error_event("EngineCore died", after=3))
    with pytest.raises(lc.ModelAPIError, match="EngineCore died") as caught:
        call(way, faulty_llm)
    assert isinstance(caught.value, e.ServerFailed)
    assert (caught.value.status_code, caught.value.partial) == (500, "one two")


# Stock ChatOpenAI: StreamChunkTimeoutError after 120 s, in async streams only.
@pytest.mark.parametrize("way", ["stream", "astream", "invoke_streaming"])
def test_idle_limit_holds_for_sync_and_async_streams(fault_server, call, way):
    llm = ChatVLLM(base_url=fault_server.url, max_retries=0, timeout=Timeouts(idle=0.3))
    fault_server.reply(faults.slow(5, faults.chat("late")))
    with pytest.raises(lc.ModelTimeoutError) as caught:
        call(way, llm)
    assert (caught.value.kind, caught.value.seconds) == ("idle", 0.3)
    assert llm.stream_chunk_timeout is None


# Stock ChatOpenAI: garbage, the pieces of both choices in turn.
@pytest.mark.parametrize("level", ["constructor", "model_kwargs", "extra_body", "bind", "call"])
def test_streaming_several_choices_raises(fault_server, level):
    given = {
        "constructor": {"n": 2},
        "model_kwargs": {"model_kwargs": {"n": 2}},
        "extra_body": {"extra_body": {"n": 2}},
    }
    llm = ChatVLLM(base_url=fault_server.url, **given.get(level, {}))
    bound = llm.bind(n=2) if level == "bind" else llm
    with pytest.raises(lc.ModelInvalidRequestError, match="`n` must be 1"):
        list(bound.stream("x", **({"n": 2} if level == "call" else {})))
    with pytest.raises(ValueError, match="`n` must be 1"):
        ChatVLLM(n=2, streaming=True)
    assert not fault_server.posts(CHAT)


def test_break_closes_the_connection(faulty_llm, fault_server):
    fault_server.reply(faults.chat("word " * 400, pause=0.05))
    for _ in faulty_llm.stream("x"):
        break
    assert fault_server.wait_for(lambda: fault_server.posts(CHAT)[0].disconnected_at is not None, timeout=5)


def test_async_break_closes_the_connection(faulty_llm, fault_server):
    fault_server.reply(faults.chat("word " * 400, pause=0.05))

    async def run():
        async for _ in faulty_llm.astream("x"):
            break
        await asyncio.to_thread(
            fault_server.wait_for, lambda: fault_server.posts(CHAT)[0].disconnected_at is not None, timeout=5
        )

    asyncio.run(run())
    assert fault_server.posts(CHAT)[0].disconnected_at is not None


# Chunks


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_chunks_with_several_kinds_of_delta_lose_nothing(faulty_llm, fault_server, call, way):
    tools = [payloads.tool_call("add", '{"a": 1}', index=0), payloads.tool_call("add", '{"a": 2}', index=1)]
    fault_server.reply(faults.deltas({"reasoning": "because", "content": "six"}, {"content": "!", "tool_calls": tools}))
    message = call(way, faulty_llm)
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "text", "tool_call", "tool_call"]
    assert message.content_blocks[0]["reasoning"] == "because"
    assert message.text == "six!"
    assert [tool["args"] for tool in message.tool_calls] == [{"a": 1}, {"a": 2}]


# Stock ChatOpenAI: of v3 events the last chunk's only.
@pytest.mark.parametrize("way", ["stream", "events_v3", "aevents_v3"])
def test_fields_of_every_chunk_are_merged(faulty_llm, fault_server, call, way):
    chunks = payloads.chat_chunks("one two three", usage=True)
    texts = [chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["delta"].get("content")]
    for number, chunk in enumerate(texts):
        chunk["choices"][0]["token_ids"] = [number]
        chunk["choices"][0]["logprobs"] = {"content": [{"token": str(number), "logprob": -0.5, "top_logprobs": []}]}
    fault_server.reply(faults.sse(*chunks))
    metadata = call(way, faulty_llm).response_metadata
    assert metadata["token_ids"] == list(range(len(texts)))
    assert [item["token"] for item in metadata["logprobs"]["content"]] == [str(n) for n in range(len(texts))]


def text_chunks(kind, *texts):
    """Return the client's chunks of texts or reasoning."""
    choices = [{"index": 0, "delta": {kind: text}, "finish_reason": None, "logprobs": None} for text in texts]
    chunks = [{"id": "chatcmpl-1", "model": "tiny", "choices": [choice]} for choice in choices]
    return [
        TextTemplate.of(event, json.loads(event)).match(event) for event in map(str.encode, map(json.dumps, chunks))
    ]


@pytest.mark.parametrize("version", [None, "v0", "v1"])
@pytest.mark.parametrize("text", [" Paris", "\n", '"content": "x"'])
def test_copied_text_chunk_equals_langchains_own(version, text):
    llm = ChatVLLM(model="tiny", output_version=version)
    [chunk] = text_chunks("content", text)
    copied = llm._convert_chunk_to_generation_chunk(chunk, AIMessageChunk, {})
    converted = BaseChatOpenAI._convert_chunk_to_generation_chunk(llm, dict(chunk), AIMessageChunk, {})
    converted.message.response_metadata["model_provider"] = "vllm"

    assert copied == converted
    assert copied.model_dump() == converted.model_dump()
    assert copied.message.model_fields_set == converted.message.model_fields_set
    assert copied.message.content_blocks == converted.message.content_blocks


def test_copied_text_chunks_share_nothing():
    llm = ChatVLLM(model="tiny")
    first, second = (
        llm._convert_chunk_to_generation_chunk(chunk, AIMessageChunk, {}) for chunk in text_chunks("content", "a", "b")
    )
    for name, value in first.message.__dict__.items():
        if isinstance(value, dict | list):
            assert value is not second.message.__dict__[name], name
    first.message.additional_kwargs["seen"] = True
    first.message.id = "run-1"
    assert (first.text, second.text) == ("a", "b")
    assert second.message.additional_kwargs == {}
    assert second.message.id is None


@pytest.mark.parametrize("version", [None, "v1"])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("calls", [CALLS[:1], CALLS], ids=["one", "two"])
def test_copied_tool_call_chunks_equal_langchains_own(fault_server, calls, size, version):
    chunks = in_pieces(payloads.chat_chunks(None, tool_calls=calls, usage=True), size)
    fault_server.reply(faults.sse(*chunks))
    llm = ChatVLLM(model="tiny", base_url=fault_server.url, output_version=version)
    copied = []
    for chunk in llm.stream("Hi"):
        assert "seen" not in chunk.additional_kwargs
        copied.append(chunk.model_copy(deep=True))
        chunk.additional_kwargs["seen"] = True
    with mock.patch.object(TextTemplate, "of", return_value=None):
        converted = list(llm.stream("Hi"))
    for one, other in zip(copied, converted, strict=True):
        one.id = other.id = None
        assert one == other
        assert one.model_dump() == other.model_dump()
        assert one.model_fields_set == other.model_fields_set
    found = sum(copied[1:], copied[0]).tool_calls
    assert [call["args"] for call in found] == [json.loads(call["function"]["arguments"]) for call in calls]


def test_copied_reasoning_chunk():
    [chunk] = text_chunks("reasoning", "Hm")
    chunk = ChatVLLM(model="tiny")._convert_chunk_to_generation_chunk(chunk, AIMessageChunk, {})
    assert chunk.message.additional_kwargs == {"reasoning_content": "Hm"}
    assert chunk.text == ""
