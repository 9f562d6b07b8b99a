"""The SDK's helpers (``parse``, ``stream``, raw and streaming responses) raise our errors, on both openai majors."""

import asyncio
import pickle

import openai
import pytest
from openai import pydantic_function_tool
from pydantic import BaseModel, ValidationError, field_validator

from vllm_adapters import AsyncVLLMClient, Timeouts, VLLMClient
from vllm_adapters import errors as e
from vllm_adapters.testing import faults, payloads

HELLO = {"model": "stub", "messages": [{"role": "user", "content": "x"}]}
CONNECTED = {"max_retries": 0, "timeout": Timeouts(idle=0.5, total=3)}


class City(BaseModel):
    """Replies are parsed to it; its validator rejects more than its schema."""

    city: str
    n: int

    @field_validator("n")
    @classmethod
    def small(cls, n):
        if n > 5:
            raise ValueError("too many")
        return n


class Go(BaseModel):
    """Tool calls are parsed to it."""

    path: str


GO = pydantic_function_tool(Go)
WHOLE = '{"city": "Rome", "n": 1}'
HALF = '{"city": "Ro'


def reply(content=None, finish_reason="stop", call=None):
    """Return the behaviour that sends this reply, streamed or not."""
    calls = [payloads.tool_call("Go", call)] if call else ()

    async def run(exchange):
        if exchange.request.json.get("stream"):
            chunks = payloads.chat_chunks(content, tool_calls=calls, finish_reason=finish_reason)
            await faults.sse(*chunks)(exchange)
        else:
            await faults.json_reply(payloads.chat(content, tool_calls=calls, finish_reason=finish_reason))(exchange)

    return run


class Helpers:
    """Each helper of the SDK, of the sync or the async client. Those of whole replies return the message."""

    def __init__(self, kind, url):
        self.client = (VLLMClient if kind == "sync" else AsyncVLLMClient)(url, **CONNECTED)
        self.kind = kind

    def __call__(self, name, **request):
        result = getattr(self, f"{self.kind}_{name}")(**HELLO, **request)
        return result if self.kind == "sync" else asyncio.run(result)

    def sync_parse(self, **request):
        return self.client.chat.completions.parse(**request).choices[0].message

    async def async_parse(self, **request):
        return (await self.client.chat.completions.parse(**request)).choices[0].message

    def sync_stream(self, **request):
        with self.client.chat.completions.stream(**request) as stream:
            events = [event.type for event in stream]
            assert events[0] == "chunk"
            return stream.get_final_completion().choices[0].message

    async def async_stream(self, **request):
        async with self.client.chat.completions.stream(**request) as stream:
            events = [event.type async for event in stream]
            assert events[0] == "chunk"
            return (await stream.get_final_completion()).choices[0].message

    def sync_beta_stream(self, **request):
        with self.client.beta.chat.completions.stream(**request) as stream:
            return stream.get_final_completion().choices[0].message

    async def async_beta_stream(self, **request):
        async with self.client.beta.chat.completions.stream(**request) as stream:
            return (await stream.get_final_completion()).choices[0].message

    def sync_raw(self, **request):
        return self.client.chat.completions.with_raw_response.create(**request).parse().choices[0].message

    async def async_raw(self, **request):
        return (await self.client.chat.completions.with_raw_response.create(**request)).parse().choices[0].message

    def sync_raw_parse(self, **request):
        return self.client.chat.completions.with_raw_response.parse(**request).parse().choices[0].message

    async def async_raw_parse(self, **request):
        return (await self.client.chat.completions.with_raw_response.parse(**request)).parse().choices[0].message

    def sync_streaming_response(self, **request):
        with self.client.chat.completions.with_streaming_response.create(**request) as response:
            return response.parse().choices[0].message

    async def async_streaming_response(self, **request):
        async with self.client.chat.completions.with_streaming_response.create(**request) as response:
            return (await response.parse()).choices[0].message

    def sync_streaming_response_bytes(self, **request):
        with self.client.chat.completions.with_streaming_response.create(**request) as response:
            return b"".join(response.iter_bytes())

    async def async_streaming_response_bytes(self, **request):
        async with self.client.chat.completions.with_streaming_response.create(**request) as response:
            return b"".join([piece async for piece in response.iter_bytes()])

    def sync_streaming_response_stream(self, **request):
        with self.client.chat.completions.with_streaming_response.create(**request, stream=True) as response:
            return list(response.parse())

    async def async_streaming_response_stream(self, **request):
        async with self.client.chat.completions.with_streaming_response.create(**request, stream=True) as response:
            return [chunk async for chunk in await response.parse()]


