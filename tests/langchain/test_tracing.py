"""What tracers, callbacks and caches get to see: the model's name, and no credential."""

import asyncio
import json
import pickle

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.tracers.langchain import LangChainTracer
from pydantic import BaseModel

from vllm_adapters import errors as e
from vllm_adapters.langchain import VLLM, ChatVLLM
from vllm_adapters.testing import faults

CANARY = "sk-canary"
SECRETS = {"extra_headers": {"Authorization": f"Bearer {CANARY}"}, "extra_query": {"key": CANARY}, "cache_salt": CANARY}
every_model_class = pytest.mark.parametrize("cls", [ChatVLLM, VLLM])


class Recorder(BaseCallbackHandler):
    """Keeps everything that LangChain hands to callbacks."""

    def __init__(self):
        self.seen, self.metadata = [], []

    def _keep(self, *args, **kwargs):
        self.seen.append((args, kwargs))
        self.metadata.append(kwargs.get("metadata") or {})

    on_llm_start = on_chat_model_start = on_llm_end = on_llm_error = on_chain_start = on_chain_end = _keep


class LangSmith:
    """A client of LangSmith that keeps what would be sent."""

    def __init__(self):
        self.runs, self.tracing_queue, self.api_url = [], None, "http://canary"

    def create_run(self, **run):
        self.runs.append(run)

    update_run = create_run


async def read(stream):
    return [chunk async for chunk in stream]


def call_all(llm, **params):
    """Call a model in every way that LangChain traces on its own."""
    llm.invoke("x", **params)
    asyncio.run(llm.ainvoke("x", **params))
    list(llm.stream("x", **params))
    llm.batch(["x"], **params)

    asyncio.run(read(llm.astream("x", **params)))


@every_model_class
@pytest.mark.parametrize("level", ["call", "bind", "constructor"])
def test_credentials_of_calls_are_shown_nowhere(fault_server, cls, level):
    recorder, langsmith = Recorder(), LangSmith()
    tracer = LangChainTracer(client=langsmith)
    options = {"base_url": fault_server.url, "model": "stub", "max_retries": 0, "callbacks": [recorder, tracer]}
    if level == "constructor":
        options["model_kwargs"] = SECRETS
    llm = cls(**options)
    if level == "bind":
        llm = llm.bind(**SECRETS)
    call_all(llm, **(SECRETS if level == "call" else {}))
    shown = [recorder.seen, langsmith.runs, dumps(recorder.seen, pretty=True)]
    if level != "call":
        shown += [llm, dumps(llm), pickle.dumps(llm)] if level == "bind" else [llm, dumps(llm)]
        shown += [str(llm), llm.with_config(tags=["a"]), llm.with_retry()]
    for value in shown:
        assert CANARY not in repr(value)
    assert langsmith.runs
    requests = [request for request in fault_server.requests if request.method == "POST"]
    assert len(requests) == 5
    for request in requests:
        assert request.headers["authorization"] == f"Bearer {CANARY}"
        assert f"key={CANARY}" in request.path
        assert request.json["cache_salt"] == CANARY


def test_credentials_of_structured_output_and_tools_are_shown_nowhere(faulty_llm, fault_server):
    fault_server.reply(faults.chat("yes"))
    recorder = Recorder()
    chain = faulty_llm.with_structured_output(["yes", "no"], include_raw=True, **SECRETS)
    chain.invoke("x", {"callbacks": [recorder]})
    bound = faulty_llm.bind(**SECRETS).bind_tools([]).bind(top_k=1)
    bound.invoke("x", {"callbacks": [recorder]})
    for value in (chain, bound, recorder.seen):
        assert CANARY not in repr(value)
    assert [r.headers["authorization"] for r in fault_server.posts()] == [f"Bearer {CANARY}"] * 2


@every_model_class
def test_traces_have_provider_and_model_from_the_first_call_on(make_fault_server, cls):
    for call in (
        lambda llm: llm.invoke("x"),
        lambda llm: asyncio.run(llm.ainvoke("x")),
        lambda llm: list(llm.stream("x")),
        lambda llm: asyncio.run(read(llm.astream("x"))),
        *([lambda llm: llm.stream_events("x", version="v3").output] if cls is ChatVLLM else []),
    ):
        server, recorder = make_fault_server(), Recorder()
        call(cls(base_url=server.url, callbacks=[recorder], max_retries=0))
        assert recorder.metadata[0]["ls_provider"] == "vllm"
        assert recorder.metadata[0]["ls_model_name"] == "stub"
        assert len([request for request in server.requests if request.path == "/v1/models"]) == 1
        call(cls(base_url=server.url, callbacks=[recorder], max_retries=0, model="other"))


