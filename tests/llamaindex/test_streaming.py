"""Streams of ``VLLM``: each response is the reply so far, and a stream is complete or an error."""

import asyncio
from unittest import mock

import openai
import pytest

from chunk_variants import CALLS, in_pieces, with_reasoning

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock

from vllm_adapters import errors as e
from vllm_adapters._response.text_chunks import TextTemplate
from vllm_adapters.llamaindex import VLLM
from vllm_adapters.testing import faults, payloads

recorded = pytest.mark.vllm("tiny")
sync_and_async = pytest.mark.parametrize("method", ["stream_chat", "astream_chat"], indirect=True)

CAPITAL = "What is the capital of Japan?"
TOKYO = "The capital of Japan is Tokyo."
THINK = {"enable_thinking": True}
CHAT = "/v1/chat/completions"
MESSAGES = [ChatMessage(role="user", content=CAPITAL)]


def thinking(message):
    return "".join(block.content for block in message.blocks if isinstance(block, ThinkingBlock))


@recorded
def test_stream_has_usage_and_finish_reason(llm, sent):
    # Stock: neither.
    responses = list(llm.stream_chat(MESSAGES))
    assert len(responses) > 3
    assert "".join(response.delta for response in responses) == responses[-1].message.content == TOKYO
    last = responses[-1].additional_kwargs
    assert last["finish_reason"] == "stop"
    assert last["completion_tokens"] > 3
    assert sent.last.json["stream_options"] == {"include_usage": True}
    first = responses[1]
    assert first.message.content in TOKYO
    assert "finish_reason" not in first.additional_kwargs


@recorded
async def test_astream_complete(llm):
    responses = [response async for response in await llm.astream_complete(CAPITAL)]
    assert "".join(response.delta for response in responses) == responses[-1].text == TOKYO
    assert responses[-1].additional_kwargs["finish_reason"] == "stop"


@recorded
async def test_async_stream_has_all_reasoning(llm):
    whole = thinking(llm.chat(MESSAGES, chat_template_kwargs=THINK).message)
    responses = [found async for found in await llm.astream_chat(MESSAGES, chat_template_kwargs=THINK)]
    deltas = [found.additional_kwargs.get("thinking_delta") for found in responses]
    assert thinking(responses[-1].message) == "".join(filter(None, deltas)) == whole


@pytest.mark.parametrize("method", ["stream_chat", "astream_complete"], indirect=True)
@pytest.mark.parametrize("end", ["clean", "close", "reset"])
def test_truncated_stream_raises(fault_server, method, is_chat_model, end):
    # Stock: a clean or closed end is silent, as if the text were complete; a reset is a bare httpx.ReadError.
    llm = VLLM(base_url=fault_server.url, max_retries=0, is_chat_model=is_chat_model)
    chunks = payloads.chat_chunks if is_chat_model else payloads.completion_chunks
    fault_server.reply(faults.sse(*chunks("one two three", finish_reason=None), end=end))
    with pytest.raises(e.IncompleteStream) as caught:
        method(llm)
    assert isinstance(caught.value, openai.APIConnectionError)
    assert caught.value.partial == "one two three"


@pytest.mark.parametrize("name", ["stream_chat", "stream_complete"])
def test_leaving_a_stream_disconnects(fault_llm, fault_server, name):
    fault_server.reply(faults.chat("word " * 400, pause=0.05))
    for _ in fault_llm.stream_chat(MESSAGES) if name == "stream_chat" else fault_llm.stream_complete("x"):
        break
    assert fault_server.wait_for(lambda: fault_server.posts(CHAT)[0].disconnected_at is not None, timeout=1)


def test_leaving_an_async_stream_disconnects(fault_llm, fault_server):
    fault_server.reply(faults.chat("word " * 400, pause=0.05))

    async def run():
        async for _ in await fault_llm.astream_chat(MESSAGES):
            break
        await asyncio.sleep(0.3)

    asyncio.run(run())
    assert fault_server.posts(CHAT)[0].disconnected_at is not None


@sync_and_async
def test_chunk_with_several_kinds_of_delta(fault_llm, fault_server, method):
    # Stock: the second tool call of a chunk is lost.
    tools = [payloads.tool_call("add", '{"a": 1}', index=0), payloads.tool_call("add", '{"a": 2}', index=1)]
    fault_server.reply(faults.deltas({"reasoning": "because", "content": "six"}, {"content": "!", "tool_calls": tools}))
    message = method(fault_llm).message
    assert [block.block_type for block in message.blocks] == ["thinking", "text", "tool_call", "tool_call"]
    assert (message.blocks[0].content, message.content) == ("because", "six!")
    assert [block.tool_kwargs for block in message.blocks[2:]] == [{"a": 1}, {"a": 2}]


