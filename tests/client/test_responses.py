"""``/v1/responses``: names are checked, and a response has what was requested or is an error."""

import asyncio

import openai
import pytest
from pydantic import BaseModel, field_validator

from vllm_adapters import AsyncVLLMClient, VLLMClient
from vllm_adapters import errors as e
from vllm_adapters.testing import faults, payloads

PATH = "/v1/responses"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMS = [
    {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
    {"text": {"format": {"type": "json_object"}}},
    {"extra_body": {"structured_outputs": {"json": SCHEMA}}},
]
TOOL = {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}}


class City(BaseModel):
    city: str


class Capital(City):
    @field_validator("city")
    @classmethod
    def is_a_capital(cls, value):
        if value not in ("Rome", "Paris"):
            raise ValueError(f"{value} is no capital")
        return value


def response(text, *, status="completed", reason=None, **fields):
    message = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "stub",
        "status": status,
        "incomplete_details": reason and {"reason": reason},
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **fields,
    }


@pytest.fixture(params=["sync", "async", "stream"])
def respond(request):
    """Send a request, and return the response or the last event's."""

    async def asend(url, **body):
        async with AsyncVLLMClient(url) as client:
            return await client.responses.create(model="stub", input="x", **body)

    def send(url, **body):
        if request.param == "async":
            return asyncio.run(asend(url, **body))
        with VLLMClient(url) as client:
            found = client.responses.create(model="stub", input="x", stream=request.param == "stream", **body)
            return list(found)[-1].response if request.param == "stream" else found

    def reply(server, body):
        event = {"type": "response.completed", "sequence_number": 1, "response": body}
        server.reply(faults.sse(event) if request.param == "stream" else faults.json_reply(body), PATH)

    send.reply = reply
    return send


@pytest.mark.parametrize("form", FORMS, ids=["json_schema", "json_object", "structured_outputs"])
@pytest.mark.parametrize(
    ("reason", "error"), [("max_output_tokens", e.TruncatedOutput), ("content_filter", e.FilteredOutput)]
)
def test_truncated_object_raises(respond, fault_server, form, reason, error):
    respond.reply(fault_server, response('{"city": "Ro', status="incomplete", reason=reason))
    with pytest.raises(error) as caught:
        respond(fault_server.url, **form)
    assert caught.value.partial == '{"city": "Ro'
    assert caught.value.address == fault_server.url


@pytest.mark.parametrize("form", FORMS, ids=["json_schema", "json_object", "structured_outputs"])
def test_ignored_constraint_raises(respond, fault_server, form):
    respond.reply(fault_server, response("Sure!"))
    with pytest.raises(e.ConstraintNotEnforced):
        respond(fault_server.url, **form)


@pytest.mark.parametrize("form", FORMS, ids=["json_schema", "json_object", "structured_outputs"])
def test_object_is_returned(respond, fault_server, form):
    respond.reply(fault_server, response('{"city": "Rome"}'))
    assert respond(fault_server.url, **form).output_text == '{"city": "Rome"}'


def test_plain_text_may_be_truncated(respond, fault_server):
    respond.reply(fault_server, response("one two", status="incomplete", reason="max_output_tokens"))
    assert respond(fault_server.url).output_text == "one two"


def test_missing_forced_call_raises(respond, fault_server):
    respond.reply(fault_server, response("No."))
    with pytest.raises(e.ConstraintNotEnforced, match="does not call the forced tool `now`"):
        respond(fault_server.url, tools=[TOOL], tool_choice="required")


def test_forced_call_is_returned(respond, fault_server):
    call = {"id": "c", "call_id": "c", "type": "function_call", "name": "now", "arguments": "{}"}
    respond.reply(fault_server, {**response(""), "output": [call]})
    assert respond(fault_server.url, tools=[TOOL], tool_choice="required").output[0].name == "now"


def test_error_in_a_200_is_the_servers_failure(fault_server):
    fault_server.reply(faults.json_reply(payloads.error("EngineCore died", code=500)), PATH)
    with VLLMClient(fault_server.url) as client, pytest.raises(e.ServerFailed, match="EngineCore died"):
        client.responses.create(model="stub", input="x")


def test_truncated_object_of_parse_raises(fault_server):
    fault_server.reply(
        faults.json_reply(response('{"city": "Ro', status="incomplete", reason="max_output_tokens")), PATH
    )
    with VLLMClient(fault_server.url) as client, pytest.raises(openai.LengthFinishReasonError) as caught:
        client.responses.parse(model="stub", input="x", text_format=City)
    assert isinstance(caught.value, e.TruncatedOutput)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("temprature", "temperature"), ("max_tokens", "max_output_tokens"), ("structured_output", "structured_outputs")],
)
def test_unknown_name_is_refused(fault_server, name, suggestion):
    with VLLMClient(fault_server.url) as client, pytest.raises(e.UnknownParameter) as caught:
        client.responses.create(model="stub", input="x", extra_body={name: 1})
    assert (caught.value.param, caught.value.suggestions[0]) == (name, suggestion)
    assert fault_server.requests == []


