"""The ways to run a component, and chat generators on a real server and on the fault server."""

import asyncio

import pytest


class Runner:
    """Runs a chat generator in one of its ways and keeps the chunks that were streamed."""

    def __init__(self, name):
        self.streams = "stream" in name
        self.is_async = "async" in name
        self.chunks = []

    async def _append(self, chunk):
        self.chunks.append(chunk)

    def __call__(self, generator, messages="one two", **inputs):
        """Return the replies."""
        self.chunks.clear()
        if self.streams:
            inputs["streaming_callback"] = self._append if self.is_async else self.chunks.append
        if self.is_async:
            return asyncio.run(generator.run_async(messages, **inputs))["replies"]
        return generator.run(messages, **inputs)["replies"]


@pytest.fixture(params=["run", "run_async", "stream", "stream_async"])
def run(request):
    return Runner(request.param)


@pytest.fixture(params=["stream", "stream_async"])
def stream(request):
    return Runner(request.param)


@pytest.fixture(params=[False, True], ids=["run", "run_async"])
def run_component(request):
    """Runs any component, sync or async, and returns its output."""

    def run(component, *args, **inputs):
        if request.param:
            return asyncio.run(component.run_async(*args, **inputs))
        return component.run(*args, **inputs)

    return run


@pytest.fixture
def llm():
    """A generator on the test's vLLM, recorded or live."""
    from vllm_adapters.haystack import VLLMChatGenerator

    return VLLMChatGenerator(generation_kwargs={"temperature": 0}, max_retries=0)


@pytest.fixture
def stub_llm(fault_server):
    """A generator on the fault server, which replies with the prompt."""
    from vllm_adapters.haystack import VLLMChatGenerator

    return VLLMChatGenerator(api_base_url=fault_server.url, max_retries=0, timeout=5)