@sync_and_async
def test_first_chunk_with_reasoning(fault_llm, fault_server, method):
    # Stock: async streams drop it.
    first = {"role": "assistant", "content": None, "reasoning": "FIRST "}
    fault_server.reply(faults.deltas(first, {"reasoning": "second"}, {"content": "six"}))
    assert method(fault_llm).message.blocks[0].content == "FIRST second"


def snapshots(responses):
    """Return all responses, and the JSON of each at the time it came."""
    found, shown = [], []
    for response in responses:
        found.append(response)
        shown.append(response.model_dump_json())
    return found, shown


def test_tool_calls_of_earlier_responses_do_not_change(fault_llm, fault_server):
    # Stock: the first chunk has the whole arguments afterwards.
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("add", '{"a": 1, "b": 2}', index=0)]))
    responses, shown = snapshots(fault_llm.stream_chat(MESSAGES))
    assert [response.model_dump_json() for response in responses] == shown
    assert len(shown) > 3


def chunks_with_tokens(*words):
    """Return chunks with log probabilities and token ids, which responses accumulate in lists."""
    for index, word in enumerate(words):
        chunk = payloads.chunk({"content": word})
        token = {"token": word, "logprob": -1.0, "bytes": None, "top_logprobs": []}
        chunk["choices"][0] |= {"logprobs": {"content": [token]}, "token_ids": [index]}
        yield chunk
    yield payloads.chunk({}, finish_reason="stop")


@pytest.mark.parametrize("name", ["stream_chat", "stream_complete"])
def test_lists_of_earlier_responses_do_not_change(fault_llm, fault_server, name):
    fault_server.reply(faults.sse(*chunks_with_tokens("one", "two", "three")))
    responses, shown = snapshots(getattr(fault_llm, name)(MESSAGES if name == "stream_chat" else "one"))
    assert [response.model_dump_json() for response in responses] == shown
    assert [response.additional_kwargs["token_ids"] for response in responses[:3]] == [[0], [0, 1], [0, 1, 2]]
    contents = [response.additional_kwargs["logprobs"]["content"] for response in responses[:3]]
    assert [len(content) for content in contents] == [1, 2, 3]


@pytest.mark.parametrize("name", ["stream_chat", "stream_complete"])
def test_logprobs_are_converted_once(fault_llm, fault_server, name):
    # If every chunk converted them all, 5000 tokens would take a minute of CPU.
    fault_server.reply(faults.sse(*chunks_with_tokens("one", "two", "three")))
    responses = getattr(fault_llm, name)(MESSAGES if name == "stream_chat" else "one")
    found = [response.logprobs for response in responses]
    assert [[token.token for (token,) in tokens] for tokens in found[:3]] == [
        ["one"],
        ["one", "two"],
        ["one", "two", "three"],
    ]
    assert all(tokens[0] is found[0][0] for tokens in found)


# Chunks that differ in their text alone are copies of the first


@pytest.mark.parametrize("tool_calls", [(), CALLS], ids=["text", "tool-calls"])
@pytest.mark.parametrize("convert", [list, with_reasoning, in_pieces], ids=["plain", "reasoning", "pieces"])
@pytest.mark.parametrize("name", ["stream_chat", "stream_complete"])
def test_copied_responses_equal_new_ones(fault_llm, fault_server, name, convert, tool_calls):
    chunks = convert(payloads.chat_chunks("one two three four", usage=True, tool_calls=tool_calls))
    text = "Hi" if name == "stream_complete" else [ChatMessage(content="Hi")]
    fault_server.reply(faults.sse(*chunks))
    copied = list(getattr(fault_llm, name)(text))
    with mock.patch.object(TextTemplate, "of", return_value=None):
        new = list(getattr(fault_llm, name)(text))
    assert len(copied) == len(chunks)
    assert copied == new
    assert [response.model_dump() for response in copied] == [response.model_dump() for response in new]
    assert [response.model_fields_set for response in copied] == [response.model_fields_set for response in new]
    for response in copied[:-1]:
        response.additional_kwargs["seen"] = response.raw["seen"] = True
        if name == "stream_chat":
            response.message.additional_kwargs["seen"] = True
            response.message.blocks.clear()
    assert copied[-1] == new[-1]


def test_copied_completions_equal_new_ones(fault_server):
    llm = VLLM(base_url=fault_server.url, is_chat_model=False)
    fault_server.reply(faults.sse(*payloads.completion_chunks("one two three four")))
    copied = list(llm.stream_complete("Hi"))
    with mock.patch.object(TextTemplate, "of", return_value=None):
        new = list(llm.stream_complete("Hi"))
    assert len(copied) == 4
    assert copied == new
