"""``/v1/responses``: names are checked, and a response has what was requested or is an error."""

import openai
import pytest
from pydantic import BaseModel

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
        import asyncio

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