def test_model_of_a_call_is_in_the_trace(faulty_llm):
    recorder = Recorder()
    faulty_llm.invoke("x", {"callbacks": [recorder]}, model="stub", temperature=0.5, max_tokens=7, stop=["."])
    metadata = {name: value for name, value in recorder.metadata[0].items() if name.startswith("ls_")}
    assert metadata == {
        "ls_provider": "vllm",
        "ls_model_type": "chat",
        "ls_model_name": "stub",
        "ls_temperature": 0.5,
        "ls_max_tokens": 7,
        "ls_stop": ["."],
        "ls_integration": "langchain_chat_model",
    }


@every_model_class
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
def test_failed_look_up_of_the_model_is_the_error_of_the_traced_call(fault_server, call, cls, way):
    fault_server.reply(faults.error(401, "Unauthorized", shape="string"), "/v1/models")
    errors = []

    class Handler(BaseCallbackHandler):
        def on_llm_error(self, error, **kwargs):
            errors.append(error)

    with pytest.raises(e.AuthenticationFailed) as caught:
        call(way, cls(base_url=fault_server.url, max_retries=0, callbacks=[Handler()]))
    assert errors == [caught.value]
    assert len(fault_server.requests) == 1


def test_steps_of_structured_output_have_names_of_langchain(faulty_llm, fault_server):
    class City(BaseModel):
        city: str

    names = set()

    class Handler(BaseCallbackHandler):
        def on_chain_start(self, serialized, inputs, *, name=None, **kwargs):
            names.add(name)

    for schema, text in ((City, '{"city": "Rome"}'), (["yes"], "yes"), ({"type": "object"}, "{}")):
        fault_server.reply(faults.chat(text))
        for include_raw in (False, True):
            chain = faulty_llm.with_structured_output(schema, include_raw=include_raw)
            chain.invoke("x", {"callbacks": [Handler()]})
            list(chain.stream("x", {"callbacks": [Handler()]}))
    assert not {name for name in names if name.startswith("_") or name in ("sync", "transform", "atransform")}
    assert {"RunnableSequence", "ReplyCheck"} <= names


# The cache


@every_model_class
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"default_headers": {"X-Tenant": "a"}}, {"default_headers": {"X-Tenant": "b"}}),
        ({"default_query": {"tenant": "a"}}, {"default_query": {"tenant": "b"}}),
        ({"api_key": "a"}, {"api_key": "b"}),
        (
            {"model_kwargs": {"extra_headers": {"X-Tenant": "a"}}},
            {"model_kwargs": {"extra_headers": {"X-Tenant": "b"}}},
        ),
    ],
    ids=["headers", "query", "key", "extra_headers"],
)
def test_tenants_do_not_share_answers(fault_server, cls, first, second):
    cache = InMemoryCache()
    for options in (first, second, second, first):
        cls(base_url=fault_server.url, model="stub", cache=cache, max_retries=0, **options).invoke("x")
    assert len(fault_server.posts()) == 2
    assert not any(value in str(cache._cache) for value in ("'a'", "'b'"))


@every_model_class
def test_headers_of_calls_are_in_the_key_unreadably(fault_server, cls):
    cache = InMemoryCache()
    llm = cls(base_url=fault_server.url, model="stub", cache=cache, max_retries=0)
    for tenant in ("canary-1", "canary-2", "canary-1"):
        llm.invoke("x", extra_headers={"X-Tenant": tenant})
        llm.bind(extra_query={"tenant": tenant}).invoke("x")
    assert len(fault_server.posts()) == 4
    assert "canary" not in str(cache._cache)


@pytest.mark.parametrize(
    "changes",
    [{"output_version": "v1"}, {"replay_reasoning": True}, {"include_response_headers": True}],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_that_change_the_message_are_in_the_key(fault_server, changes):
    cache = InMemoryCache()
    for options in ({}, changes, changes):
        ChatVLLM(base_url=fault_server.url, model="stub", cache=cache, max_retries=0, **options).invoke("x")
    assert len(fault_server.posts()) == 2


def models(*names):
    return faults.json_reply({"data": [{"id": name, "root": name, "object": "model"} for name in names]})


@every_model_class
def test_answer_of_another_model_at_the_same_address_is_not_returned(fault_server, cls):
    cache = InMemoryCache()
    for name in ("one", "two"):
        fault_server.reply(models(name), "/v1/models")
        cls(base_url=fault_server.url, cache=cache, max_retries=0).invoke("x")
    assert [request.json["model"] for request in fault_server.posts()] == ["one", "two"]


def test_payloads_of_traces_are_json(faulty_llm):
    langsmith = LangSmith()
    faulty_llm.bind(**SECRETS).invoke("x", {"callbacks": [LangChainTracer(client=langsmith)]})
    extra = langsmith.runs[0]["extra"]
    assert json.loads(json.dumps(extra["invocation_params"]))["extra_headers"] == {"Authorization": "**********"}