@pytest.fixture(params=["sync", "async"])
def helpers(request, fault_server):
    return Helpers(request.param, fault_server.url)


PARSING = ["parse", "stream", "beta_stream", "raw_parse"]


@pytest.mark.parametrize("name", PARSING)
def test_reply_and_tool_call_are_parsed(helpers, fault_server, name):
    fault_server.reply(reply(WHOLE))
    message = helpers(name, response_format=City)
    assert (message.role, message.parsed) == ("assistant", City(city="Rome", n=1))
    fault_server.reply(reply(finish_reason="tool_calls", call='{"path": "/a"}'))
    [call] = helpers(name, tools=[GO]).tool_calls
    assert call.function.parsed_arguments == Go(path="/a")


@pytest.mark.parametrize("name", PARSING)
@pytest.mark.parametrize(
    ("behaviour", "request_", "error", "cause"),
    [
        (reply(HALF, "length"), {"response_format": City}, e.TruncatedOutput, openai.LengthFinishReasonError),
        (reply(HALF, "content_filter"), {"response_format": City}, e.FilteredOutput, None),
        (reply('{"city": "Rome"}'), {"response_format": City}, e.ConstraintNotEnforced, None),
        (reply("Sure!"), {"response_format": City}, e.ConstraintNotEnforced, None),
        (reply('{"city": "Rome", "n": 9}'), {"response_format": City}, e.ConstraintNotEnforced, ValidationError),
        (reply(None, "length", '{"path": "/ho'), {"tools": [GO]}, e.TruncatedOutput, openai.LengthFinishReasonError),
        (reply(None, "tool_calls", '{path: "/a"}'), {"tools": [GO]}, e.ConstraintNotEnforced, ValueError),
        (reply(None, "tool_calls", '{"file": "/a"}'), {"tools": [GO]}, e.ConstraintNotEnforced, ValidationError),
    ],
    ids=[
        "truncated",
        "filtered",
        "schema",
        "not-json",
        "validator",
        "truncated-call",
        "malformed-call",
        "call-that-does-not-fit",
    ],
)
def test_reply_that_cannot_be_parsed_raises(helpers, fault_server, name, behaviour, request_, error, cause):
    fault_server.reply(behaviour)
    with pytest.raises(error, match=fault_server.url) as caught:
        helpers(name, **request_)
    found = caught.value
    assert cause is None or isinstance(found, cause) or isinstance(found.__cause__, cause)
    assert found.partial or found.reply
    assert type(pickle.loads(pickle.dumps(found))) is error
    assert isinstance(found, openai.ContentFilterFinishReasonError) == (error is e.FilteredOutput)


def test_truncated_text_raises(helpers, fault_server):
    fault_server.reply(reply("one two", "length"))
    with pytest.raises(e.TruncatedOutput) as caught:
        helpers("stream")
    assert (caught.value.partial, caught.value.completion.choices[0].finish_reason) == ("one two", "length")


CHUNKS = payloads.chat_chunks(WHOLE)


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("stream", {}),
        ("stream", {"response_format": City}),
        ("stream", {"tools": [GO]}),
        ("beta_stream", {"response_format": City}),
        ("streaming_response_stream", {}),
    ],
    ids=["text", "class", "tools", "beta", "streaming-response"],
)
@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (faults.sse(*CHUNKS[:-1]), e.IncompleteStream),
        (faults.sse(*CHUNKS[:-1], end="clean"), e.IncompleteStream),
        (faults.sse(*CHUNKS[:-1], end="close"), e.IncompleteStream),
        (faults.sse(*CHUNKS[:-1], end="reset"), e.IncompleteStream),
        (faults.sse(), e.IncompleteStream),
        (faults.sse(*CHUNKS[:2], end="hang"), e.ServerTimeout),
        (faults.sse(*CHUNKS[:2], payloads.error("EngineCore died", code=500)), e.ServerFailed),
        (faults.html(), e.InvalidResponse),
        (faults.error(500), e.ServerFailed),
        (faults.hang_up(), e.ServerUnreachable),
    ],
    ids=["no-finish", "clean", "close", "reset", "empty", "hang", "error-event", "html", "500", "hang-up"],
)
def test_incomplete_stream_raises(helpers, fault_server, name, request_, behaviour, error):
    fault_server.reply(behaviour)
    with pytest.raises(error):
        helpers(name, **request_)
    assert len(fault_server.posts()) == 1


