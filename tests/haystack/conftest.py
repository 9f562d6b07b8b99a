"""The four ways to run a chat generator."""

import asyncio

import pytest


class Way:
    """Runs a generator, a component or a pipeline in one of its ways; keeps the chunks that streamed."""

    def __init__(self, name):
        self.streams = "stream" in name
        self.is_async = "async" in name
        self.chunks = []

    async def _keep(self, chunk):
        self.chunks.append(chunk)

    def __call__(self, generator, messages, **inputs):
        self.chunks.clear()
        if self.streams:
            inputs["streaming_callback"] = self._keep if self.is_async else self.chunks.append
        if self.is_async:
            return asyncio.run(generator.run_async(messages, **inputs))["replies"]
        return generator.run(messages, **inputs)["replies"]


@pytest.fixture(params=["run", "run_async", "stream", "stream_async"])
def ask(request):
    return Way(request.param)
