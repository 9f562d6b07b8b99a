"""What ChatVLLM inherits from LangChain, tested and not assumed: where it needs servers that fail or can be counted."""

import asyncio
import pickle
import time

import langchain_core.exceptions as lc
import pytest

pytest.importorskip("langchain_openai")

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd, dumps, load
from langchain_core.messages import HumanMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField

from vllm_adapters import errors as e
from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
CUT = faults.sse(*payloads.chat_chunks("one two three", finish_reason=None), end="close")


@pytest.fixture
def llm(fault_server):
    return ChatVLLM(base_url=fault_server.url, max_retries=0, timeout=5)


def second(server):
    return ChatVLLM(base_url=server.url, max_retries=0, timeout=5)


def test_a_cache_answers_once_for_all(fault_server):
    llm = ChatVLLM(base_url=fault_server.url, cache=InMemoryCache(), max_retries=0)
    fault_server.reply(faults.chat("six", reasoning="because"))
    first, cached = llm.invoke("why?"), llm.invoke("why?")
    assert len(fault_server.posts(CHAT)) == 1
    assert cached.text == first.text == "six"
    assert cached.additional_kwargs["reasoning_content"] == "because"
    llm.invoke("why?", top_k=1)
    llm.bind(chat_template_kwargs={"enable_thinking": True}).invoke("why?")
    llm.bind(structured_outputs={"choice": ["six"]}).invoke("why?")
    assert len(fault_server.posts(CHAT)) == 4, "other parameters are another question"


def test_a_shared_cache_tells_servers_apart(make_fault_server):
    cache = InMemoryCache()
    servers = [make_fault_server(), make_fault_server()]
    for server in servers:
        ChatVLLM(base_url=server.url, cache=cache, max_retries=0).invoke("hi")
    assert [len(server.posts(CHAT)) for server in servers] == [1, 1]


def test_errors_and_cut_streams_are_not_cached(fault_server):
    llm = ChatVLLM(base_url=fault_server.url, cache=InMemoryCache(), max_retries=0, streaming=True)
    fault_server.script(CHAT, [CUT, faults.chat("whole")])
    with pytest.raises(e.IncompleteStream):
        llm.invoke("x")
    assert llm.invoke("x").text == "whole"


def test_a_rate_limiter_spaces_calls(fault_server):
    limiter = InMemoryRateLimiter(requests_per_second=10, check_every_n_seconds=0.01, max_bucket_size=1)
    llm = ChatVLLM(base_url=fault_server.url, rate_limiter=limiter, max_retries=0)
    began = time.monotonic()
    llm.batch(["a", "b", "c"])
    list(llm.stream("d"))
    assert time.monotonic() - began > 0.25


def test_a_batch_keeps_to_its_concurrency(make_fault_server):
    server = make_fault_server(delay=0.1)
    llm = ChatVLLM(base_url=server.url, max_retries=0)
    asked = [str(number) for number in range(8)]
    assert [m.text for m in llm.batch(asked, config={"max_concurrency": 2})] == asked
    assert server.peak == 2
    assert [m.text for m in asyncio.run(llm.abatch(asked, config={"max_concurrency": 3}))] == asked
    assert server.peak == 3


def test_a_batch_may_fail_in_part(llm, fault_server):
    fault_server.script(CHAT, [faults.error(400, "bad")])
    found = llm.batch(["a", "b"], config={"max_concurrency": 1}, return_exceptions=True)
    assert isinstance(found[0], e.InvalidRequest)
    assert found[1].text == "b"


def test_with_retry_tries_what_can_be_tried_again(llm, fault_server):
    patient = llm.with_retry(
        retry_if_exception_type=(lc.ModelConnectionError, lc.ModelAPIError), wait_exponential_jitter=False
    )
    fault_server.script(CHAT, [faults.error(500), faults.hang_up(), faults.chat("there")])
    assert patient.invoke("x").text == "there"
    assert len(fault_server.posts(CHAT)) == 3
    fault_server.script(CHAT, [faults.error(400, "bad")])
    with pytest.raises(e.InvalidRequest):
        patient.invoke("x")
    assert len(fault_server.posts(CHAT)) == 4


