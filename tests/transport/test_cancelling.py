"""Leaving a call stops the server's work on it: a real vLLM counts the requests that it is running."""

import asyncio
import time

import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters.errors import ServerTimeout

pytestmark = pytest.mark.vllm("smollm2", recorded=False)  # slow enough to be observed

PROMPT = "Tell me a long story"
LONG = {"max_tokens": 1500, "ignore_eos": True}  # takes about a minute
REQUEST = {
    "model": "",
    "messages": [{"role": "user", "content": PROMPT}],
    "max_tokens": LONG["max_tokens"],
    "extra_body": {"ignore_eos": True},
}


class Stop(Exception):
    """Raised by user code."""


def running_requests(server):
    return sum(s.value for m in server.metrics() if m.name == "vllm:num_requests_running" for s in m.samples)


def wait_until_running(url):
    """Wait until the server counts the request."""
    server, until = VLLMServer(url), time.monotonic() + 30
    while not running_requests(server):
        assert time.monotonic() < until
        time.sleep(0.05)


def close_stream(url):
    stream = VLLMClient(url).chat.completions.create(**REQUEST, stream=True)
    next(stream)
    wait_until_running(url)
    stream.close()
    return stream


def break_stream(url):
    for _ in VLLMClient(url).chat.completions.create(**REQUEST, stream=True):
        wait_until_running(url)
        break  # drops the stream; one in a variable could go on


def raise_in_stream(url):
    try:
        with VLLMClient(url).chat.completions.create(**REQUEST, stream=True) as stream:
            for _ in stream:
                wait_until_running(url)
                raise Stop
    except Stop as stop:
        return stop  # its traceback keeps the stream alive, as in a debugger or a logger


def time_out(url):
    client = VLLMClient(url, timeout=1.5, max_retries=0)
    with pytest.raises(ServerTimeout):
        client.chat.completions.create(**REQUEST)


async def cancelled(url, call):
    """Cancel a call once the server is running it."""
    task = asyncio.ensure_future(call)
    await asyncio.to_thread(wait_until_running, url)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def cancel_stream(url):
    async def read():
        async for _ in await AsyncVLLMClient(url).chat.completions.create(**REQUEST, stream=True):
            pass

    asyncio.run(cancelled(url, read()))


def cancel_response(url):
    async def read():
        await AsyncVLLMClient(url).chat.completions.create(**REQUEST)

    asyncio.run(cancelled(url, read()))


def langchain(url):
    pytest.importorskip("langchain_openai")
    from vllm_adapters.langchain import ChatVLLM

    return ChatVLLM(base_url=url, **LONG)


def langchain_break(url):
    stream = langchain(url).stream(PROMPT)
    for _ in stream:
        wait_until_running(url)
        break
    stream.close()  # LangChain's generators are its own


def langchain_callback(url):
    llm = langchain(url)
    from langchain_core.callbacks import BaseCallbackHandler

    class Raises(BaseCallbackHandler):
        raise_error = True

        def on_llm_new_token(self, token, **kwargs):
            wait_until_running(url)
            raise Stop

    try:
        list(llm.stream(PROMPT, config={"callbacks": [Raises()]}))
    except Stop as stop:
        return stop


def langchain_cancel(url):
    async def read():
        async for _ in langchain(url).astream(PROMPT):
            pass

    asyncio.run(cancelled(url, read()))


def llamaindex(url):
    pytest.importorskip("llama_index.llms.openai_like")
    from vllm_adapters.llamaindex import VLLM

    return VLLM(api_base=url, **LONG)


def llamaindex_break(url):
    stream = llamaindex(url).stream_complete(PROMPT)
    for _ in stream:
        wait_until_running(url)
        break
    stream.close()


def llamaindex_raise(url):
    stream = llamaindex(url).stream_complete(PROMPT)
    try:
        for _ in stream:
            wait_until_running(url)
            raise Stop
    except Stop:
        stream.close()


def llamaindex_cancel(url):
    async def read():
        async for _ in await llamaindex(url).astream_complete(PROMPT):
            pass

    asyncio.run(cancelled(url, read()))


def haystack(url):
    pytest.importorskip("haystack")
    from vllm_adapters.haystack import VLLMChatGenerator

    return VLLMChatGenerator(api_base_url=url, generation_kwargs=LONG)


def haystack_callback(url):
    def stop(chunk):
        wait_until_running(url)
        raise Stop

    try:
        haystack(url).run(PROMPT, streaming_callback=stop)
    except Stop as error:
        return error  # its traceback keeps the frames alive, as in a debugger or a logger


def haystack_cancel(url):
    asyncio.run(cancelled(url, haystack(url).run_async(PROMPT)))


def haystack_cancel_stream(url):
    async def go_on(chunk):
        pass

    asyncio.run(cancelled(url, haystack(url).run_async(PROMPT, streaming_callback=go_on)))


EXITS = [
    close_stream,
    break_stream,
    raise_in_stream,
    time_out,
    cancel_stream,
    cancel_response,
    langchain_break,
    langchain_callback,
    langchain_cancel,
    llamaindex_break,
    llamaindex_raise,
    llamaindex_cancel,
    haystack_callback,
    haystack_cancel,
    haystack_cancel_stream,
]


@pytest.mark.parametrize("leave", EXITS, ids=lambda f: f.__name__)
def test_server_stops_within_five_seconds(vllm_url, leave):
    server = VLLMServer(vllm_url)
    kept = leave(vllm_url)
    left = time.monotonic()
    while running_requests(server):
        assert time.monotonic() - left < 5, "the server is still running it"
        time.sleep(0.05)
    del kept


def test_request_that_is_not_left_goes_on_for_longer(vllm_url):
    server = VLLMServer(vllm_url)
    stream = VLLMClient(vllm_url).chat.completions.create(**REQUEST, stream=True)
    next(stream)
    wait_until_running(vllm_url)
    until = time.monotonic() + 6
    while time.monotonic() < until:
        assert running_requests(server)
        time.sleep(0.3)
    stream.close()
