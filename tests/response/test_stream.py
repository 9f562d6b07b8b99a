"""A stream is complete or raises an error with what had arrived; its chunks have one kind of delta each."""

import asyncio
import json
import time

import openai
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllm_adapters import AsyncVLLMClient, Timeouts, VLLMClient
from vllm_adapters import errors as e
from vllm_adapters._response.stream import split_chunk
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
HELLO = {"model": "stub", "messages": [{"role": "user", "content": "one two"}]}
WORDS = payloads.chat_chunks("one two three four five", finish_reason=None)


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# Completeness


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_stream_without_a_finish_reason_raises(ask, fault_server, framing):
    fault_server.reply(faults.sse(*WORDS[:4], end="clean", framing=framing))
    arrived = []
    with pytest.raises(e.IncompleteStream, match="it ended without a finish reason") as caught:
        ask(fault_server.url, chunks=arrived, stream=True)
    assert caught.value.partial == text_of(arrived) == "one two three"
    assert isinstance(caught.value, openai.APIConnectionError)
    assert len(fault_server.posts(CHAT)) == 1


@pytest.mark.parametrize("end", ["close", "reset"])
def test_connection_that_breaks_raises_and_is_not_retried(ask, fault_server, end):
    fault_server.reply(faults.sse(*WORDS[:3], end=end))
    with pytest.raises(e.IncompleteStream, match="The stream ended early") as caught:
        ask(fault_server.url, stream=True, client={"max_retries": 2})
    assert caught.value.partial == "one two"
    assert len(fault_server.posts(CHAT)) == 1


def test_done_without_a_finish_reason_raises(ask, fault_server):
    fault_server.reply(faults.sse(*WORDS))
    with pytest.raises(e.IncompleteStream, match="it ended without a finish reason") as caught:
        ask(fault_server.url, stream=True)
    assert caught.value.partial == "one two three four five"


def test_finish_reason_without_done_is_complete(ask, fault_server):
    fault_server.reply(faults.sse(*payloads.chat_chunks("one two"), end="clean"))
    assert text_of(ask(fault_server.url, stream=True)) == "one two"


def test_unfinished_choice_of_several_raises(ask, fault_server):
    second = [{**chunk, "choices": [{**c, "index": 1} for c in chunk["choices"]]} for chunk in WORDS[:2]]
    fault_server.reply(faults.sse(*payloads.chat_chunks("whole"), *second))
    with pytest.raises(e.IncompleteStream, match="it ended without a finish reason") as caught:
        ask(fault_server.url, stream=True, n=2)
    assert caught.value.partials == {0: "whole", 1: "one"}


def test_missing_choice_of_several_raises(ask, fault_server):
    fault_server.reply(faults.sse(*payloads.chat_chunks("whole")))
    with pytest.raises(e.IncompleteStream, match="it ended without a finish reason") as caught:
        ask(fault_server.url, stream=True, n=2)
    assert caught.value.partials == {0: "whole"}


def test_error_has_the_reasoning_that_had_arrived(ask, fault_server):
    fault_server.reply(faults.sse(*payloads.chat_chunks("six", reasoning="because", finish_reason=None)))
    with pytest.raises(e.IncompleteStream, match="it ended without a finish reason") as caught:
        ask(fault_server.url, stream=True)
    assert (caught.value.partial, caught.value.partial_reasoning) == ("six", "because")


def test_prompt_embeds_count_as_prompts(fault_server):
    chunks = [
        {**chunk, "choices": [{**chunk["choices"][0], "index": n}]}
        for n in range(3)
        for chunk in payloads.completion_chunks("one two")
    ]
    fault_server.reply(faults.sse(*chunks))
    request = {"model": "stub", "prompt": ["a", "b"], "stream": True, "extra_body": {"prompt_embeds": ["AAAA"]}}
    found = list(VLLMClient(fault_server.url).completions.create(**request))
    assert {choice.index for chunk in found for choice in chunk.choices} == {0, 1, 2}


@pytest.mark.parametrize("end", ["response.completed", "response.incomplete", None])
def test_responses_stream_ends_with_its_event(fault_server, end):
    deltas = [{"type": "response.output_text.delta", "delta": text} for text in ("one", " two")]
    fault_server.reply(faults.sse(*deltas, *([{"type": end, "response": {"id": "r"}}] if end else [])))
    stream = VLLMClient(fault_server.url).responses.create(model="stub", input="x", stream=True)
    if end:
        assert [event.type for event in stream] == ["response.output_text.delta"] * 2 + [end]
    else:
        with pytest.raises(e.IncompleteStream, match="without a finish reason"):
            list(stream)