FAILURES = {
    "loading": faults.loading(),
    "closed": faults.hang_up(),
    "busy": faults.error(429),
    "gone": faults.error(404, "The model `m` does not exist.", param="model"),
    "page": faults.html(),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_with_fallbacks_between_two_servers(fault_server, make_fault_server, failure):
    other = make_fault_server(models=("other",))
    llm = second(fault_server).with_fallbacks([second(other)])
    fault_server.reply(failure)
    found = [llm.invoke("hi"), asyncio.run(llm.ainvoke("hi")), *llm.batch(["hi"])]
    assert {message.response_metadata["model_name"] for message in found} == {"other"}
    assert "".join(chunk.text for chunk in llm.stream("hi")) == "hi"


def test_a_cut_stream_falls_back_where_nothing_was_shown(fault_server, make_fault_server):
    other = make_fault_server()
    fault_server.reply(CUT)
    first = second(fault_server)
    whole = first.model_copy(update={"streaming": True}).with_fallbacks([second(other)])
    assert whole.invoke("hi").text == "hi"
    shown = []
    stream = first.with_fallbacks([second(other)]).stream("hi")
    with pytest.raises(e.IncompleteStream) as caught:
        shown.extend(chunk.text for chunk in stream)
    assert "".join(shown) == caught.value.partial == "one two three", "what was shown is not said again"


def test_fallbacks_keep_tools_and_forms(fault_server, make_fault_server):
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    other = make_fault_server()
    fault_server.reply(faults.hang_up())
    second(fault_server).with_fallbacks([second(other)]).bind_tools([add]).invoke("x")
    assert other.posts(CHAT)[0].json["tools"][0]["function"]["name"] == "add"


def test_configurable_fields(llm, fault_server):
    llm.get_num_tokens("warm")
    fields = {"temperature": ConfigurableField(id="heat"), "top_k": ConfigurableField(id="k")}
    configurable = llm.configurable_fields(**fields)
    configurable.invoke("x", {"configurable": {"heat": 0.5, "k": 3}})
    configurable.with_config(configurable={"k": 7}).invoke("x")
    configurable.invoke("x")
    said = [(r.json.get("temperature"), r.json.get("top_k")) for r in fault_server.posts(CHAT)]
    assert said == [(0.5, 3), (None, 7), (None, None)]


def test_configurable_fields_keep_key_and_server(make_fault_server):
    server = make_fault_server(api_key="sk-there", models=("one", "two"))
    llm = ChatVLLM(base_url=server.url, api_key="sk-there", model="one", max_retries=0)
    named = llm.configurable_fields(model_name=ConfigurableField(id="model"))
    found = named.invoke("x", {"configurable": {"model": "two"}})
    assert found.text == "x"
    assert server.posts(CHAT)[0].json["model"] == "two"


def test_configurable_alternatives(fault_server, make_fault_server):
    other = make_fault_server()
    which = second(fault_server).configurable_alternatives(ConfigurableField(id="server"), big=second(other))
    which.invoke("x", {"configurable": {"server": "big"}})
    which.invoke("x")
    assert (len(fault_server.posts(CHAT)), len(other.posts(CHAT))) == (1, 1)


@pytest.mark.parametrize("streamed", [True, "tool_calling"])
def test_disabled_streaming(fault_server, streamed):
    llm = ChatVLLM(base_url=fault_server.url, disable_streaming=streamed, max_retries=0)
    assert "".join(chunk.text for chunk in llm.stream("one two")) == "one two"
    assert fault_server.posts(CHAT)[0].json.get("stream", False) is (streamed != True)  # noqa: E712


def test_headers_of_replies(fault_server):
    llm = ChatVLLM(base_url=fault_server.url, include_response_headers=True, max_retries=0)
    assert "content-type" in llm.invoke("x").response_metadata["headers"]


def test_a_dump_says_what_it_cannot_say(fault_server):
    """A ChatVLLM is not stored by LangChain's ``dumps``, whose JSON would have to hold headers; pickles it is."""
    token = {"token": "sk-canary"}
    secrets = {"api_key": "sk-canary", "default_headers": token, "default_query": token, "cache_salt": "sk-canary"}
    llm = ChatVLLM(base_url=fault_server.url, **secrets)
    chain = llm.bind(top_k=1) | (lambda message: message.text)
    for thing in (llm, chain):
        assert "sk-canary" not in dumps(thing)
    assert dumpd(llm)["type"] == "not_implemented"
    with pytest.raises(NotImplementedError, match="ChatVLLM"):
        load(dumpd(llm), allowed_objects="core")
    copied = pickle.loads(pickle.dumps(llm.bind(top_k=1)))
    assert copied.invoke("x").text == "x"
    assert fault_server.posts(CHAT)[0].json["top_k"] == 1


def test_messages_are_stored_and_read(llm, fault_server):
    fault_server.reply(faults.chat("six", reasoning="because"))
    message = llm.invoke([HumanMessage("why?")])
    assert load(dumpd(message), allowed_objects="core") == message


class Listener(BaseCallbackHandler):
    """Notes what it is told."""

    def __init__(self):
        self.tokens, self.ends, self.errors = [], [], []

    def on_llm_new_token(self, token, *, chunk=None, **kwargs):
        self.tokens.append((token, chunk.message.additional_kwargs.get("reasoning_content")))

    def on_llm_end(self, response, **kwargs):
        self.ends.append(response.generations[0][0].message)

    def on_llm_error(self, error, *, response=None, **kwargs):
        self.errors.append((error, response))


@pytest.mark.parametrize("way", ["stream", "astream", "invoke"])
def test_callbacks_hear_everything(llm, fault_server, way):
    fault_server.reply(faults.chat("one two", reasoning="because"))
    listener = Listener()
    config = {"callbacks": [listener]}
    if way == "stream":
        list(llm.stream("x", config))
    elif way == "astream":
        asyncio.run(_drain(llm.astream("x", config)))
    else:
        llm.model_copy(update={"streaming": True}).invoke("x", config)
    assert "".join(token for token, _ in listener.tokens) == "one two"
    assert [thought for _, thought in listener.tokens if thought] == ["because"]
    assert listener.ends[0].usage_metadata["output_tokens"] > 0
    assert listener.ends[0].additional_kwargs["reasoning_content"] == "because"


async def _drain(chunks):
    async for _ in chunks:
        pass


def test_callbacks_hear_of_failures_and_what_had_arrived(llm, fault_server):
    fault_server.reply(CUT)
    listener = Listener()
    with pytest.raises(e.IncompleteStream):
        list(llm.stream("x", {"callbacks": [listener]}))
    error, response = listener.errors[0]
    assert isinstance(error, lc.ModelConnectionError)
    assert response.generations[0][0].text == "one two three"
