"""The ways in which a ChatVLLM can be called, by name."""

import asyncio
import functools
import operator

import pytest


def merge(chunks):
    return functools.reduce(operator.add, chunks)


def streaming(llm, **changes):
    """The same model, which streams although it is invoked."""
    return llm.model_copy(update={"streaming": True, **changes})


async def _astream(llm, *args, **kwargs):
    return merge([chunk async for chunk in llm.astream(*args, **kwargs)])


async def _events_v2(llm, *args, **kwargs):
    events = [event async for event in llm.astream_events(*args, version="v2", **kwargs)]
    return events[-1]["data"]["output"]


async def _aevents_v3(llm, *args, **kwargs):
    events = await llm.astream_events(*args, version="v3", **kwargs)
    async for _ in events:
        pass
    return await events.output


WAYS = {
    "invoke": lambda llm, *args, **kwargs: llm.invoke(*args, **kwargs),
    "ainvoke": lambda llm, *args, **kwargs: asyncio.run(llm.ainvoke(*args, **kwargs)),
    "invoke_streaming": lambda llm, *args, **kwargs: streaming(llm).invoke(*args, **kwargs),
    "ainvoke_streaming": lambda llm, *args, **kwargs: asyncio.run(streaming(llm).ainvoke(*args, **kwargs)),
    "invoke_streaming_v1": lambda llm, *args, **kwargs: streaming(llm, output_version="v1").invoke(*args, **kwargs),
    "stream": lambda llm, *args, **kwargs: merge(llm.stream(*args, **kwargs)),
    "astream": lambda llm, *args, **kwargs: asyncio.run(_astream(llm, *args, **kwargs)),
    "events_v2": lambda llm, *args, **kwargs: asyncio.run(_events_v2(llm, *args, **kwargs)),
    "events_v3": lambda llm, *args, **kwargs: llm.stream_events(*args, version="v3", **kwargs).output,
    "aevents_v3": lambda llm, *args, **kwargs: asyncio.run(_aevents_v3(llm, *args, **kwargs)),
}


@pytest.fixture
def llm():
    """A ChatVLLM on the recorded server."""
    from vllm_adapters.langchain import ChatVLLM  # not everywhere installed

    return ChatVLLM(temperature=0, max_retries=0)


@pytest.fixture
def faulty_llm(fault_server):
    """A ChatVLLM on the fault-injection server."""
    from vllm_adapters.langchain import ChatVLLM

    return ChatVLLM(base_url=fault_server.url, max_retries=0, timeout=5)


@pytest.fixture
def call():
    """Call a model in one of the ways, and return the message: ``call(way, llm, input, **parameters)``."""
    return lambda way, llm, input="x", **kwargs: WAYS[way](llm, input, **kwargs)
