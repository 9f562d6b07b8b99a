"""Credentials among parameters and settings: sent, and neither shown, nor saved, nor pickled, nor traced."""

import contextlib
import copy
import logging
import pickle

import pytest
import yaml
from haystack import Pipeline, tracing
from haystack.dataclasses import ChatMessage
from haystack.tracing.utils import coerce_tag_value
from haystack.utils import Secret

from vllm_adapters import errors as e
from vllm_adapters.haystack import VLLMChatGenerator, VLLMRanker, VLLMTextEmbedder

NAMED = Secret.from_env_var("GATEWAY_TOKEN")
UNSET = Secret.from_env_var("NO_SUCH_VARIABLE", strict=False)
PLACES = {
    "extra_headers": {"Authorization": "Bearer canary"},
    "extra_query": {"key": "canary"},
    "cache_salt": "canary",
    "extra_body": {"cache_salt": "canary"},
}

every_place = pytest.mark.parametrize("place", PLACES)


@every_place
def test_credentials_of_generation_kwargs_are_sent_and_not_shown(fault_server, place):
    parameters = {place: PLACES[place]}
    llm = VLLMChatGenerator(api_base_url=fault_server.url, generation_kwargs=parameters)
    assert llm.generation_kwargs == parameters
    for copied in (llm, copy.copy(llm), copy.deepcopy(llm)):
        copied.run("hi")
        assert "canary" not in repr(vars(copied))
    llm.generation_kwargs = parameters
    assert "canary" not in repr(vars(llm))
    for request in fault_server.posts():
        assert "canary" in f"{request.path} {dict(request.headers)} {request.json}"


@every_place
def test_credentials_of_generation_kwargs_are_neither_saved_nor_pickled(place):
    llm = VLLMChatGenerator(generation_kwargs={"top_k": 1, place: PLACES[place]})
    with pytest.raises(ValueError, match=r"Cannot serialize .* Secret\.from_env_var") as caught:
        llm.to_dict()
    assert "canary" not in str(caught.value)
    pickled = pickle.dumps(llm)
    assert b"canary" not in pickled
    assert pickle.loads(pickled).generation_kwargs["top_k"] == 1


def test_secrets_in_parameters_are_resolved_and_saved_by_name(fault_server, monkeypatch):
    parameters = {
        "extra_headers": {"Authorization": NAMED, "X-Unset": UNSET},
        "extra_query": {"key": NAMED, "api-version": "1"},
        "cache_salt": NAMED,
    }
    llm = VLLMChatGenerator(api_base_url=fault_server.url, generation_kwargs=parameters)  # the variable is not set yet
    text = yaml.safe_dump(llm.to_dict())
    assert "GATEWAY_TOKEN" in text
    loaded = VLLMChatGenerator.from_dict(yaml.safe_load(text))
    assert yaml.safe_dump(loaded.to_dict()) == text
    monkeypatch.setenv("GATEWAY_TOKEN", "canary")
    loaded.run("hi")
    pickle.loads(pickle.dumps(loaded)).run("hi")
    VLLMChatGenerator(api_base_url=fault_server.url).run("hi", generation_kwargs=parameters)
    for request in fault_server.posts():
        assert request.headers["authorization"] == request.json["cache_salt"] == "canary"
        assert "x-unset" not in request.headers
        assert set(request.path.partition("?")[2].split("&")) == {"key=canary", "api-version=1"}


def test_secrets_in_default_query(fault_server, monkeypatch):
    monkeypatch.setenv("GATEWAY_TOKEN", "canary")
    query = {"code": NAMED, "tenant": "a"}
    embedder = VLLMTextEmbedder(api_base_url=fault_server.url, default_query=query)
    embedder.run("hi")
    assert set(fault_server.posts()[0].path.partition("?")[2].split("&")) == {"code=canary", "tenant=a"}
    saved = embedder.to_dict()["init_parameters"]["default_query"]
    assert saved == {"code": NAMED.to_dict(), "tenant": "a"}
    text = VLLMTextEmbedder(default_query={"code": "canary"})
    assert "canary" not in repr(vars(text))
    assert b"canary" not in pickle.dumps(text)
    with pytest.raises(ValueError, match="Cannot serialize `code`"):
        text.to_dict()


