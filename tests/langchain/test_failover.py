"""LangChain's fall-back with our errors: a server that fails leads to the second, a mistake of the caller does not."""

import asyncio

import pytest

from vllm_adapters import Timeouts, errors
from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.testing import faults

SERVER = (
    errors.ServerUnreachable,
    errors.ServerTimeout,
    errors.ServerNotReady,
    errors.ServerFailed,
    errors.RateLimited,
)
CHAT = "/v1/chat/completions"


@pytest.fixture
def two(make_fault_server):
    first, second = make_fault_server(), make_fault_server()
    second.reply(faults.chat("from the second"), CHAT)
    options = {"model": "stub", "timeout": Timeouts(connect=1, idle=1, total=2)}
    llm = ChatVLLM(base_url=first.url, max_retries=0, **options).with_fallbacks(
        [ChatVLLM(base_url=second.url, **options)], exceptions_to_handle=SERVER
    )
    return llm, first, second


CALLS = {
    "invoke": lambda llm: llm.invoke("x").text,
    "ainvoke": lambda llm: asyncio.run(llm.ainvoke("x")).text,
    "stream": lambda llm: "".join(chunk.text for chunk in llm.stream("x")),
}


@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize(
    "failure",
    [
        faults.hang_up(),
        faults.hang(),
        faults.error(429, retry_after=60),
        faults.error(503, "The engine is currently busy and cannot accept new requests"),
        faults.loading(),
        faults.error(500),
        faults.html(502),
    ],
    ids=["dead", "slow", "429", "overloaded", "loading", "500", "502"],
)
def test_server_that_fails_leads_to_the_second(two, how, failure):
    llm, first, second = two
    first.reply(failure)
    assert CALLS[how](llm) == "from the second"
    assert (len(first.posts(CHAT)), len(second.posts(CHAT))) == (1, 1)


@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize(
    "mistake",
    [
        faults.error(400, "bad"),
        faults.error(400, "maximum context length is 10 tokens"),
        faults.error(401, shape="string"),
    ],
    ids=["400", "context", "401"],
)
def test_mistake_of_the_caller_does_not(two, how, mistake):
    llm, first, second = two
    first.reply(mistake)
    with pytest.raises(errors.VLLMError):
        CALLS[how](llm)
    assert (len(first.posts(CHAT)), len(second.posts(CHAT))) == (1, 0)


def test_healthy_server_is_the_only_one_asked(two):
    llm, _, second = two
    assert llm.invoke("x").text == "x"
    assert not second.requests


def test_strict_completion_is_a_parameter(fault_server):
    llm = ChatVLLM(model="stub", base_url=fault_server.url, model_kwargs={"strict_completion": True})
    assert "".join(chunk.text for chunk in llm.stream("one two")) == "one two"
    assert fault_server.posts(CHAT)[0].json["stream_options"] == {"include_usage": True}


def test_session_is_sent_as_a_header(fault_server):
    ChatVLLM(model="stub", base_url=fault_server.url, session_id="s-1").invoke("x")
    (post,) = fault_server.posts(CHAT)
    assert (post.json["session_id"], post.headers["x-session-id"]) == ("s-1", "s-1")
