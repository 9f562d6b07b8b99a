"""What stock ChatOpenAI loses or gets wrong where servers fail or are special, and ChatVLLM does not.

Each test says once what stock ChatOpenAI does. Other losses have their tests beside those of their feature.
"""

import asyncio
import functools
import operator

import pytest

pytest.importorskip("langchain_openai")

import langchain_core.exceptions as lc
from langchain_core.messages import AIMessage
from pydantic import BaseModel, ValidationError

from vllm_adapters import Timeouts
from vllm_adapters import errors as e
from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"


class Person(BaseModel):
    """Somebody."""

    name: str


@pytest.fixture
def llm(fault_server):
    return ChatVLLM(base_url=fault_server.url, max_retries=0, timeout=5)


def invoke(llm):
    return llm.invoke("x")


def ainvoke(llm):
    return asyncio.run(llm.ainvoke("x"))


def stream(llm):
    return functools.reduce(operator.add, llm.stream("x"))


def astream(llm):
    async def run():
        return functools.reduce(operator.add, [chunk async for chunk in llm.astream("x")])

    return asyncio.run(run())


def invoke_streaming(llm):
    return llm.model_copy(update={"streaming": True}).invoke("x")


def events(llm):
    return llm.stream_events("x", version="v3").output


WHOLE = [invoke, ainvoke]
STREAMED = [stream, astream, invoke_streaming, events]
ways = functools.partial(pytest.mark.parametrize, "ask", ids=lambda f: f.__name__)