@pytest.mark.parametrize("reason", ["repetition", "length"])
def test_finish_reasons_that_openai_does_not_have_are_passed_on(ask, fault_server, reason):
    fault_server.reply(faults.sse(*payloads.chat_chunks("one", finish_reason=reason)))
    chunks = ask(fault_server.url, stream=True)
    assert chunks[-1].choices[0].finish_reason == reason
    assert type(chunks[-1]).__name__ == "ChatCompletionChunk"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reason", ["abort", "error"])
def test_aborted_reply_raises(ask, fault_server, reason, stream):
    fault_server.reply(faults.chat("one two", finish_reason=reason))
    with pytest.raises(e.ServerFailed, match=f"aborted the reply.*'{reason}'") as caught:
        ask(fault_server.url, stream=stream, client={"max_retries": 2})
    assert caught.value.partial == "one two"
    assert len(fault_server.posts(CHAT)) == 1


def test_line_of_megabytes_is_read(ask, fault_server):
    fault_server.reply(faults.sse(*payloads.chat_chunks(["x" * 20_000_000])))
    assert len(text_of(ask(fault_server.url, stream=True, client={"timeout": 60}))) == 20_000_000


# Time limits


def test_hanging_stream_ends_at_the_idle_limit(ask, fault_server):
    fault_server.reply(faults.sse(*WORDS[:3], end="hang"))
    with pytest.raises(e.ServerTimeout, match=r"idle limit of 0\.5 s") as caught:
        ask(fault_server.url, stream=True, client={"timeout": openai.Timeout(30, read=0.5)})
    assert caught.value.kind == "idle"
    assert caught.value.partial == "one two"


def test_endless_comments_end_at_the_total_limit(ask, fault_server):
    fault_server.reply(faults.drip(0.05))
    with pytest.raises(e.ServerTimeout, match="total limit of 1 s") as caught:
        ask(fault_server.url, stream=True, client={"timeout": 1, "max_retries": 2})
    assert (caught.value.kind, caught.value.seconds) == ("total", 1)
    assert caught.value.__cause__ is not caught.value, "following the causes would never end"
    assert len(fault_server.posts(CHAT)) == 1


def test_keep_alive_comments_do_not_reset_the_idle_limit(ask, fault_server):
    fault_server.reply(faults.sse(*WORDS[:3], *[": ping"] * 1000, pause=0.05))  # 50 s
    started = time.monotonic()
    with pytest.raises(e.ServerTimeout, match=r"keep-alive comments arrived within the idle limit of 0\.5 s") as caught:
        ask(fault_server.url, stream=True, client={"timeout": Timeouts(idle=0.5, total=300)})
    assert (caught.value.kind, caught.value.partial) == ("idle", "one two")
    assert time.monotonic() - started < 25


def test_comments_between_words_do_not_time_out(ask, fault_server):
    words = payloads.chat_chunks("one two three")
    events = [event for word in words for event in (": ping", ": ping", word)]
    fault_server.reply(faults.split(faults.sse(*events, pause=0.1), size=3))
    assert text_of(ask(fault_server.url, stream=True, client={"timeout": Timeouts(idle=1)})) == "one two three"


def test_time_between_two_reads_is_not_the_servers(fault_server):
    first, *rest = payloads.chat_chunks("one two three")
    fault_server.reply(faults.sse(first, *[": ping"] * 10, *rest, pause=0.02))
    client = VLLMClient(fault_server.url, timeout=Timeouts(idle=1))
    chunks = iter(client.chat.completions.create(**HELLO, stream=True))
    next(chunks)
    time.sleep(1.2)
    assert text_of(chunks) == "one two three"


# Error events


@pytest.mark.parametrize("shape", ["object", "string"])
@pytest.mark.parametrize("after", [0, 3])
def test_error_event_raises(ask, fault_server, shape, after):
    fault_server.reply(faults.error_event("EngineCore died", after=after, shape=shape))
    with pytest.raises(e.ServerFailed, match="EngineCore died") as caught:
        ask(fault_server.url, stream=True)
    assert isinstance(caught.value, openai.InternalServerError)
    assert caught.value.partial == ("one two" if after else "")


def test_error_event_of_an_invalid_request_raises(ask, fault_server):
    fault_server.reply(faults.error_event("Invalid grammar specification: x", code=400))
    with pytest.raises(e.InvalidRequest, match="Invalid grammar specification: x") as caught:
        ask(fault_server.url, stream=True)
    assert caught.value.status_code == 400


# One kind of delta per chunk


