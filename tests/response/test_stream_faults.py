"""A stream is whole or it raises, says why, and hands over what had arrived; on both openai majors."""

import gzip
import json
import time

import openai
import pytest

from vllm_adapters import AsyncVLLMClient, Timeouts, VLLMClient
from vllm_adapters import errors as e
from vllm_adapters._response.tool_calls import ToolCallAccumulator
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
HELLO = {"model": "stub", "messages": [{"role": "user", "content": "one two"}]}
WORDS = payloads.chat_chunks("one two three four five", finish_reason=None)


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_cut_cleanly_without_a_finish_reason(ask, fault_server, framing):
    fault_server.reply(faults.sse(*WORDS[:4], end="clean", framing=framing))
    arrived = []
    with pytest.raises(e.IncompleteStream, match="without a finish reason") as caught:
        ask(fault_server.url, chunks=arrived, stream=True)
    assert caught.value.partial == text_of(arrived) == "one two three"
    assert isinstance(caught.value, openai.APIConnectionError)
    assert len(fault_server.posts(CHAT)) == 1


@pytest.mark.parametrize("end", ["close", "reset"])
def test_cut_abruptly(ask, fault_server, end):
    fault_server.reply(faults.sse(*WORDS[:3], end=end))
    with pytest.raises(e.IncompleteStream) as caught:
        ask(fault_server.url, stream=True, client={"max_retries": 2})
    assert caught.value.partial == "one two"
    assert len(fault_server.posts(CHAT)) == 1, "never retried after the first token"


def test_done_without_a_finish_reason(ask, fault_server):
    fault_server.reply(faults.sse(*WORDS))
    with pytest.raises(e.IncompleteStream) as caught:
        ask(fault_server.url, stream=True)
    assert caught.value.partial == "one two three four five"


def test_finish_reason_without_done_is_whole(ask, fault_server):
    fault_server.reply(faults.sse(*payloads.chat_chunks("one two"), end="clean"))
    assert text_of(ask(fault_server.url, stream=True)) == "one two"


def test_one_of_two_choices_unfinished(ask, fault_server):
    second = [{**chunk, "choices": [{**c, "index": 1} for c in chunk["choices"]]} for chunk in WORDS[:2]]
    fault_server.reply(faults.sse(*payloads.chat_chunks("whole"), *second))
    with pytest.raises(e.IncompleteStream) as caught:
        ask(fault_server.url, stream=True, n=2)
    assert caught.value.partials == {0: "whole", 1: "one"}


def test_hang_in_the_middle_is_an_idle_timeout_with_the_partial_text(ask, fault_server):
    fault_server.reply(faults.sse(*WORDS[:3], end="hang"))
    with pytest.raises(e.ServerTimeout, match=r"idle limit of 0\.5 s") as caught:
        ask(fault_server.url, stream=True, client={"timeout": openai.Timeout(5, read=0.5)})
    assert caught.value.kind == "idle"
    assert caught.value.partial == "one two"


def test_dribble_ends_at_the_total_limit(ask, fault_server):
    fault_server.reply(faults.drip(0.05))
    started = time.monotonic()
    with pytest.raises(e.ServerTimeout) as caught:
        ask(fault_server.url, stream=True, client={"timeout": 1, "max_retries": 2})
    assert caught.value.kind == "total"
    assert caught.value.seconds == 1
    assert caught.value.__cause__ is not caught.value, "who follows the causes would never get to the end"
    assert time.monotonic() - started < 4


def test_keep_alive_comments_are_silence(ask, fault_server):
    fault_server.reply(faults.sse(*WORDS[:3], *[": ping"] * 1000, pause=0.05))
    started = time.monotonic()
    with pytest.raises(e.ServerTimeout, match=r"keep-alive comments arrived within the idle limit of 0\.5 s") as caught:
        ask(fault_server.url, stream=True, client={"timeout": Timeouts(idle=0.5, total=30)})
    assert (caught.value.kind, caught.value.partial) == ("idle", "one two")
    assert time.monotonic() - started < 4


def test_comments_between_words_keep_a_slow_reply_alive(ask, fault_server):
    words = payloads.chat_chunks("one two three")
    events = [event for word in words for event in (": ping", ": ping", word)]
    fault_server.reply(faults.split(faults.sse(*events, pause=0.1), size=3))
    assert text_of(ask(fault_server.url, stream=True, client={"timeout": Timeouts(idle=0.5)})) == "one two three"


def test_the_callers_own_slowness_is_no_silence(fault_server):
    first, *rest = payloads.chat_chunks("one two three")
    fault_server.reply(faults.sse(first, *[": ping"] * 10, *rest, pause=0.02))
    client = VLLMClient(fault_server.url, timeout=Timeouts(idle=1))
    chunks = iter(client.chat.completions.create(**HELLO, stream=True))
    next(chunks)
    time.sleep(1.2)
    assert text_of(chunks) == "one two three"