# "Missing credentials"; and a key for OpenAI would go to whatever host base_url names.
def test_openais_key_and_address_are_not_read(fault_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    monkeypatch.setenv("VLLM_BASE_URL", fault_server.url)
    ChatVLLM(max_retries=0).invoke("x")
    headers = fault_server.posts(CHAT)[0].headers
    assert headers["authorization"] == "Bearer EMPTY"
    assert "openai-organization" not in headers


# max_tokens wins without a word.
def test_two_names_of_one_limit(fault_server, llm):
    ChatVLLM(base_url=fault_server.url, max_completion_tokens=7).invoke("x")
    ChatVLLM(base_url=fault_server.url, max_tokens=7).invoke("x", max_completion_tokens=5)
    assert [request.json["max_tokens"] for request in fault_server.posts(CHAT)] == [7, 5]
    assert all("max_completion_tokens" not in request.json for request in fault_server.posts(CHAT))
    with pytest.raises(lc.ModelInvalidRequestError, match="same parameter"):
        llm.invoke("x", max_tokens=5, max_completion_tokens=7)
    with pytest.raises(lc.ModelInvalidRequestError, match="same parameter"):
        ChatVLLM(max_tokens=5, max_completion_tokens=7)


# Each of these sends the request to /v1/responses, where content is a list and vLLM's own fields are lost.
@pytest.mark.parametrize("given", [{"output_version": "responses/v1"}, {"model": "codex-mini"}, {"model": "gpt-6"}])
@ways([*WHOLE, *STREAMED])
def test_nothing_goes_to_the_responses_api(make_fault_server, given, ask):
    server = make_fault_server(models=(given.get("model", "stub"),))
    assert ask(ChatVLLM(base_url=server.url, **given)).text == "x"
    assert {request.route for request in server.requests} & {"/v1/responses"} == set()


@pytest.mark.parametrize(
    "name", ["reasoning", "include", "truncation", "context_management", "store", "verbosity", "service_tier"]
)
def test_what_only_openai_has_is_refused(fault_server, llm, name):
    value = {"reasoning": {"effort": "low"}, "include": ["x"], "context_management": [{}], "store": True}.get(name, "x")
    with pytest.raises(e.UnknownParameter, match=name):
        ChatVLLM(base_url=fault_server.url, max_retries=0, **{name: value}).invoke("x")
    with pytest.raises(e.UnknownParameter, match=name):
        llm.invoke("x", **{name: value})
    assert not fault_server.posts(CHAT)
    with pytest.raises(ValidationError, match="chat completions"):
        ChatVLLM(use_responses_api=True)


# gpt-4 and gpt-3: with_structured_output silently becomes a tool call; gpt-5: the temperature is dropped.
@pytest.mark.parametrize("name", ["gpt-4", "gpt-3.5-turbo", "gpt-5", "o1-mini"])
def test_structured_output_whatever_the_model_is_called(make_fault_server, name):
    server = make_fault_server(models=(name,))
    server.reply(faults.chat('{"name": "Ada"}'))
    llm = ChatVLLM(base_url=server.url, model=name, temperature=0.3)
    assert llm.with_structured_output(Person).invoke("who?") == Person(name="Ada")
    body = server.posts(CHAT)[0].json
    assert body["response_format"]["type"] == "json_schema"
    assert body["temperature"] == 0.3
    assert "tools" not in body


# All dropped: only finish_reason and logprobs are kept.
@ways([*WHOLE, *STREAMED])
def test_everything_that_vllm_adds_to_a_reply(fault_server, llm, ask):
    of_choice = {"stop_reason": "END", "token_ids": [5, 6], "prompt_logprobs": [None], "routed_experts": "AAAA"}
    of_reply = {
        "prompt_token_ids": [1, 2],
        "prompt_text": "<user>x",
        "kv_transfer_params": {"host": "a"},
        "ec_transfer_params": {"host": "b"},
        "metrics": {"time_to_first_token_ms": 1.5},
    }
    if ask in WHOLE:
        whole = payloads.chat("x")
        whole["choices"][0].update(of_choice)
        fault_server.reply(faults.json_reply({**whole, **of_reply}))
    else:
        chunks = payloads.chat_chunks("x", usage=True)
        chunks[-2]["choices"][0].update(of_choice)
        fault_server.reply(faults.sse(*chunks[:-1], {**chunks[-1], **of_reply}))
    found = ask(llm).response_metadata
    assert {name: found.get(name) for name in {**of_choice, **of_reply}} == {**of_choice, **of_reply}


# Garbage: the pieces of both choices in turn.
@pytest.mark.parametrize("level", ["constructor", "model_kwargs", "extra_body", "bind", "call"])
def test_several_choices_are_no_stream(fault_server, level):
    given = {
        "constructor": {"n": 2},
        "model_kwargs": {"model_kwargs": {"n": 2}},
        "extra_body": {"extra_body": {"n": 2}},
    }
    llm = ChatVLLM(base_url=fault_server.url, **given.get(level, {}))
    bound = llm.bind(n=2) if level == "bind" else llm
    with pytest.raises(lc.ModelInvalidRequestError, match="n must be 1"):
        list(bound.stream("x", **({"n": 2} if level == "call" else {})))
    with pytest.raises(ValidationError, match="n must be 1"):
        ChatVLLM(n=2, streaming=True)
    assert not fault_server.posts(CHAT)


# A bare openai.APIError without its code.
@ways(STREAMED)
def test_an_error_in_the_middle_of_a_stream(fault_server, llm, ask):
    fault_server.reply(faults.error_event("EngineCore died", after=3))
    with pytest.raises(lc.ModelAPIError, match="EngineCore died") as caught:
        ask(llm)
    assert isinstance(caught.value, e.ServerFailed)
    assert (caught.value.status_code, caught.value.partial) == (500, "one two")


# A bare httpx.RemoteProtocolError; and where the connection ends cleanly, half a reply as if it were whole.
@ways(STREAMED)
@pytest.mark.parametrize("end", ["clean", "close", "reset", "done"])
def test_a_stream_that_breaks_off(fault_server, llm, ask, end):
    fault_server.reply(faults.sse(*payloads.chat_chunks("one two three", finish_reason=None), end=end))
    with pytest.raises(lc.ModelConnectionError) as caught:
        ask(llm)
    assert isinstance(caught.value, e.IncompleteStream)
    assert caught.value.partial == "one two three"
    assert caught.value.is_retryable


# ValueError with a dict for its text.
@ways(WHOLE)
def test_a_200_that_is_an_error(fault_server, llm, ask):
    fault_server.reply(faults.json_reply(payloads.error("the engine died", code=500, type="InternalServerError")))
    with pytest.raises(lc.ModelAPIError, match="the engine died"):
        ask(llm)


# StreamChunkTimeoutError after 120 s, in async streams only.
@ways(STREAMED)
def test_one_time_limit_for_sync_and_async(fault_server, ask):
    llm = ChatVLLM(base_url=fault_server.url, max_retries=0, timeout=Timeouts(idle=0.3))
    fault_server.reply(faults.slow(5, faults.chat("late")))
    with pytest.raises(lc.ModelTimeoutError) as caught:
        ask(llm)
    assert (caught.value.kind, caught.value.seconds) == ("idle", 0.3)
    assert llm.stream_chunk_timeout is None


# "Event loop is closed": the async client is one for the whole process.
def test_many_event_loops_without_retries(fault_server):
    answers = [asyncio.run(ChatVLLM(base_url=fault_server.url, max_retries=0).ainvoke("x")).text for _ in range(3)]
    assert answers == ["x"] * 3


# A crash, or a ChatMessage without tool calls, from a server started with --response-role.
@ways(WHOLE + STREAMED)
def test_another_role_is_the_assistants(fault_server, llm, ask):
    call = payloads.tool_call("add", "{}")
    reply, chunks = payloads.chat(None, tool_calls=[call]), payloads.chat_chunks(None, tool_calls=[call])
    reply["choices"][0]["message"]["role"] = chunks[0]["choices"][0]["delta"]["role"] = "bot"

    async def answer(exchange):
        await (faults.sse(*chunks) if exchange.request.json.get("stream") else faults.json_reply(reply))(exchange)

    fault_server.reply(answer)
    message = ask(llm)
    assert isinstance(message, AIMessage)
    assert [made["name"] for made in message.tool_calls] == ["add"]
