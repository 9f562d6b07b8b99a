"""Components as dicts and pipelines as YAML: basic types, nothing lost, loaded where nothing was set up."""

import copy
import inspect
import json
import pickle
import subprocess
import sys
import typing
from functools import partial
from typing import Any

import pytest
from haystack import Pipeline, component
from haystack.components.builders import ChatPromptBuilder
from haystack.components.generators.utils import print_streaming_chunk
from haystack.components.retrievers import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.core.errors import DeserializationError, SerializationError
from haystack.core.serialization import component_from_dict, component_to_dict
from haystack.dataclasses import ChatMessage
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.tools import Tool
from haystack.utils import Secret
from pydantic import BaseModel

import haystack_integrations.components.vllm_adapters as namespace
import vllm_adapters.haystack
from vllm_adapters import Timeouts, VLLMServer
from vllm_adapters.errors import WrongAddress
from vllm_adapters.haystack import (
    VLLMChatGenerator,
    VLLMDocumentEmbedder,
    VLLMRanker,
    VLLMTextEmbedder,
    VLLMTokenCounter,
)

COMPONENTS = [VLLMChatGenerator, VLLMTextEmbedder, VLLMDocumentEmbedder, VLLMRanker]
SHARED = {"model", "api_key", "api_base_url", "http_client_kwargs"}
LIMITS = {"timeout", "max_retries"}
EMBEDS = SHARED | LIMITS | {"prefix", "suffix", "dimensions", "extra_parameters"}
SAVED = {
    # What vllm-haystack saves, so that its pipelines move over and back.
    VLLMChatGenerator: SHARED | LIMITS | {"streaming_callback", "generation_kwargs", "tools"},
    VLLMTextEmbedder: EMBEDS,
    VLLMDocumentEmbedder: EMBEDS
    | {"batch_size", "progress_bar", "meta_fields_to_embed", "embedding_separator", "raise_on_failure"},
    VLLMRanker: SHARED
    | {"top_k", "score_threshold", "meta_fields_to_embed", "meta_data_separator", "extra_parameters"},
}

every_component = pytest.mark.parametrize("cls", COMPONENTS, ids=lambda cls: cls.__name__)


class City(BaseModel):
    """A city."""

    city: str


TOOL = Tool(name="show", description="Shows.", parameters={"type": "object", "properties": {}}, function=print)


def full(cls):
    """Return a component with every argument set."""
    shared = {
        "model": "m",
        "api_key": Secret.from_env_var("MY_KEY"),
        "api_base_url": "http://gpu:8000",
        "timeout": {"connect": 1, "idle": None, "total": 9},
        "max_retries": 5,
        "http_client_kwargs": {"verify": False, "limits": {"max_connections": 3}},
        "default_headers": {"X-Token": Secret.from_env_var("TOKEN")},
        "default_query": {"tenant": "a"},
        "server_version": "0.11.0",
        "allow_unknown": True,
        "validate_model_on_init": True,
    }
    if cls is VLLMChatGenerator:
        parameters = {
            "top_k": 3,
            "response_format": City,
            "structured_outputs": {"json": City},
            "extra_body": {"structured_outputs": {"json": City}},
        }
        return cls(
            **shared,
            generation_kwargs=parameters,
            streaming_callback=print_streaming_chunk,
            tools=[TOOL],
            tools_strict=True,
            replay_reasoning=True,
            merge_system_messages=True,
        )
    if cls is VLLMRanker:
        affixes = {"query_prefix": "<", "query_suffix": ">", "document_prefix": "[", "document_suffix": "]"}
        return cls(**shared, **affixes, top_k=2, score_threshold=0.5, extra_parameters={"instruction": "find"})
    many = {"max_concurrency": 3, "batch_size": 3, "raise_on_failure": True} if cls is VLLMDocumentEmbedder else {}
    return cls(**shared, **many, prefix="<", dimensions=4, extra_parameters={"truncate_prompt_tokens": -1})


@every_component
def test_defaults_beyond_vllm_haystack_are_not_saved(cls, monkeypatch):
    monkeypatch.setenv("VLLM_BASE_URL", "http://here:1")
    saved = component_to_dict(cls(model="m"), "it")
    assert saved["type"] == f"haystack_integrations.components.vllm_adapters.{cls.__name__}"
    assert saved["init_parameters"].keys() == SAVED[cls]
    assert saved["init_parameters"]["api_base_url"] is None
    assert saved["init_parameters"]["api_key"] == {"type": "env_var", "env_vars": ["VLLM_API_KEY"], "strict": False}