@pytest.mark.parametrize("name", ["raw", "streaming_response", "streaming_response_bytes"])
@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (faults.truncate(reply(WHOLE), 60), e.ServerUnreachable),
        (faults.truncate(reply(WHOLE), 60, "hang"), e.ServerTimeout),
        (faults.shorten(reply(WHOLE), 60), e.InvalidResponse),
        (faults.html(), e.InvalidResponse),
        (faults.reply(b""), e.InvalidResponse),
        (faults.empty_choices(), e.InvalidResponse),
        (faults.json_reply(payloads.error("died", code=500)), e.ServerFailed),
        (reply("one", "abort"), e.ServerFailed),
    ],
    ids=["close", "hang", "short", "html", "empty", "no-choices", "error", "abort"],
)
def test_malformed_or_truncated_reply_raises(helpers, fault_server, name, behaviour, error):
    fault_server.reply(behaviour)
    with pytest.raises(error):
        helpers(name)


def test_bytes_of_a_streaming_response_are_checked(helpers, fault_server):
    assert b'"one two"' in helpers(
        "streaming_response_bytes", extra_body={"messages": [{"role": "user", "content": "one two"}]}
    )
    fault_server.reply(faults.sse(*CHUNKS))
    assert helpers("streaming_response_bytes", stream=True).endswith(b"data: [DONE]\n\n")
    fault_server.reply(faults.sse(*CHUNKS[:2], end="close"))
    with pytest.raises(e.ServerUnreachable):
        helpers("streaming_response_bytes", stream=True)
    fault_server.reply(faults.sse(*CHUNKS[:2], end="hang"))
    with pytest.raises(e.ServerTimeout, match=r"0\.5 s"):
        helpers("streaming_response_bytes", stream=True)


def test_repeated_role_is_not_concatenated(helpers, fault_server):
    chunks = [
        {**chunk, "choices": [{**choice, "delta": {"role": "assistant", **choice["delta"]}}]}
        for chunk in CHUNKS
        for choice in chunk["choices"]
    ]
    fault_server.reply(faults.sse(*chunks))
    assert helpers("stream").role == "assistant"


def test_call_index_without_a_predecessor_raises(fault_server):
    call = payloads.tool_call("add", "{}", index=2)
    fault_server.reply(faults.deltas({"tool_calls": [call]}, finish_reason="tool_calls"))
    with (
        VLLMClient(fault_server.url, **CONNECTED) as client,
        client.chat.completions.stream(**HELLO) as stream,
        pytest.raises(e.InvalidResponse, match="count from 0"),
    ):
        stream.get_final_completion()


@pytest.mark.parametrize(
    ("behaviour", "error", "text"),
    [
        (faults.html(), e.InvalidResponse, "text/html"),
        (
            faults.json_reply([1]),
            e.InvalidResponse,
            "not a JSON object|Input should be a valid dictionary|cannot be parsed",
        ),
        (faults.json_reply(payloads.error("dead", code=500)), e.ServerFailed, "dead"),
    ],
    ids=["html", "list", "error"],
)
@pytest.mark.parametrize("raw", [False, True])
def test_200_without_a_reply_raises_before_the_helpers_parse_it(fault_server, behaviour, error, text, raw):
    fault_server.reply(behaviour)
    with VLLMClient(fault_server.url, **CONNECTED) as client:
        embeddings, chat = client.embeddings, client.chat.completions
        if raw:
            embeddings, chat = embeddings.with_raw_response, chat.with_raw_response
        with pytest.raises(error, match=text):
            embeddings.create(model="stub", input=["a"])
        with pytest.raises(error, match=text):
            chat.parse(**HELLO, response_format=City)
