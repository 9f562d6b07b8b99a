"""The recipes that fail over: a server that fails leads to the second one, a mistake of the request does not."""

import asyncio
import runpy
from pathlib import Path

import pytest

from vllm_adapters import errors
from vllm_adapters.testing import faults, payloads

RECIPES = Path(__file__).parent.parent.parent / "recipes"
CHAT = "/v1/chat/completions"
BUSY = "The engine is currently busy and cannot accept new requests"
OPTIONS = {"model": "stub", "timeout": 1}


def llamaindex(first, second):
    pytest.importorskip("llama_index.core")
    recipe = runpy.run_path(str(RECIPES / "fail_over_in_llamaindex.py"))
    llm = recipe["FailoverVLLM"](
        api_base=first, max_retries=0, second=recipe["VLLM"](api_base=second, **OPTIONS), **OPTIONS
    )
    messages = [recipe["ChatMessage"]("x")]

    async def astream():
        return [chunk async for chunk in await llm.astream_chat(messages)][-1].message.content

    return {
        "sync": lambda: llm.chat(messages).message.content,
        "async": lambda: asyncio.run(llm.achat(messages)).message.content,
        "stream": lambda: list(llm.stream_chat(messages))[-1].message.content,
        "async stream": lambda: asyncio.run(astream()),
    }


def haystack(first, second):
    pytest.importorskip("haystack")
    recipe = runpy.run_path(str(RECIPES / "fail_over_in_haystack.py"))
    make = recipe["VLLMChatGenerator"]
    llm = recipe["ServerFallback"](
        [make(api_base_url=first, max_retries=0, **OPTIONS), make(api_base_url=second, **OPTIONS)]
    )
    chunks = []

    def streamed(found):
        assert "".join(chunk.content for chunk in chunks) == text(found)
        return text(found)

    def text(found):
        return found["replies"][0].text

    return {
        "sync": lambda: text(llm.run("x")),
        "async": lambda: text(asyncio.run(llm.run_async("x"))),
        "stream": lambda: streamed(llm.run("x", streaming_callback=chunks.append)),
        "async stream": lambda: streamed(asyncio.run(llm.run_async("x", streaming_callback=chunks.append))),
    }


def langchain(first, second):
    pytest.importorskip("langchain_openai")
    recipe = runpy.run_path(str(RECIPES / "fail_over_in_langchain.py"))
    make = recipe["ChatVLLM"]
    llm = make(base_url=first, max_retries=0, **OPTIONS).with_fallbacks(
        [make(base_url=second, **OPTIONS)], exceptions_to_handle=recipe["SERVER"]
    )

    async def astream():
        return "".join([chunk.text async for chunk in llm.astream("x")])

    return {
        "sync": lambda: llm.invoke("x").text,
        "async": lambda: asyncio.run(llm.ainvoke("x")).text,
        "stream": lambda: "".join(chunk.text for chunk in llm.stream("x")),
        "async stream": lambda: asyncio.run(astream()),
    }


FRAMEWORKS = {"LangChain": langchain, "LlamaIndex": llamaindex, "Haystack": haystack}
HOW = ["sync", "async", "stream", "async stream"]


@pytest.fixture(params=FRAMEWORKS)
def two(request, make_fault_server):
    """The calls of a framework, and its two servers."""
    first, second = make_fault_server(), make_fault_server()
    second.reply(faults.chat("from the second"), CHAT)
    return FRAMEWORKS[request.param](first.url, second.url), first, second


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(faults.hang_up(), id="dead"),
        pytest.param(faults.hang(), id="slow"),
        pytest.param(faults.error(429, retry_after=60), id="429"),
        pytest.param(faults.error(503, BUSY), id="overloaded"),
        pytest.param(faults.loading(), id="loading"),
        pytest.param(faults.error(500), id="500"),
    ],
)
def test_server_that_fails_leads_to_the_second(two, how, failure):
    calls, first, second = two
    first.reply(failure)
    assert calls[how]() == "from the second"
    assert (len(first.posts(CHAT)), len(second.posts(CHAT))) == (1, 1)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(faults.error(400, "bad"), id="400"),
        pytest.param(faults.error(400, "maximum context length is 10 tokens"), id="context"),
        pytest.param(faults.error(401, shape="string"), id="401"),
    ],
)
def test_mistake_of_the_request_does_not(two, how, mistake):
    calls, first, second = two
    first.reply(mistake)
    with pytest.raises(errors.VLLMError):
        calls[how]()
    assert (len(first.posts(CHAT)), len(second.posts(CHAT))) == (1, 0)


@pytest.mark.parametrize("how", HOW)
def test_healthy_server_is_the_only_one_asked(two, how):
    calls, first, second = two
    assert calls[how]() == "x"
    assert (len(first.posts(CHAT)), len(second.posts(CHAT))) == (1, 0)


@pytest.mark.parametrize("how", ["stream", "async stream"])
@pytest.mark.parametrize("end", ["clean", "reset", "hang"])
def test_stream_that_has_begun_is_not_begun_again(two, how, end):
    calls, first, second = two
    first.reply(faults.sse(*payloads.chat_chunks("one two three", finish_reason=None), end=end))
    with pytest.raises((errors.IncompleteStream, errors.ServerTimeout)) as caught:
        calls[how]()
    assert caught.value.partial == "one two three"
    assert (len(first.posts(CHAT)), len(second.posts(CHAT))) == (1, 0)