@every_component
def test_every_argument_is_saved_and_loaded(cls):
    component = full(cls)
    saved = component_to_dict(component, "it")
    before = json.dumps(saved)
    loaded = component_from_dict(cls, json.loads(before), "it")
    assert component_to_dict(loaded, "it") == saved
    for name in saved["init_parameters"]:
        if name not in ("generation_kwargs", "tools"):
            assert getattr(loaded, name) == getattr(component, name), name
    assert saved["init_parameters"].keys() == inspect.signature(cls.__init__).parameters.keys() - {"self", "server"}


def test_loading_leaves_the_dict_as_it_was():
    saved = component_to_dict(full(VLLMChatGenerator), "it")
    before = json.dumps(saved)
    component_from_dict(VLLMChatGenerator, saved, "it")
    assert json.dumps(saved) == before


def test_pydantic_classes_are_saved_as_their_schema():
    # vllm-haystack raises SerializationError.
    saved = component_to_dict(full(VLLMChatGenerator), "it")["init_parameters"]["generation_kwargs"]
    schema = City.model_json_schema()
    assert saved["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "City", "schema": schema, "strict": True},
    }
    assert saved["structured_outputs"] == saved["extra_body"]["structured_outputs"] == {"json": schema}


def test_token_counter_is_saved_and_loaded():
    counter = VLLMTokenCounter(
        model="m",
        extra_parameters={"add_generation_prompt": False},
        default_headers={"X-Token": Secret.from_env_var("TOKEN")},
    )
    saved = counter.to_dict()
    assert saved["type"] == "haystack_integrations.components.vllm_adapters.VLLMTokenCounter"
    assert VLLMTokenCounter.from_dict(json.loads(json.dumps(saved))).to_dict() == saved


@every_component
def test_tokens_and_unknown_arguments_are_rejected(cls):
    with pytest.raises(ValueError, match="token-based secret"):
        cls(api_key=Secret.from_token("sk-canary")).to_dict()
    pipe = Pipeline()
    pipe.add_component("it", cls())
    with pytest.raises(DeserializationError, match="typo"):
        Pipeline.loads(pipe.dumps().replace("api_base_url", "typo"))


@every_component
@pytest.mark.parametrize(
    "options",
    [
        {"default_headers": {"X-Token": "canary"}},
        {"default_headers": {"X-Token": Secret.from_token("canary")}},
        {"http_client_kwargs": {"headers": {"X-Token": "canary"}}},
        {"http_client_kwargs": {"proxy": "http://me:canary@proxy:3128"}},
        {"http_client_kwargs": {"auth": ("me", "canary")}},
    ],
    ids=["default_headers", "token", "headers", "proxy", "auth"],
)
def test_credentials_as_text_are_not_saved(cls, options):
    with pytest.raises(ValueError, match="Cannot serialize") as caught:
        cls(**options).to_dict()
    assert "canary" not in str(caught.value)


def test_proxy_as_a_secret(make_fault_server, monkeypatch):
    proxy = make_fault_server()
    monkeypatch.setenv("PROXY", proxy.url.replace("://", "://me:canary@").removesuffix("/v1"))
    llm = VLLMChatGenerator(
        model="stub", api_base_url="http://vllm.invalid", http_client_kwargs={"proxy": Secret.from_env_var("PROXY")}
    )
    saved = llm.to_dict()
    assert "canary" not in str(saved)
    with pytest.raises(WrongAddress):  # the fault server does not serve as a proxy
        VLLMChatGenerator.from_dict(saved).run("one two")
    assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")


def test_proxy_without_a_password_is_saved():
    llm = VLLMChatGenerator(http_client_kwargs={"proxy": "http://proxy:3128"})
    assert llm.to_dict()["init_parameters"]["http_client_kwargs"] == {"proxy": "http://proxy:3128"}


def test_lambda_callback_is_rejected():
    with pytest.raises(SerializationError):
        VLLMChatGenerator(streaming_callback=lambda chunk: None).to_dict()


def pipeline():
    pipe = Pipeline()
    pipe.add_component("embedder", full(VLLMTextEmbedder))
    pipe.add_component("documents", full(VLLMDocumentEmbedder))
    pipe.add_component("ranker", full(VLLMRanker))
    pipe.add_component("prompt", ChatPromptBuilder([ChatMessage.from_user("{{ q }}")], required_variables="*"))
    pipe.add_component("llm", full(VLLMChatGenerator))
    pipe.connect("prompt.prompt", "llm.messages")
    return pipe


def test_yaml_round_trip():
    text = pipeline().dumps()
    assert Pipeline.loads(text).dumps() == text