@pytest.mark.parametrize("shape", ["object", "string"])
@pytest.mark.parametrize("after", [0, 3])
def test_error_event_is_a_typed_error(ask, fault_server, shape, after):
    fault_server.reply(faults.error_event("EngineCore died", after=after, shape=shape))
    with pytest.raises(e.ServerFailed, match="EngineCore died") as caught:
        ask(fault_server.url, stream=True)
    assert isinstance(caught.value, openai.InternalServerError)
    assert caught.value.partial == "one two"[: 8 * (after > 0)]


def test_error_event_of_a_bad_request(ask, fault_server):
    fault_server.reply(faults.error_event("Invalid grammar specification: x", code=400))
    with pytest.raises(e.InvalidRequest, match="Invalid grammar") as caught:
        ask(fault_server.url, stream=True)
    assert caught.value.status_code == 400


def test_reasoning_and_content_in_one_chunk_lose_nothing(ask, fault_server):
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


def test_tool_calls_in_one_chunk_with_content_and_finish_reason(ask, fault_server):
    calls = [payloads.tool_call("add", '{"a": 1}', index=0), payloads.tool_call("mul", '{"b": 2}', index=1)]
    chunk = payloads.chunk({"content": "so:", "tool_calls": calls}, finish_reason="tool_calls")
    chunk["choices"][0]["stop_reason"] = 7
    fault_server.reply(faults.sse(chunk))
    chunks = ask(fault_server.url, stream=True)
    assert [bool(c.choices[0].delta.content) for c in chunks] == [True, False, False]
    assert [[t.function.name for t in c.choices[0].delta.tool_calls or []] for c in chunks] == [[], ["add"], ["mul"]]
    assert [c.choices[0].finish_reason for c in chunks] == [None, None, "tool_calls"]
    assert chunks[-1].choices[0].stop_reason == 7


def test_a_call_is_named_once(ask, fault_server):
    calls = [payloads.tool_call("add", text, index=number) for number in (0, 1) for text in ('{"a"', ": 1}")]
    del calls[0]["index"], calls[1]["index"]
    fault_server.reply(faults.deltas(*({"tool_calls": [call]} for call in calls)))
    found = [chunk.choices[0].delta.tool_calls[0] for chunk in ask(fault_server.url, stream=True)[:-1]]
    assert [call.index for call in found] == [0, 0, 1, 1]
    assert [call.function.name for call in found] == ["add", None, "add", None]
    assert [call.id for call in found] == [calls[0]["id"], None, calls[2]["id"], None]
    assert [call.function.arguments for call in found] == ['{"a"', ": 1}"] * 2


def parts(*calls):
    """Chunks of one tool call's delta each: id, name and arguments, without an index."""
    for id, name, arguments in calls:
        call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        yield payloads.chunk({"tool_calls": [{key: value for key, value in call.items() if value is not None}]})
    yield payloads.chunk({}, finish_reason="tool_calls")


@pytest.mark.parametrize(
    "said",
    [
        [("x", "look", ""), ("y", "add", '{"a": 2}')],
        [(None, "look", ""), (None, "add", '{"a": 2}')],
        [("x", "look", "{"), (None, None, "}"), ("y", "add", '{"a"'), ("y", "add", ": 2}")],
    ],
)
def test_calls_without_an_index_are_kept_apart(ask, fault_server, said):
    # Put together they would be a call of `look` with the arguments of `add`.
    fault_server.reply(faults.sse(*parts(*said)))
    calls = ToolCallAccumulator()
    for chunk in ask(fault_server.url, stream=True):
        calls.add(chunk.choices[0].delta.tool_calls)
    found = [(call.name, call.arguments) for call in calls.parse("tool_calls")]
    assert found == [("look", {}), ("add", {"a": 2})]


def test_two_calls_of_one_tool_without_an_index(ask, fault_server):
    fault_server.reply(faults.sse(*parts(("x", "add", '{"a": 1}'), ("y", "add", '{"a": 2}'))))
    found = [chunk.choices[0].delta.tool_calls[0] for chunk in ask(fault_server.url, stream=True)[:-1]]
    assert [(call.index, call.id, call.function.name) for call in found] == [(0, "x", "add"), (1, "y", "add")]


