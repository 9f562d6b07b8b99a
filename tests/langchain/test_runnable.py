"""What ChatVLLM inherits from LangChain: caches, limits, batches, fallbacks, configuration and callbacks."""

import asyncio
import pickle
import time

import langchain_core.exceptions as lc
import pytest
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
TRUNCATED = faults.sse(*payloads.chat_chunks("one two three", finish_reason=None), end="close")


def chat_on(server):
    return ChatVLLM(base_url=server.url, max_retries=0, timeout=5)


def test_cache(fault_server):
    llm = ChatVLLM(base_url=fault_server.url, cache=InMemoryCache(), max_retries=0)
    fault_server.reply(faults.chat("six", reasoning="because"))
    first, cached = llm.invoke("why?"), llm.invoke("why?")
    assert len(fault_server.posts(CHAT)) == 1
    assert cached.text == first.text == "six"
    assert cached.additional_kwargs["reasoning_content"] == "because"
    llm.invoke("why?", top_k=1)
    llm.bind(chat_template_kwargs={"enable_thinking": True}).invoke("why?")
    llm.bind(structured_outputs={"choice": ["six"]}).invoke("why?")
    assert len(fault_server.posts(CHAT)) == 4, "other parameters are another key"


def test_shared_cache_distinguishes_servers(make_fault_server):
    cache = InMemoryCache()
    servers = [make_fault_server(), make_fault_server()]
    for server in servers:
        ChatVLLM(base_url=server.url, cache=cache, max_retries=0).invoke("hi")
    assert [len(server.posts(CHAT)) for server in servers] == [1, 1]


def test_truncated_streams_are_not_cached(fault_server):
    llm = ChatVLLM(base_url=fault_server.url, cache=InMemoryCache(), max_retries=0, streaming=True)
    fault_server.script(CHAT, [TRUNCATED, faults.chat("whole")])
    with pytest.raises(e.IncompleteStream):
        llm.invoke("x")
    assert llm.invoke("x").text == "whole"


def test_rate_limiter(fault_server):
    limiter = InMemoryRateLimiter(requests_per_second=10, check_every_n_seconds=0.01, max_bucket_size=1)
    llm = ChatVLLM(base_url=fault_server.url, rate_limiter=limiter, max_retries=0)
    began = time.monotonic()
    llm.batch(["a", "b", "c"])
    list(llm.stream("d"))
    assert time.monotonic() - began > 0.25


def test_batch_keeps_to_max_concurrency(make_fault_server):
    server = make_fault_server(delay=0.1)
    llm = ChatVLLM(base_url=server.url, max_retries=0)
    inputs = [str(number) for number in range(8)]
    assert [m.text for m in llm.batch(inputs, config={"max_concurrency": 2})] == inputs
    assert server.peak == 2
    assert [m.text for m in asyncio.run(llm.abatch(inputs, config={"max_concurrency": 3}))] == inputs
    assert server.peak == 3


def test_batch_returns_exceptions(faulty_llm, fault_server):
    fault_server.script(CHAT, [faults.error(400, "bad")])
    found = faulty_llm.batch(["a", "b"], config={"max_concurrency": 1}, return_exceptions=True)
    assert isinstance(found[0], e.InvalidRequest)
    assert found[1].text == "b"


def test_with_retry(faulty_llm, fault_server):
    retrying = faulty_llm.with_retry(
        retry_if_exception_type=(lc.ModelConnectionError, lc.ModelAPIError), wait_exponential_jitter=False
    )
    fault_server.script(CHAT, [faults.error(500), faults.hang_up(), faults.chat("there")])
    assert retrying.invoke("x").text == "there"
    assert len(fault_server.posts(CHAT)) == 3
    fault_server.script(CHAT, [faults.error(400, "bad")])
    with pytest.raises(e.InvalidRequest):
        retrying.invoke("x")
    assert len(fault_server.posts(CHAT)) == 4