def test_pipeline_of_vllm_haystack_is_loaded():
    text = """
components:
  llm:
    type: haystack_integrations.components.vllm_adapters.VLLMChatGenerator
    init_parameters:
      model: Qwen/Qwen3-0.6B
      api_base_url: http://my-server:8000/v1
      api_key: {type: env_var, env_vars: [VLLM_API_KEY], strict: false}
      generation_kwargs: {max_tokens: 512, extra_body: {top_k: 50}}
      streaming_callback: null
      timeout: 30.0
      max_retries: 5
      tools: null
      http_client_kwargs: null
connections: []
"""
    llm = Pipeline.loads(text).get_component("llm")
    assert (llm.timeout, llm.generation_kwargs["extra_body"]) == (30.0, {"top_k": 50})


def test_both_import_paths_have_the_same_names():
    assert set(vllm_adapters.haystack.__all__) == set(namespace.__all__)
    for name in vllm_adapters.haystack.__all__:
        assert getattr(vllm_adapters.haystack, name) is getattr(namespace, name)


LOAD = """
import sys
from haystack import Pipeline
pipe = Pipeline.loads(sys.stdin.read())
print(type(pipe.get_component("llm")).__name__, pipe.get_component("llm").generation_kwargs["top_k"])
"""

RUN = """
import json, sys
from haystack import Document, Pipeline
indexing, query = (Pipeline.loads(text) for text in json.load(sys.stdin))
indexing.run({"embedder": {"documents": [Document(content=text) for text in ("one", "two", "three")]}})
inputs = {"embedder": {"text": "two"}, "ranker": {"query": "two"}, "prompt": {"question": "two"}}
print(query.run(inputs)["llm"]["replies"][0].text)
"""