TWO_TOOLS = [payloads.tool_call(name, text, index=0) for name, text in (("look", ""), ("add", '{"a": 2}'))]
ARGUMENTS = {"index": 0, "id": "x", "function": {"name": "add", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([payloads.chunk({"content": [{"type": "text", "text": "one"}]})], "content"),
        ([payloads.chunk({"reasoning": {"text": "one"}})], "reasoning"),
        ([payloads.chunk({"tool_calls": [ARGUMENTS]})], "arguments"),
        ([payloads.chunk({"tool_calls": [call]}) for call in TWO_TOOLS], "look and add"),
        ([payloads.chat("one")], "a whole message"),
        (
            [{**payloads.chunk({}), "choices": [{"index": n, "delta": {"content": "x"}} for n in (0, 1)]}],
            "more choices",
        ),
        (['data: {"choices": [{"index": 0, "delta": {"content": "\\ud83d"}}]}'], "is not JSON"),
    ],
)
def test_what_would_be_misread_is_no_chunk(ask, fault_server, chunks, reason):
    # Else: a TypeError, an empty reply, another tool's arguments, two replies in one, a text that nothing can hold.
    fault_server.reply(faults.sse(*chunks, payloads.chunk({}, finish_reason="stop")))
    with pytest.raises(e.InvalidResponse, match=reason):
        ask(fault_server.url, stream=True)


def test_prompts_as_text_and_as_embeddings_in_one_stream(fault_server):
    chunks = [
        {**chunk, "choices": [{**chunk["choices"][0], "index": n}]}
        for n in range(3)
        for chunk in payloads.completion_chunks("one two")
    ]
    fault_server.reply(faults.sse(*chunks))
    asked = {"model": "stub", "prompt": ["a", "b"], "stream": True, "extra_body": {"prompt_embeds": ["AAAA"]}}
    found = list(VLLMClient(fault_server.url).completions.create(**asked))
    assert {choice.index for chunk in found for choice in chunk.choices} == {0, 1, 2}


def test_a_whole_emoji_may_be_escaped(ask, fault_server):
    fault_server.reply(
        faults.sse("data: " + json.dumps(payloads.chunk({"content": "\N{GRINNING FACE}"}, finish_reason="stop")))
    )
    assert text_of(ask(fault_server.url, stream=True)) == "\N{GRINNING FACE}"


def test_a_byte_order_mark_hides_no_event(ask, fault_server):
    first, *others = (b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in payloads.chat_chunks("one two"))
    body = b"\xef\xbb\xbf" + first.replace(b'"content": ""', b'"content": "zero "') + b"".join(others)
    fault_server.reply(faults.split(faults.reply(body, content_type="text/event-stream"), size=2))
    assert text_of(ask(fault_server.url, stream=True)) == "zero one two"


def test_a_list_of_choices_that_is_null(ask, fault_server):
    usage = {**payloads.chunk({}), "choices": None, "usage": {"total_tokens": 3}}
    fault_server.reply(faults.sse(*payloads.chat_chunks("one two"), usage))
    chunks = ask(fault_server.url, stream=True)
    assert (text_of(chunks), chunks[-1].choices, chunks[-1].usage.total_tokens) == ("one two", [], 3)


@pytest.mark.parametrize("good", [0, 600])
def test_a_body_that_cannot_be_decompressed(ask, fault_server, good):
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in payloads.chat_chunks("word " * 400))
    packed = gzip.compress(body)
    broken = packed[:good] + b"\x00" * 80 + packed[good:]
    headers = {"content-encoding": "gzip"}
    fault_server.reply(faults.split(faults.reply(broken, content_type="text/event-stream", headers=headers), 100))
    with pytest.raises((e.IncompleteStream, e.InvalidResponse)):  # what is broken may at first read as other text
        ask(fault_server.url, stream=True)
    fault_server.reply(faults.reply(broken, headers=headers))
    with pytest.raises(e.ServerUnreachable, match="decompress"):
        ask(fault_server.url, stream=True)


@pytest.mark.parametrize("choices", [{"choices": None}, {}], ids=["null", "missing"])
def test_events_without_choices(ask, fault_server, choices):
    *words, last = payloads.chat_chunks("one two")
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    envelope = {name: value for name, value in last.items() if name != "choices"}
    fault_server.reply(faults.sse({"type": "ping"}, *words, last, {**envelope, **choices, "usage": usage}))
    chunks = ask(fault_server.url, stream=True)
    assert text_of(chunks) == "one two"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 2)


@pytest.mark.parametrize(
    "event",
    [
        {"object": "error", "message": "out of memory", "type": "InternalServerError", "code": 500},
        {"detail": "out of memory"},
        'event: error\ndata: {"message": "out of memory"}',
    ],
    ids=["flat", "detail", "event-error"],
)
def test_an_error_event_in_another_shape(ask, fault_server, event):
    fault_server.reply(faults.sse(*WORDS[:3], event))
    with pytest.raises(e.ServerFailed, match="out of memory") as caught:
        ask(fault_server.url, stream=True)
    assert caught.value.partial == "one two"