FAULTS = {
    "loading": faults.loading(),
    "closed": faults.hang_up(),
    "busy": faults.error(429),
    "gone": faults.error(404, "The model `m` does not exist.", param="model"),
    "page": faults.html(),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_with_fallbacks(fault_server, make_fault_server, fault):
    other = make_fault_server(models=("other",))
    llm = chat_on(fault_server).with_fallbacks([chat_on(other)])
    fault_server.reply(fault)
    found = [llm.invoke("hi"), asyncio.run(llm.ainvoke("hi")), *llm.batch(["hi"])]
    assert {message.response_metadata["model_name"] for message in found} == {"other"}
    assert "".join(chunk.text for chunk in llm.stream("hi")) == "hi"


def test_truncated_stream_falls_back_only_if_nothing_was_yielded(fault_server, make_fault_server):
    other = make_fault_server()
    fault_server.reply(TRUNCATED)
    first = chat_on(fault_server)
    whole = first.model_copy(update={"streaming": True}).with_fallbacks([chat_on(other)])
    assert whole.invoke("hi").text == "hi"
    texts = []
    stream = first.with_fallbacks([chat_on(other)]).stream("hi")
    with pytest.raises(e.IncompleteStream) as caught:
        texts.extend(chunk.text for chunk in stream)
    assert "".join(texts) == caught.value.partial == "one two three", "what was yielded is not repeated"


def test_fallbacks_keep_tools(fault_server, make_fault_server):
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    other = make_fault_server()
    fault_server.reply(faults.hang_up())
    chat_on(fault_server).with_fallbacks([chat_on(other)]).bind_tools([add]).invoke("x")
    assert other.posts(CHAT)[0].json["tools"][0]["function"]["name"] == "add"


def test_configurable_fields(faulty_llm, fault_server):
    fields = {"temperature": ConfigurableField(id="t"), "top_k": ConfigurableField(id="k")}
    configurable = faulty_llm.configurable_fields(**fields)
    configurable.invoke("x", {"configurable": {"t": 0.5, "k": 3}})
    configurable.with_config(configurable={"k": 7}).invoke("x")
    configurable.invoke("x")
    values = [(r.json.get("temperature"), r.json.get("top_k")) for r in fault_server.posts(CHAT)]
    assert values == [(0.5, 3), (None, 7), (None, None)]


def test_configurable_fields_keep_key_and_server(make_fault_server):
    server = make_fault_server(api_key="sk-there", models=("one", "two"))
    llm = ChatVLLM(base_url=server.url, api_key="sk-there", model="one", max_retries=0)
    configurable = llm.configurable_fields(model_name=ConfigurableField(id="model"))
    found = configurable.invoke("x", {"configurable": {"model": "two"}})
    assert found.text == "x"
    assert server.posts(CHAT)[0].json["model"] == "two"


def test_configurable_alternatives(fault_server, make_fault_server):
    other = make_fault_server()
    configurable = chat_on(fault_server).configurable_alternatives(ConfigurableField(id="server"), big=chat_on(other))
    configurable.invoke("x", {"configurable": {"server": "big"}})
    configurable.invoke("x")
    assert (len(fault_server.posts(CHAT)), len(other.posts(CHAT))) == (1, 1)


@pytest.mark.parametrize("streamed", [True, "tool_calling"])
def test_disabled_streaming(fault_server, streamed):
    llm = ChatVLLM(base_url=fault_server.url, disable_streaming=streamed, max_retries=0)
    assert "".join(chunk.text for chunk in llm.stream("one two")) == "one two"
    assert fault_server.posts(CHAT)[0].json.get("stream", False) is (streamed != True)  # noqa: E712


def test_response_headers(fault_server):
    llm = ChatVLLM(base_url=fault_server.url, include_response_headers=True, max_retries=0)
    assert "content-type" in llm.invoke("x").response_metadata["headers"]


def test_dumps_is_not_implemented_and_has_no_key(fault_server):
    """LangChain's ``dumps`` does not store a ChatVLLM, as its JSON would have to contain the headers; pickle does."""
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


def test_messages_are_stored_and_loaded(faulty_llm, fault_server):
    fault_server.reply(faults.chat("six", reasoning="because"))
    message = faulty_llm.invoke([HumanMessage("why?")])
    assert load(dumpd(message), allowed_objects="core") == message


class Recorder(BaseCallbackHandler):
    """Records the events of a model."""

    def __init__(self):
        self.tokens, self.ends, self.errors = [], [], []

    def on_llm_new_token(self, token, *, chunk=None, **kwargs):
        self.tokens.append((token, chunk.message.additional_kwargs.get("reasoning_content")))

    def on_llm_end(self, response, **kwargs):
        self.ends.append(response.generations[0][0].message)

    def on_llm_error(self, error, *, response=None, **kwargs):
        self.errors.append((error, response))


@pytest.mark.parametrize("way", ["stream", "astream", "invoke"])
def test_callbacks_of_a_stream(faulty_llm, fault_server, way):
    fault_server.reply(faults.chat("one two", reasoning="because"))
    recorder = Recorder()
    config = {"callbacks": [recorder]}
    if way == "stream":
        list(faulty_llm.stream("x", config))
    elif way == "astream":
        asyncio.run(drain(faulty_llm.astream("x", config)))
    else:
        faulty_llm.model_copy(update={"streaming": True}).invoke("x", config)
    assert "".join(token for token, _ in recorder.tokens) == "one two"
    assert [reasoning for _, reasoning in recorder.tokens if reasoning] == ["because"]
    assert recorder.ends[0].usage_metadata["output_tokens"] > 0
    assert recorder.ends[0].additional_kwargs["reasoning_content"] == "because"


async def drain(chunks):
    async for _ in chunks:
        pass


def test_callbacks_get_the_error_and_what_had_arrived(faulty_llm, fault_server):
    fault_server.reply(TRUNCATED)
    recorder = Recorder()
    with pytest.raises(e.IncompleteStream):
        list(faulty_llm.stream("x", {"callbacks": [recorder]}))
    error, response = recorder.errors[0]
    assert isinstance(error, lc.ModelConnectionError)
    assert response.generations[0][0].text == "one two three"
