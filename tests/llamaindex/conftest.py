"""What LlamaIndex's tests share: classes on a recorded or a fault-injection server, and a recorder of events."""

import asyncio

import pytest

METHODS = [
    "chat",
    "achat",
    "complete",
    "acomplete",
    "stream_chat",
    "astream_chat",
    "stream_complete",
    "astream_complete",
]


def call_method(name):
    """Return a function that calls a ``VLLM``'s method and returns its response; of a stream, the last one."""
    from llama_index.core.base.llms.types import ChatMessage

    async def run(awaitable):
        found = await awaitable
        return [response async for response in found][-1] if "stream" in name else found

    def call(llm, text="one two", **kwargs):
        arguments = text if "complete" in name else [ChatMessage(role="user", content=text)]
        found = getattr(llm, name)(arguments, **kwargs)
        if name.startswith("a"):
            return asyncio.run(run(found))
        return list(found)[-1] if "stream" in name else found

    return call


@pytest.fixture(params=METHODS)
def method(request):
    """Each of the eight chat and complete methods; ``indirect`` parametrization chooses some."""
    return call_method(request.param)


@pytest.fixture(params=[name for name in METHODS if "stream" in name])
def stream_method(request):
    return call_method(request.param)


@pytest.fixture(params=[True, False], ids=["chat", "completions"])
def is_chat_model(request):
    return request.param


@pytest.fixture
def llm():
    """A ``VLLM`` on the server of a recorded test."""
    from vllm_adapters.llamaindex import VLLM

    return VLLM(temperature=0, max_retries=0)


@pytest.fixture
def fault_llm(fault_server):
    """A ``VLLM`` on the fault-injection server."""
    from vllm_adapters.llamaindex import VLLM

    return VLLM(base_url=fault_server.url, max_retries=0, timeout=5)


@pytest.fixture
def events():
    """LlamaIndex's events during the test."""
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.event_handlers import BaseEventHandler
    from pydantic import Field

    class Recorder(BaseEventHandler):
        events: list = Field(default_factory=list)

        def handle(self, event, **kwargs):
            self.events.append(event)

        @property
        def names(self):
            return [event.class_name() for event in self.events]

        def of(self, name):
            return [event for event in self.events if event.class_name() == name]

    recorder, root = Recorder(), get_dispatcher()
    root.add_event_handler(recorder)
    yield recorder
    root.event_handlers.remove(recorder)
