"""LiteLLM's SDK with our client."""

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Count"}]
REQUEST = {"model": "openai/stub", "messages": MESSAGES}


@pytest.fixture
def litellm():
    litellm = pytest.importorskip("litellm")
    litellm.suppress_debug_info = True
    return litellm


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_answer_and_usage(server, client, litellm):
    server.answer()
    reply = litellm.completion(**REQUEST, client=client)
    assert reply.choices[0].message.content == "one two three"
    assert reply.usage.completion_tokens == 3


def test_stream(server, client, litellm):
    server.answer()
    assert text_of(litellm.completion(**REQUEST, client=client, stream=True)) == "one two three"


def test_cut_stream_raises(server, client, litellm):
    server.cut()
    with pytest.raises(openai.APIError, match="ended early"):
        list(litellm.completion(**REQUEST, client=client, stream=True))


async def test_async_answer(server, async_client, litellm):
    server.answer()
    reply = await litellm.acompletion(**REQUEST, client=async_client)
    assert reply.choices[0].message.content == "one two three"


async def test_async_stream(server, async_client, litellm):
    server.answer()
    chunks = [chunk async for chunk in await litellm.acompletion(**REQUEST, client=async_client, stream=True)]
    assert text_of(chunks) == "one two three"


async def test_async_cut_stream_raises(server, async_client, litellm):
    server.cut()
    with pytest.raises(openai.APIError, match="ended early"):
        async for _ in await litellm.acompletion(**REQUEST, client=async_client, stream=True):
            pass


def test_tool_call(server, client, litellm):
    tool = {"type": "function", "function": {"name": "City", "parameters": {"type": "object", "properties": {}}}}
    server.call("City")
    reply = litellm.completion(**REQUEST, client=client, tools=[tool])
    assert reply.choices[0].message.tool_calls[0].function.arguments == '{"city": "Rome", "n": 1}'
    assert server.sent[-1]["tools"] == [tool]


def test_server_error_keeps_its_status(server, client, litellm):
    server.fail(500)
    with pytest.raises(openai.APIStatusError) as caught:
        litellm.completion(**REQUEST, client=client, num_retries=0)
    assert caught.value.status_code == 500
