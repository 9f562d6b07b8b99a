"""Who leaves a call frees the server: asked of a real vLLM, which counts the requests that it is running."""

import asyncio
import time

import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters.errors import ServerTimeout

pytestmark = pytest.mark.vllm("smollm2", recorded=False)  # slow enough to be seen at work

PROMPT = "Tell me a long story"
LONG = {"max_tokens": 1500, "ignore_eos": True}  # a minute on the machines that run this
ASKED = {
    "model": "",
    "messages": [{"role": "user", "content": PROMPT}],
    "max_tokens": LONG["max_tokens"],
    "extra_body": {"ignore_eos": True},
}


class Stop(Exception):
    """What user code raises."""


def count(server):
    return sum(s.value for m in server.metrics() if m.name == "vllm:num_requests_running" for s in m.samples)


def at_work(url):
    """Wait until the server counts the request."""
    server, until = VLLMServer(url), time.monotonic() + 30
    while not count(server):
        assert time.monotonic() < until
        time.sleep(0.05)


def close_sync(url):
    stream = VLLMClient(url).chat.completions.create(**ASKED, stream=True)
    next(stream)
    at_work(url)
    stream.close()
    return stream


def break_sync(url):
    stream = VLLMClient(url).chat.completions.create(**ASKED, stream=True)
    for _ in stream:
        at_work(url)
        break
    return stream


def raise_sync(url):
    stream = VLLMClient(url).chat.completions.create(**ASKED, stream=True)
    try:
        for _ in stream:
            at_work(url)
            raise Stop
    except Stop as stop:
        return stream, stop


def time_out(url):
    client = VLLMClient(url, timeout=1.5, max_retries=0)
    with pytest.raises(ServerTimeout):
        client.chat.completions.create(**ASKED)


async def cancelled(url, call):
    """Cancel once the server is at work."""
    task = asyncio.ensure_future(call)
    await asyncio.to_thread(at_work, url)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def cancel_stream(url):
    async def read():
        async for _ in await AsyncVLLMClient(url).chat.completions.create(**ASKED, stream=True):
            pass

    asyncio.run(cancelled(url, read()))


def cancel_whole(url):
    async def read():
        await AsyncVLLMClient(url).chat.completions.create(**ASKED)

    asyncio.run(cancelled(url, read()))


def langchain(url):
    pytest.importorskip("langchain_openai")
    from vllm_adapters.langchain import ChatVLLM

    return ChatVLLM(base_url=url, **LONG)


def langchain_break(url):
    stream = langchain(url).stream(PROMPT)
    for _ in stream:
        at_work(url)
        break
    stream.close()  # LangChain's generators are its own


def langchain_callback(url):
    llm = langchain(url)
    from langchain_core.callbacks import BaseCallbackHandler

    class Raises(BaseCallbackHandler):
        raise_error = True

        def on_llm_new_token(self, token, **kwargs):
            at_work(url)
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
        at_work(url)
        break
    stream.close()


def llamaindex_raise(url):
    stream = llamaindex(url).stream_complete(PROMPT)
    try:
        for _ in stream:
            at_work(url)
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
        at_work(url)
        raise Stop

    try:
        haystack(url).run(PROMPT, streaming_callback=stop)
    except Stop as error:
        return error  # it keeps the frames alive, as a debugger or a logger does


def haystack_cancel(url):
    asyncio.run(cancelled(url, haystack(url).run_async(PROMPT)))


def haystack_cancel_stream(url):
    async def go_on(chunk):
        pass

    asyncio.run(cancelled(url, haystack(url).run_async(PROMPT, streaming_callback=go_on)))


WAYS = [
    close_sync,
    break_sync,
    raise_sync,
    time_out,
    cancel_stream,
    cancel_whole,
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


@pytest.mark.parametrize("leave", WAYS, ids=lambda f: f.__name__)
def test_the_server_is_free_within_two_seconds(vllm_url, leave):
    server = VLLMServer(vllm_url)
    kept = leave(vllm_url)
    left = time.monotonic()
    while count(server):
        assert time.monotonic() - left < 2, "the server goes on"
        time.sleep(0.05)
    del kept


def test_a_request_that_nobody_leaves_goes_on(vllm_url):
    """The others show something: such a request runs for longer than they look."""
    server = VLLMServer(vllm_url)
    stream = VLLMClient(vllm_url).chat.completions.create(**ASKED, stream=True)
    next(stream)
    at_work(vllm_url)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert count(server)
        time.sleep(0.3)
    stream.close()