@pytest.mark.parametrize(
    "options", [{"auth": ("me", "canary")}, {"cookies": {"session": "canary"}}, {"params": {"key": "canary"}}], ids=str
)
def test_credentials_of_http_client_kwargs_are_not_shown(options):
    ranker = VLLMRanker(http_client_kwargs=options)
    assert "canary" not in repr(vars(ranker))
    assert b"canary" not in pickle.dumps(ranker)
    with pytest.raises(ValueError, match="Cannot serialize"):
        ranker.to_dict()


def test_invalid_headers_of_generation_kwargs_are_rejected_without_being_shown():
    with pytest.raises(e.InvalidRequest, match="'X-Token'") as caught:
        VLLMChatGenerator(generation_kwargs={"extra_headers": {"X-Token": "canary\nx: y"}})
    assert "canary" not in str(caught.value)


YAML = """\
components:
  llm:
    init_parameters:
      api_base_url: http://gpu:8000/v1
      api_key:
        env_vars:
        - VLLM_API_KEY
        strict: false
        type: env_var
      generation_kwargs:
        extra_headers:
          X-Team: search
      http_client_kwargs:
        headers:
          X-Tenant: a
      max_retries: null
      model: m
      streaming_callback: null
      timeout: null
      tools: null
    type: haystack_integrations.components.vllm_adapters.VLLMChatGenerator
connection_type_validation: true
connections: []
max_runs_per_component: 100
metadata: {}
"""


def test_pipeline_that_contains_headers_as_text_is_saved_as_it_was():
    # They are in the file already; vllm-haystack writes and loads such files.
    pipe = Pipeline.loads(YAML)
    assert pipe.dumps() == YAML
    llm = pipe.get_component("llm")
    assert "search" not in repr(vars(llm))
    llm.http_client_kwargs = {"headers": {"X-Tenant": "a"}}
    with pytest.raises(ValueError, match="Cannot serialize `X-Tenant`"):
        pipe.dumps()


class Span(tracing.Span):
    def __init__(self, tags):
        self.tags = tags

    def set_tag(self, key, value):
        self.tags.append(str(coerce_tag_value(value)))


class Tracer(tracing.Tracer):
    def __init__(self):
        self.tags = []

    @contextlib.contextmanager
    def trace(self, operation_name, tags=None, parent_span=None):
        span = Span(self.tags)
        span.set_tags(tags or {})
        yield span

    def current_span(self):
        return None


@pytest.fixture
def traced(monkeypatch):
    """What a tracer of inputs and outputs sees."""
    tracer = Tracer()
    monkeypatch.setattr(tracing.tracer, "is_content_tracing_enabled", True)
    tracing.enable_tracing(tracer)
    yield tracer.tags
    tracing.disable_tracing()


@pytest.mark.parametrize("secret", [NAMED, Secret.from_token("canary")], ids=["variable", "token"])
@pytest.mark.parametrize("at_run", [False, True], ids=["constructor", "run"])
def test_traces_do_not_show_secrets(fault_server, monkeypatch, traced, caplog, secret, at_run):
    monkeypatch.setenv("GATEWAY_TOKEN", "canary")
    parameters = {"extra_headers": {"Authorization": secret}, "cache_salt": secret}
    pipe = Pipeline()
    llm = VLLMChatGenerator(api_base_url=fault_server.url, generation_kwargs=None if at_run else parameters)
    pipe.add_component("llm", llm)
    pipe.run({"llm": {"messages": [ChatMessage.from_user("hi")], "generation_kwargs": parameters if at_run else None}})
    assert fault_server.posts()[0].headers["authorization"] == "canary"
    assert any("hi" in tag for tag in traced)
    assert "canary" not in " ".join(traced) + caplog.text


def test_texts_in_a_trace_are_warned_of(fault_server, traced, caplog):
    llm = VLLMChatGenerator(api_base_url=fault_server.url)
    with caplog.at_level(logging.WARNING):
        llm.run("hi", generation_kwargs={"extra_headers": {"X-Request-Id": "1"}})
        assert not caplog.records
        llm.run("hi", generation_kwargs={"extra_headers": {"Authorization": "Bearer canary"}})
    (record,) = caplog.records
    assert "`Authorization` in the generation_kwargs of run is in the content trace" in record.getMessage()
    assert "canary" not in record.getMessage()
