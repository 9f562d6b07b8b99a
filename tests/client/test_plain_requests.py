"""``chat.completions.create`` with plain data goes past the SDK's typed transform, and sends what the SDK sends."""

import asyncio
from copy import deepcopy

import openai
import pytest
from openai.resources.chat import AsyncCompletions, Completions
from openai.types.chat import ChatCompletionMessage

from vllm_adapters import AsyncVLLMClient, VLLMClient
from vllm_adapters._client import sdk_helpers

CHAT = "/v1/chat/completions"
HELLO = {"role": "user", "content": "x"}
CALL = {"id": "1", "type": "function", "function": {"name": "go", "arguments": '{"to": "Zürich"}'}}
TOOL = {"type": "function", "function": {"name": "go", "parameters": {"type": "object", "properties": {}}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
PLAIN = {
    "text": {"messages": [HELLO]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}]},
    "conversation": {
        "messages": [
            {"role": "system", "content": "Be kind."},
            HELLO,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "1", "content": "done"},
        ]
    },
    "parameters": {
        "messages": [HELLO],
        "temperature": 0,
        "top_p": 0.5,
        "stop": ["a", "b"],
        "logit_bias": {"1": -1},
        "seed": None,
        "logprobs": True,
        "user": openai.omit,
        "n": openai.NOT_GIVEN,
    },
    "tools": {"messages": [HELLO], "tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
    "schema": {
        "messages": [{"role": "user", "content": "{}"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    },
    "stream": {"messages": [HELLO], "stream": True, "stream_options": {"include_usage": True}},
    "extra": {
        "messages": [HELLO],
        "extra_body": {"top_k": 1},
        "extra_headers": {"X-Team": "a"},
        "extra_query": {"q": "1"},
        "timeout": 7,
    },
}
TYPED = {
    "an object of the SDK": {"messages": [HELLO, ChatCompletionMessage(role="assistant", content="y"), HELLO]},
    "a tuple": {"messages": [HELLO], "stop": ("a", "b")},
    "a subclass": {"messages": [HELLO], "user": type("Name", (str,), {})("me")},
}


def ask(client_class, url, **request):
    """Send a request with a client, sync or async, and read the reply."""
    if not issubclass(client_class, openai.AsyncOpenAI):
        with client_class(base_url=url, api_key="k") as client:
            reply = client.chat.completions.create(model="stub", **request)
            return [chunk.choices for chunk in reply] if request.get("stream") else reply.choices

    async def run():
        async with client_class(base_url=url, api_key="k") as client:
            reply = await client.chat.completions.create(model="stub", **request)
            return [chunk.choices async for chunk in reply] if request.get("stream") else reply.choices

    return asyncio.run(run())


PAIRS = [(VLLMClient, openai.OpenAI), (AsyncVLLMClient, openai.AsyncOpenAI)]
each_pair = pytest.mark.parametrize(("ours", "stock"), PAIRS, ids=["sync", "async"])


@pytest.fixture
def transformed(monkeypatch):
    """The requests that went through the SDK's ``create``, which transforms them."""
    seen, found = [], sdk_helpers._post_arguments

    def watch(method, request, stream_cls):
        arguments = found(method, request, stream_cls)
        if arguments is None:
            seen.append(request)
        return arguments

    monkeypatch.setattr(sdk_helpers, "_post_arguments", watch)
    return seen


@each_pair
@pytest.mark.parametrize("name", PLAIN)
def test_plain_data_is_sent_as_by_the_sdk(ours, stock, name, fault_server, transformed):
    request, given = (
        PLAIN[name],
        {key: deepcopy(value) if key == "messages" else value for key, value in PLAIN[name].items()},
    )
    answers = [ask(client, fault_server.url, **request) for client in (stock, ours)]
    of_the_sdk, sent = fault_server.posts(CHAT)
    assert sent.json == of_the_sdk.json
    assert sent.path == of_the_sdk.path
    for name in ("authorization", "content-type", "accept", "x-team"):
        assert sent.headers.get(name) == of_the_sdk.headers.get(name), name
    assert answers[0] == answers[1]
    assert (request, transformed) == (given, [])


@each_pair
@pytest.mark.parametrize("name", TYPED)
def test_other_data_is_transformed_by_the_sdk(ours, stock, name, fault_server, transformed):
    for client in (stock, ours):
        ask(client, fault_server.url, **TYPED[name])
    of_the_sdk, sent = fault_server.posts(CHAT)
    assert sent.json == of_the_sdk.json
    assert transformed == [{"model": "stub", **TYPED[name]}]


@each_pair
@pytest.mark.parametrize("request_", [{}, {"messages": [HELLO], "top_k": 1}], ids=["no messages", "unknown name"])
def test_wrong_arguments_are_the_sdks_errors(ours, stock, request_, fault_server):
    texts = []
    for client in (stock, ours):
        with pytest.raises(TypeError) as caught:
            ask(client, fault_server.url, **request_)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert fault_server.posts(CHAT) == []


@pytest.mark.parametrize(("ours", "resource"), [(VLLMClient, Completions), (AsyncVLLMClient, AsyncCompletions)])
def test_function_that_replaces_the_sdks_sees_the_call(ours, resource, fault_server, monkeypatch):
    seen, original = [], resource.create

    def create(self, **request):
        seen.append(request)
        return original(self, **request)

    monkeypatch.setattr(resource, "create", create)
    ask(ours, fault_server.url, messages=[HELLO])
    assert seen == [{"model": "stub", "messages": [HELLO]}]
    assert len(fault_server.posts(CHAT)) == 1