def test_reasoning_and_content_of_one_chunk_are_split(ask, fault_server):
    fault_server.reply(
        faults.deltas(
            {"role": "assistant", "reasoning": "because ", "content": "six"},
            {"reasoning_content": "old name", "content": " seven"},
        )
    )
    chunks = ask(fault_server.url, stream=True)
    found = [
        (kind, getattr(chunk.choices[0].delta, kind))
        for chunk in chunks
        for kind in ("reasoning", "content")
        if getattr(chunk.choices[0].delta, kind, None)
    ]
    assert found == [
        ("reasoning", "because "),
        ("content", "six"),
        ("reasoning", "old name"),
        ("content", " seven"),
    ]
    assert chunks[0].choices[0].delta.role == "assistant"


def test_tool_calls_content_and_finish_reason_of_one_chunk_are_split(ask, fault_server):
    calls = [payloads.tool_call("add", '{"a": 1}', index=0), payloads.tool_call("mul", '{"b": 2}', index=1)]
    chunk = payloads.chunk({"content": "so:", "tool_calls": calls}, finish_reason="tool_calls")
    chunk["choices"][0]["stop_reason"] = 7
    fault_server.reply(faults.sse(chunk))
    chunks = ask(fault_server.url, stream=True)
    assert [bool(c.choices[0].delta.content) for c in chunks] == [True, False, False]
    assert [[t.function.name for t in c.choices[0].delta.tool_calls or []] for c in chunks] == [[], ["add"], ["mul"]]
    assert [c.choices[0].finish_reason for c in chunks] == [None, None, "tool_calls"]
    assert chunks[-1].choices[0].stop_reason == 7


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

    choices = [choice(index) for index in range(draw(st.integers(0, 3)))]
    return {"id": "x", "model": "m", "choices": choices, **draw(st.sampled_from([{}, {"usage": {"total_tokens": 3}}]))}


def once(fields, name):
    return [fields[name]] if name in fields else []


@given(chunks())
@example({"choices": [], "usage": {"total_tokens": 3}})
def test_split_chunk_loses_and_repeats_nothing(chunk):
    before = json.loads(json.dumps(chunk))
    pieces = split_chunk(chunk)
    assert [piece["usage"] for piece in pieces if "usage" in piece] == once(before, "usage")
    for choice in before["choices"]:
        parts = [c for piece in pieces for c in piece["choices"] if c["index"] == choice["index"]]
        for part in parts:
            delta = part["delta"]
            kinds = bool(delta.get("reasoning")) + bool(delta.get("content")) + len(delta.get("tool_calls") or ())
            assert kinds <= 1
        whole = choice["delta"]
        assert "".join(c["delta"].get("reasoning") or "" for c in parts) == (
            whole.get("reasoning") or whole.get("reasoning_content") or ""
        )
        assert "".join(c["delta"].get("content") or "" for c in parts) == (whole.get("content") or "")
        assert [t for c in parts for t in c["delta"].get("tool_calls") or ()] == whole.get("tool_calls", [])
        assert [c["delta"]["role"] for c in parts if "role" in c["delta"]] == once(whole, "role")
        assert [c["finish_reason"] for c in parts][:-1] == [None] * (len(parts) - 1)
        last = parts[-1]
        assert (last["finish_reason"], last["stop_reason"]) == (choice["finish_reason"], choice["stop_reason"])


# Malformed streams

TWO_TOOLS = [payloads.tool_call(name, text, index=0) for name, text in (("look", ""), ("add", '{"a": 2}'))]
ARGUMENTS = {"index": 0, "id": "x", "function": {"name": "add", "arguments": {"a": 1}}}
TWO_CHOICES = {**payloads.chunk({}), "choices": [{"index": n, "delta": {"content": "x"}} for n in (0, 1)]}


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([payloads.chunk({"content": [{"type": "text", "text": "one"}]})], r"delta\.content: Input should be a valid"),
        ([payloads.chunk({"content": 5})], r"delta\.content: Input should be a valid string"),
        ([payloads.chunk({"reasoning": {"text": "one"}})], r"delta\.reasoning: Input should be a valid string"),
        ([{**payloads.chunk({}), "choices": [{"index": 0, "delta": "one"}]}], r"choices\[0\]\.delta: Input should be"),
        ([payloads.chunk({"tool_calls": [ARGUMENTS]})], r"function\.arguments: Input should be a valid string"),
        ([payloads.chunk({"tool_calls": [call]}) for call in TWO_TOOLS], "two tools in one call: look and add"),
        ([payloads.chat("one")], "a whole message instead of a delta"),
        ([TWO_CHOICES], "more choices than the requested 1"),
        (['data: {"choices": [{"index": 0, "delta": {"content": "\\ud83d"}}]}'], "is not JSON"),
    ],
    ids=[
        "content-parts",
        "content-number",
        "reasoning-object",
        "delta-text",
        "arguments-object",
        "two-tools",
        "message",
        "more-choices",
        "surrogate",
    ],
)
def test_malformed_chunk_raises(ask, fault_server, chunks, reason):
    # Otherwise: a TypeError, an empty reply, arguments of another tool, two replies in one, text that cannot be stored.
    fault_server.reply(faults.sse(*chunks, payloads.chunk({}, finish_reason="stop")))
    with pytest.raises(e.InvalidResponse, match=reason):
        ask(fault_server.url, stream=True)


