"""The same question through both clients: what one promises, the other does."""

import asyncio

import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient

HELLO = [{"role": "user", "content": "one two three four five"}]


class Asker:
    """Asks a server for a chat completion, streamed or not, with the sync or the async client."""

    def __init__(self, life):
        self.life = life

    def __call__(self, url, *, chunks=None, client=None, messages=HELLO, **request):
        options = {"max_retries": 0, "timeout": 5, **(client or {})}
        request = {"model": "stub", "messages": messages, **request}
        run = self._sync if self.life == "sync" else self._async
        return run(url, options, request, chunks)

    def _sync(self, url, options, request, chunks):
        with VLLMClient(url, **options) as client:
            reply = client.chat.completions.create(**request)
            if not request.get("stream"):
                return reply
            chunks = [] if chunks is None else chunks
            for chunk in reply:
                chunks.append(chunk)
            return chunks

    def _async(self, url, options, request, chunks):
        async def run():
            async with AsyncVLLMClient(url, **options) as client:
                reply = await client.chat.completions.create(**request)
                if not request.get("stream"):
                    return reply
                found = [] if chunks is None else chunks
                async for chunk in reply:
                    found.append(chunk)
                return found

        return asyncio.run(run())


@pytest.fixture(params=["sync", "async"])
def ask(request):
    return Asker(request.param)


@pytest.fixture
def many_files():
    """Both ends of a thousand connections are in this process."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, 4096)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"only {hard} open files allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