def in_fresh_process(code, text):
    done = subprocess.run(
        [sys.executable, "-c", code], input=text, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_yaml_is_loaded_in_a_fresh_process():
    assert in_fresh_process(LOAD, pipeline().dumps()) == "VLLMChatGenerator 3\n"


def test_retrieval_is_run_in_a_fresh_process(fault_server):
    connection = {"api_base_url": fault_server.url, "max_retries": 0}
    indexing, query = Pipeline(), Pipeline()
    indexing.add_component("embedder", VLLMDocumentEmbedder(**connection, progress_bar=False))
    indexing.add_component("writer", DocumentWriter(InMemoryDocumentStore(index="rag")))
    indexing.connect("embedder.documents", "writer.documents")
    query.add_component("embedder", VLLMTextEmbedder(**connection))
    query.add_component("retriever", InMemoryEmbeddingRetriever(InMemoryDocumentStore(index="rag"), top_k=1))
    query.add_component("ranker", VLLMRanker(**connection))
    template = [ChatMessage.from_user("{{ question }}: {{ documents[0].content }}")]
    query.add_component("prompt", ChatPromptBuilder(template, required_variables="*"))
    query.add_component("llm", VLLMChatGenerator(**connection))
    query.connect("embedder.embedding", "retriever.query_embedding")
    query.connect("retriever.documents", "ranker.documents")
    query.connect("ranker.documents", "prompt.documents")
    query.connect("prompt.prompt", "llm.messages")
    assert in_fresh_process(RUN, json.dumps([indexing.dumps(), query.dumps()])) == "two: two\n"
    routes = [request.route for request in fault_server.posts()]
    assert routes == ["/v1/embeddings", "/v1/embeddings", "/v1/rerank", "/v1/chat/completions"]


# Addresses


@every_component
def test_default_address_is_that_of_the_place_where_it_runs(make_fault_server, monkeypatch, cls):
    here, there = make_fault_server(), make_fault_server()
    monkeypatch.setenv("VLLM_BASE_URL", here.url)
    component = cls()
    component.warm_up()
    saved = json.loads(json.dumps(component.to_dict()))
    assert saved["init_parameters"]["api_base_url"] is None
    monkeypatch.setenv("VLLM_BASE_URL", there.url)
    for loaded in (component_from_dict(cls, saved, "it"), pickle.loads(pickle.dumps(component))):
        loaded.warm_up()
        assert loaded._client.vllm.address == there.url


@every_component
def test_address_of_a_given_server_is_saved(monkeypatch, cls):
    saved = cls(server=VLLMServer("http://gpu:8000")).to_dict()["init_parameters"]
    assert saved["api_base_url"] == "http://gpu:8000/v1"
    monkeypatch.setenv("VLLM_BASE_URL", "http://here:8000")
    assert cls(server=VLLMServer()).to_dict()["init_parameters"]["api_base_url"] is None


@every_component
def test_limits_of_a_given_server_are_saved(cls):
    server = VLLMServer("http://gpu:8000", timeout=Timeouts(total=9), max_retries=7)
    loaded = component_from_dict(cls, json.loads(json.dumps(cls(server=server).to_dict())), "it")
    loaded.warm_up()
    assert loaded._client.vllm.timeouts == Timeouts(total=9)
    assert loaded._client.max_retries == 7


# Time limits


@pytest.mark.parametrize(
    ("timeout", "saved"),
    [
        (Timeouts(total=5), {"connect": 30.0, "idle": 600.0, "total": 5}),
        (Timeouts(idle=None), {"connect": 30.0, "idle": None, "total": 3600.0}),
        ((1, 2), {"connect": 1, "idle": 2, "total": 3600.0}),
        ({"total": 5}, {"total": 5}),
        (5, 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["timeout", "http_client_kwargs"])
def test_timeouts_are_saved_and_loaded(timeout, saved, place):
    llm = VLLMChatGenerator(**{place: {"timeout": timeout} if place == "http_client_kwargs" else timeout})
    data = component_to_dict(llm, "it")
    found = data["init_parameters"][place]
    assert (found["timeout"] if place == "http_client_kwargs" else found) == saved
    loaded = VLLMChatGenerator.from_dict(json.loads(json.dumps(data)))
    for llm_ in (llm, loaded):
        llm_.warm_up()
    assert loaded._client.vllm.timeouts == llm._client.vllm.timeouts


# Subclasses


@component
class Styled(VLLMChatGenerator):
    def __init__(self, style: str = "brief", **kwargs: Any) -> None:
        super(Styled, self).__init__(**kwargs)  # noqa: UP008  # @component creates the class anew
        self.style = style


@component
class Narrow(VLLMTextEmbedder):
    def __init__(self, *, model: str = "m", suffix: str = "") -> None:
        VLLMTextEmbedder.__init__(self, model=model, suffix=suffix, prefix="query: ")


@component
class Forgetful(VLLMRanker):
    def __init__(self, unit: str = "a", **kwargs: Any) -> None:
        VLLMRanker.__init__(self, **kwargs)


class Counter(VLLMTokenCounter):
    def __init__(self, *, factor: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor


@pytest.mark.parametrize(
    ("subclass", "own"),
    [
        (partial(Styled, "long", model="m", generation_kwargs={"top_k": 3}), {"style": "long"}),
        (partial(Narrow, suffix="!"), {"suffix": "!"}),
        (partial(Forgetful, top_k=2), {"top_k": 2}),
        (partial(Counter, factor=2, model="m"), {"factor": 2}),
    ],
    ids=["own and others", "fewer", "not kept", "counter"],
)
def test_subclass_is_saved_and_loaded(subclass, own):
    cls, component = subclass.func, subclass()
    saved = component_to_dict(component, "it")
    assert saved["type"] == f"{__name__}.{cls.__name__}"
    assert saved["init_parameters"].items() >= own.items()
    loaded = component_from_dict(cls, json.loads(json.dumps(saved)), "it")
    assert component_to_dict(loaded, "it") == saved
    for name in own:
        assert getattr(loaded, name) == getattr(component, name)
    copy.deepcopy(component).to_dict()
    pickle.loads(pickle.dumps(component)).to_dict()


def test_argument_of_a_subclass_that_is_not_known_is_not_lost():
    for ranker in (Forgetful("b"), Forgetful(unit="b")):
        with pytest.raises(SerializationError, match=r"`unit` of Forgetful cannot be saved.* Keep it as self\.unit"):
            ranker.to_dict()


def test_subclass_in_a_pipeline(fault_server):
    pipe = Pipeline()
    pipe.add_component("llm", Styled("long", api_base_url=fault_server.url))
    loaded = Pipeline.loads(pipe.dumps(), allowed_modules=[__name__])
    assert loaded.get_component("llm").style == "long"
    assert loaded.run({"llm": {"messages": "one two"}})["llm"]["replies"][0].text == "one two"


@pytest.mark.parametrize("cls", [*COMPONENTS, VLLMTokenCounter], ids=lambda cls: cls.__name__)
def test_source_and_types_of_the_classes_are_found(cls):
    assert inspect.getsource(cls).lstrip().startswith(("@component\n", f"class {cls.__name__}"))
    typing.get_type_hints(cls)
    assert typing.get_type_hints(cls.__init__)["timeout"] == float | Timeouts | dict[str, float | None] | None