def test_escaped_surrogate_pair_is_a_character(ask, fault_server):
    chunk = json.dumps(payloads.chunk({"content": "\N{GRINNING FACE}"}, finish_reason="stop"))
    assert "\\ud83d\\ude00" in chunk
    fault_server.reply(faults.sse(f"data: {chunk}"))
    assert text_of(ask(fault_server.url, stream=True)) == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("behaviour", "error", "text"),
    [
        (faults.html(), e.InvalidResponse, "not an event stream"),
        (faults.reply(b""), e.InvalidResponse, "not an event stream"),
        (faults.sse(end="clean"), e.IncompleteStream, "without a finish reason"),
        (faults.sse("data: {broken"), e.InvalidResponse, "is not JSON"),
        (faults.sse({"choices": [1]}), e.InvalidResponse, r"malformed \(choices\[0\]: "),
        (
            faults.sse({"choices": [{"index": 0, "delta": {"tool_calls": [None]}}]}),
            e.InvalidResponse,
            r"malformed \(choices\[0\]\.delta\.tool_calls\[0\]: ",
        ),
        (faults.sse('data: {"choices": ' + "[" * 20_000), e.InvalidResponse, "is not JSON"),
    ],
    ids=["html", "empty", "no-events", "broken-json", "no-choice", "no-call", "deep-json"],
)
def test_200_that_is_not_a_stream_raises(ask, fault_server, behaviour, error, text):
    fault_server.reply(behaviour)
    with pytest.raises(error, match=text):
        ask(fault_server.url, stream=True)


def test_json_error_instead_of_a_stream_raises(ask, fault_server):
    fault_server.reply(faults.json_reply(payloads.error("no such thing", code=400)))
    with pytest.raises(e.InvalidRequest, match="no such thing"):
        ask(fault_server.url, stream=True)


# Going on and leaving


def test_stream_goes_on_after_a_break(fault_server):
    with VLLMClient(fault_server.url) as client:
        stream = client.chat.completions.create(**HELLO, stream=True)
        chunks = []
        while len(chunks) < 2:
            for chunk in stream:
                chunks.append(chunk)
                break
        assert text_of([*chunks, *stream]) == "one two"
        assert list(stream) == []


async def test_async_stream_goes_on_after_a_break(fault_server):
    async with AsyncVLLMClient(fault_server.url) as client:
        stream = await client.chat.completions.create(**HELLO, stream=True)
        chunks = []
        async for chunk in stream:
            chunks.append(chunk)
            break
        assert text_of([*chunks, *[chunk async for chunk in stream]]) == "one two"


def test_stream_goes_on_after_next(fault_server):
    with VLLMClient(fault_server.url) as client:
        stream = client.chat.completions.create(**HELLO, stream=True)
        assert text_of([next(stream), *stream]) == "one two"
        assert list(stream) == []


def drop_after_break(url):
    client = VLLMClient(url, max_retries=0)
    for _ in client.chat.completions.create(**HELLO, stream=True):
        break
    return client


def close(url):
    client = VLLMClient(url, max_retries=0)
    with client.chat.completions.create(**HELLO, stream=True) as stream:
        next(stream)
    return client, stream


def drop_after_async_break(url):
    async def run():
        client = AsyncVLLMClient(url, max_retries=0)
        async for _ in await client.chat.completions.create(**HELLO, stream=True):
            break
        await asyncio.sleep(0.2)
        return client

    return asyncio.run(run())


def cancel(url):
    async def run():
        client = AsyncVLLMClient(url, max_retries=0)
        started = asyncio.Event()

        async def read():
            async for _ in await client.chat.completions.create(**HELLO, stream=True):
                started.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(started.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return client

    return asyncio.run(run())


@pytest.mark.parametrize("leave", [drop_after_break, close, drop_after_async_break, cancel], ids=lambda f: f.__name__)
def test_leaving_a_stream_disconnects(fault_server, leave):
    fault_server.reply(faults.chat("word " * 2000, pause=0.05))  # 100 s
    kept = leave(fault_server.url)
    [request] = fault_server.posts(CHAT)
    assert fault_server.wait_for(lambda: request.disconnected_at is not None, timeout=20)
    del kept