@pytest.mark.parametrize("where", ["client", "request"])
def test_unknown_name_is_sent_where_it_is_allowed(fault_server, where):
    fault_server.reply(faults.json_reply(response("x")), PATH)
    allowed = {"allow_unknown": True} if where == "request" else {}
    with VLLMClient(fault_server.url, allow_unknown=where == "client") as client:
        client.responses.create(model="stub", input="x", extra_body={"plugin": 1, "top_k": 1, **allowed})
    (request,) = fault_server.posts(PATH)
    assert request.json == {"model": "stub", "input": "x", "plugin": 1, "top_k": 1}


def events(text, **fields):
    """Return the events of a streamed response as vLLM sends them."""
    part = {"type": "output_text", "text": "", "annotations": []}
    item = {"id": "m", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    found = [
        {"type": "response.created", "response": {**response(""), "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", "part": part, **place},
        *({"type": "response.output_text.delta", "delta": letter, "logprobs": [], **place} for letter in text),
        {"type": "response.output_text.done", "text": text, "logprobs": [], **place},
        {"type": "response.completed", "response": response(text, **fields)},
    ]
    return [{"sequence_number": number, **event} for number, event in enumerate(found)]


class Streams:
    """Reads the SDK's stream of events, with the sync or the async client."""

    def __init__(self, kind):
        self.kind = kind

    def read(self, url, **request):
        return self._read(url, request) if self.kind == "sync" else asyncio.run(self._aread(url, request))

    def _read(self, url, request):
        with VLLMClient(url, max_retries=0) as client, client.responses.stream(model="stub", input="x", **request) as s:
            self.seen = [event.type for event in s]
            return s.get_final_response()

    async def _aread(self, url, request):
        client = AsyncVLLMClient(url, max_retries=0)
        async with client, client.responses.stream(model="stub", input="x", **request) as stream:
            self.seen = [event.type async for event in stream]
            return await stream.get_final_response()


@pytest.fixture(params=["sync", "async"])
def streams(request):
    return Streams(request.param)


def test_object_of_a_stream(streams, fault_server):
    fault_server.reply(faults.sse(*events('{"city": "Rome"}'), end="clean"), PATH)
    assert streams.read(fault_server.url, text_format=City).output_parsed == City(city="Rome")
    assert streams.seen[-2:] == ["response.output_text.done", "response.completed"]


@pytest.mark.parametrize("last", ["response.completed", "response.incomplete"])
def test_truncated_object_of_a_stream_raises(streams, fault_server, last):
    *before, end = events('{"city": "Ro', status="incomplete", reason="max_output_tokens")
    fault_server.reply(faults.sse(*before, {**end, "type": last}, end="clean"), PATH)
    with pytest.raises(e.TruncatedOutput, match="Raise max_output_tokens") as caught:
        streams.read(fault_server.url, text_format=City)
    assert caught.value.partial == '{"city": "Ro'


def test_object_that_does_not_fit_its_class_raises(streams, fault_server):
    fault_server.reply(faults.sse(*events('{"city": "Bonn"}'), end="clean"), PATH)
    with pytest.raises(e.ConstraintNotEnforced, match="Bonn is no capital") as caught:
        streams.read(fault_server.url, text_format=Capital)
    assert caught.value.address == fault_server.url
    fault_server.reply(faults.json_reply(response('{"city": "Bonn"}')), PATH)
    with VLLMClient(fault_server.url) as client, pytest.raises(e.ConstraintNotEnforced, match="Bonn is no capital"):
        client.responses.parse(model="stub", input="x", text_format=Capital)


@pytest.mark.parametrize("last", ["response.completed", "response.incomplete"])
def test_truncated_text_of_a_stream_is_returned(streams, fault_server, last):
    *before, end = events("one two", status="incomplete", reason="max_output_tokens")
    fault_server.reply(faults.sse(*before, {**end, "type": last}, end="clean"), PATH)
    found = streams.read(fault_server.url)
    assert (found.output_text, found.status) == ("one two", "incomplete")


def test_stream_without_its_last_event_raises(streams, fault_server):
    fault_server.reply(faults.sse(*events("one two")[:-1], end="clean"), PATH)
    with pytest.raises(e.IncompleteStream) as caught:
        streams.read(fault_server.url)
    assert caught.value.partial == "one two"


@pytest.mark.parametrize(
    "failure",
    [
        {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "EngineCore died"}}},
        {"type": "error", "code": "server_error", "message": "EngineCore died", "param": None},
        {"type": "error", "error": {"code": 500, "message": "EngineCore died"}},
    ],
    ids=["failed", "error", "nested error"],
)
def test_failure_in_a_stream_raises(streams, fault_server, failure):
    fault_server.reply(faults.sse(*events("one two")[:5], failure, end="clean"), PATH)
    with pytest.raises(e.ServerFailed, match="EngineCore died") as caught:
        streams.read(fault_server.url)
    assert caught.value.partial == "on"


WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.mark.vllm("tiny")
class TestServer:
    @pytest.fixture
    def client(self, vllm_url):
        with VLLMClient(vllm_url, max_retries=0) as client:
            yield client

    def test_text(self, client, sent):
        found = client.responses.create(
            model="tiny", input="Hello", max_output_tokens=30, temperature=0, extra_body={"top_k": 1}
        )
        assert (found.status, found.output_text) == ("completed", "Hello! I am a tiny test model.")
        assert found.usage.total_tokens == found.usage.input_tokens + found.usage.output_tokens
        assert sent.last.json["top_k"] == 1

    def test_server_chooses_the_model(self, client):
        assert client.responses.create(input="Hello", temperature=0).output_text == "Hello! I am a tiny test model."

    async def test_text_async(self, vllm_url):
        async with AsyncVLLMClient(vllm_url) as client:
            stream = await client.responses.create(model="tiny", input="Hello", temperature=0, stream=True)
            last = [event async for event in stream][-1]
        assert last.response.output_text == "Hello! I am a tiny test model."

    def test_stream_of_a_response(self, client):
        found = list(client.responses.create(model="tiny", input="Hello", temperature=0, stream=True))
        text = "".join(event.delta for event in found if event.type == "response.output_text.delta")
        assert text == found[-1].response.output_text == "Hello! I am a tiny test model."

    def test_reasoning_of_a_response(self, client):
        found = client.responses.create(
            model="tiny", input="What is the capital of Japan?", temperature=0, reasoning={"effort": "low"}
        )
        thought, answer = found.output
        assert thought.content[0].text.strip() == "This is an easy question."
        assert answer.content[0].text.strip() == "The capital of Japan is Tokyo."

    def test_tool_call_of_a_response(self, client):
        question = {"role": "user", "content": "What is the weather in Rome?"}
        found = client.responses.create(model="tiny", input=[question], temperature=0, tools=[WEATHER])
        (call,) = found.output
        assert (call.name, call.arguments) == ("get_weather", '{"city": "Rome"}')
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        answer = client.responses.create(
            model="tiny", input=[question, call.to_dict(), result], temperature=0, tools=[WEATHER]
        )
        assert answer.output_text == "The weather tool says: sunny."

    def test_forced_tool_call(self, client):
        choice = {"type": "function", "name": "get_weather"}
        found = client.responses.create(model="tiny", input="Hello", tools=[WEATHER], tool_choice=choice)
        assert found.output[0].name == "get_weather"

    def test_objects(self, client):
        question = {"model": "tiny", "input": "Name a city.", "temperature": 0}
        assert isinstance(client.responses.parse(**question, text_format=City).output_parsed, City)
        with client.responses.stream(**question, text_format=City) as stream:
            assert isinstance(stream.get_final_response().output_parsed, City)
        for truncate in (self.parse_truncated, self.stream_truncated):
            with pytest.raises(e.TruncatedOutput) as caught:
                truncate(client, question)
            assert '{"city"'.startswith(caught.value.partial[:4])

    def parse_truncated(self, client, question):
        client.responses.parse(**question, text_format=City, max_output_tokens=3)

    def stream_truncated(self, client, question):
        with client.responses.stream(**question, text_format=City, max_output_tokens=3) as stream:
            stream.until_done()

    def test_choice(self, client):
        body = {"structured_outputs": {"choice": ["yes", "no"]}}
        assert client.responses.create(model="tiny", input="Tea?", extra_body=body).output_text in ("yes", "no")

    def test_errors_of_responses(self, client):
        with pytest.raises(e.InvalidRequest, match="Response with id 'resp_x' not found"):
            client.responses.retrieve("resp_x")
        with pytest.raises(e.InvalidRequest, match="VLLM_ENABLE_RESPONSES_API_STORE"):
            client.responses.create(model="tiny", input="Hello", background=True)
        with pytest.raises(e.ModelNotServed, match="It serves: tiny"):
            client.responses.create(model="other", input="Hello")
