"""Streams stay checked when an instrumentation puts a stream class of its own in place of the SDK's, as Logfire does.

``tests/clients`` has the instrumentations themselves.
"""

from functools import wraps

import openai
import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient, errors
from vllm_adapters.testing import faults

MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"


class Recorder:
    """Subclasses the stream class that a request has, and keeps what passes through it."""

    def __init__(self):
        self.chunks = []

    def wrap(self, request):
        chunks = self.chunks

        @wraps(request)
        def recorded(*arguments, stream_cls=None, **options):
            if stream_cls is not None:
                stream_cls = sync_class(stream_cls) if issubclass(origin(stream_cls), openai.Stream) else a(stream_cls)
            return request(*arguments, stream_cls=stream_cls, **options)

        def sync_class(stream_cls):
            class RecordingStream(stream_cls):
                def __stream__(self):
                    for chunk in super().__stream__():
                        chunks.append(chunk)
                        yield chunk

            return RecordingStream

        def a(stream_cls):
            class AsyncRecordingStream(stream_cls):
                async def __stream__(self):
                    async for chunk in super().__stream__():
                        chunks.append(chunk)
                        yield chunk

            return AsyncRecordingStream

        return recorded


def origin(stream_cls):
    return getattr(stream_cls, "__origin__", stream_cls)


@pytest.fixture(params=["of the SDK's class", "of the client"])
def recorder(request, monkeypatch):
    """Instruments ``request`` of the SDK's classes, or of each client that is made."""
    recorder = Recorder()
    if request.param == "of the client":
        for cls in (VLLMClient, AsyncVLLMClient):
            monkeypatch.setattr(cls, "__init__", instrumenting(cls.__init__, recorder))
    else:
        for cls in (openai.OpenAI, openai.AsyncOpenAI):
            monkeypatch.setattr(cls, "request", recorder.wrap(cls.request))
    return recorder


def instrumenting(init, recorder):
    def instrumented(self, *arguments, **options):
        init(self, *arguments, **options)
        self.request = recorder.wrap(self.request)

    return instrumented


def test_instrumented_stream_is_whole(fault_server, ask, recorder):
    fault_server.reply(faults.chat("one two"), CHAT)
    chunks = ask(fault_server.url, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "one two"
    assert recorder.chunks == chunks


def test_instrumented_stream_that_is_cut_raises(fault_server, ask, recorder):
    fault_server.reply(faults.truncate(faults.chat("one two three four"), after=800), CHAT)
    with pytest.raises(errors.IncompleteStream):
        ask(fault_server.url, stream=True)
    assert recorder.chunks


def test_stream_class_of_the_caller_is_checked(fault_server):
    class OwnStream(openai.Stream[openai.types.chat.ChatCompletionChunk]):
        pass

    fault_server.reply(faults.truncate(faults.chat("one two three four"), after=800), CHAT)
    with VLLMClient(fault_server.url, max_retries=0) as client:
        stream = client.post(
            "/chat/completions",
            body={"model": "stub", "messages": MESSAGES, "stream": True},
            cast_to=openai.types.chat.ChatCompletionChunk,
            stream=True,
            stream_cls=OwnStream,
        )
        assert isinstance(stream, OwnStream)
        with pytest.raises(errors.IncompleteStream):
            list(stream)