@pytest.mark.parametrize("reason", ["repetition", "length"])
def test_finish_reasons_that_openai_does_not_know(ask, fault_server, reason):
    fault_server.reply(faults.sse(*payloads.chat_chunks("one", finish_reason=reason)))
    chunks = ask(fault_server.url, stream=True)
    assert chunks[-1].choices[0].finish_reason == reason
    assert type(chunks[-1]).__name__ == "ChatCompletionChunk"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_reply_that_the_server_gave_up(ask, fault_server, reason, stream):
    fault_server.reply(faults.chat("one two", finish_reason=reason))
    with pytest.raises(e.ServerFailed, match=f"aborted the reply.*'{reason}'") as caught:
        ask(fault_server.url, stream=stream, client={"max_retries": 2})
    assert caught.value.partial == "one two"
    assert len(fault_server.posts(CHAT)) == 1


def test_a_line_of_megabytes_is_read_in_time(ask, fault_server):
    fault_server.reply(faults.sse(*payloads.chat_chunks(["x" * 20_000_000])))
    started = time.monotonic()
    assert len(text_of(ask(fault_server.url, stream=True, client={"timeout": 30}))) == 20_000_000
    assert time.monotonic() - started < 10


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
def test_every_form_of_events(ask, fault_server, behaviour):
    fault_server.reply(behaviour)
    assert text_of(ask(fault_server.url, stream=True)) == "héllo wörld"


def test_event_over_several_data_lines(ask, fault_server):
    head, tail = '{"id":"x","object":"chat.completion.chunk","created":1,"model":"stub",', None
    tail = '"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}'
    fault_server.reply(faults.sse(f"data: {head}\ndata: {tail}"))
    assert text_of(ask(fault_server.url, stream=True)) == "hi"


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (faults.html(), "not an event stream"),
        (faults.reply(b""), "not an event stream"),
        (faults.sse(end="clean"), "without a finish reason"),
        (faults.sse("data: {broken"), "is not JSON"),
        (faults.sse({"choices": [1]}), "malformed"),
        (faults.sse({"choices": [{"index": 0, "delta": {"tool_calls": [None]}}]}), "malformed"),
        (faults.sse('data: {"choices": ' + "[" * 20_000), "is not JSON"),
    ],
    ids=["html", "empty", "no-events", "broken-json", "no-choice", "no-call", "deep-json"],
)
def test_a_200_that_is_no_stream(ask, fault_server, behaviour, text):
    fault_server.reply(behaviour)
    with pytest.raises((e.InvalidResponse, e.IncompleteStream), match=text):
        ask(fault_server.url, stream=True)


def test_json_error_in_a_200_instead_of_a_stream(ask, fault_server):
    fault_server.reply(faults.json_reply(payloads.error("no such thing", code=400)))
    with pytest.raises(e.InvalidRequest, match="no such thing"):
        ask(fault_server.url, stream=True)


def test_leaving_the_loop_disconnects_within_a_second(fault_server, life):
    fault_server.reply(faults.chat("word " * 400, pause=0.05))
    life(fault_server.url)
    assert fault_server.wait_for(lambda: fault_server.posts(CHAT)[0].disconnected_at is not None, timeout=1.0)


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


def test_looking_at_the_first_chunk_and_going_on(fault_server):
    with VLLMClient(fault_server.url) as client:
        stream = client.chat.completions.create(**HELLO, stream=True)
        assert text_of([next(stream), *stream]) == "one two"
        assert list(stream) == []


def break_sync(url):
    from vllm_adapters import VLLMClient

    client = VLLMClient(url, max_retries=0)
    for _ in client.chat.completions.create(model="stub", messages=[{"role": "user", "content": "x"}], stream=True):
        break  # drops the stream
    return client


def close_sync(url):
    from vllm_adapters import VLLMClient

    client = VLLMClient(url, max_retries=0)
    with client.chat.completions.create(
        model="stub", messages=[{"role": "user", "content": "x"}], stream=True
    ) as stream:
        next(stream)
    return client, stream


def break_async(url):
    import asyncio

    from vllm_adapters import AsyncVLLMClient

    async def run():
        client = AsyncVLLMClient(url, max_retries=0)
        async for _ in await client.chat.completions.create(
            model="stub", messages=[{"role": "user", "content": "x"}], stream=True
        ):
            break
        await asyncio.sleep(0.2)
        return client

    return asyncio.run(run())


def cancel_async(url):
    import asyncio

    from vllm_adapters import AsyncVLLMClient

    async def run():
        client = AsyncVLLMClient(url, max_retries=0)

        async def read():
            async for _ in await client.chat.completions.create(
                model="stub", messages=[{"role": "user", "content": "x"}], stream=True
            ):
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


@pytest.fixture(params=[break_sync, close_sync, break_async, cancel_async], ids=lambda f: f.__name__)
def life(request):
    kept = []
    return lambda url: kept.append(request.param(url))
