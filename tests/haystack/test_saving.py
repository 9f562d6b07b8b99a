"""Components as dicts and pipelines as YAML: basic types, nothing lost, loaded where nothing was set up."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("haystack")

from haystack import Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.generators.utils import print_streaming_chunk
from haystack.core.errors import DeserializationError, SerializationError
from haystack.core.serialization import component_from_dict, component_to_dict
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret
from pydantic import BaseModel

import haystack_integrations.components.vllm_adapters as namespace
from vllm_adapters import haystack as room
from vllm_adapters.haystack import (
    VLLMChatGenerator,
    VLLMDocumentEmbedder,
    VLLMRanker,
    VLLMTextEmbedder,
    VLLMTokenCounter,
)

COMPONENTS = [VLLMChatGenerator, VLLMTextEmbedder, VLLMDocumentEmbedder, VLLMRanker]
SHARED = {"model", "api_key", "api_base_url", "http_client_kwargs"}
CALLS = {"timeout", "max_retries"}
EMBEDS = SHARED | CALLS | {"prefix", "suffix", "dimensions", "extra_parameters"}
SAVED = {
    # What vllm-haystack saves, so that its pipelines move over and back.
    VLLMChatGenerator: SHARED | CALLS | {"streaming_callback", "generation_kwargs", "tools"},
    VLLMTextEmbedder: EMBEDS,
    VLLMDocumentEmbedder: EMBEDS
    | {"batch_size", "progress_bar", "meta_fields_to_embed", "embedding_separator", "raise_on_failure"},
    VLLMRanker: SHARED
    | {"top_k", "score_threshold", "meta_fields_to_embed", "meta_data_separator", "extra_parameters"},
}


class City(BaseModel):
    """A city."""

    city: str


TOOL = Tool(name="show", description="Shows.", parameters={"type": "object", "properties": {}}, function=print)


def full(cls):
    """A component with everything set."""
    shared = {
        "model": "m",
        "api_key": Secret.from_env_var("MY_KEY"),
        "api_base_url": "http://gpu:8000",
        "timeout": {"connect": 1, "idle": None, "total": 9},
        "max_retries": 5,
        "http_client_kwargs": {"verify": False, "limits": {"max_connections": 3}},
        "server_version": "0.11.0",
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
        )
    if cls is VLLMRanker:
        affixes = {"query_prefix": "<", "query_suffix": ">", "document_prefix": "[", "document_suffix": "]"}
        return cls(**shared, **affixes, top_k=2, score_threshold=0.5, extra_parameters={"instruction": "find"})
    many = {"max_concurrency": 3, "batch_size": 3, "raise_on_failure": True} if cls is VLLMDocumentEmbedder else {}
    return cls(**shared, **many, prefix="<", dimensions=4, extra_parameters={"truncate_prompt_tokens": -1})


@pytest.mark.parametrize("cls", COMPONENTS)
def test_what_is_not_set_is_not_saved(cls, monkeypatch):
    monkeypatch.delenv("VLLM_BASE_URL", raising=False)
    saved = component_to_dict(cls(model="m"), "it")
    assert saved["type"] == f"haystack_integrations.components.vllm_adapters.{cls.__name__}"
    assert saved["init_parameters"].keys() == SAVED[cls]
    assert saved["init_parameters"]["api_base_url"] == "http://localhost:8000/v1"
    assert saved["init_parameters"]["api_key"] == {"type": "env_var", "env_vars": ["VLLM_API_KEY"], "strict": False}


@pytest.mark.parametrize("cls", COMPONENTS)
def test_there_and_back(cls):
    component = full(cls)
    saved = component_to_dict(component, "it")
    loaded = component_from_dict(cls, json.loads(json.dumps(saved)), "it")
    assert component_to_dict(loaded, "it") == saved
    for name in saved["init_parameters"]:
        if name not in ("generation_kwargs", "tools"):
            assert getattr(loaded, name) == getattr(component, name), name
    missing = set(saved["init_parameters"]) ^ set(cls.__init__.__annotations__)
    assert missing <= {"server", "return"}


def test_a_pydantic_class_is_saved_as_its_schema():
    # vllm-haystack raises SerializationError.
    saved = component_to_dict(full(VLLMChatGenerator), "it")["init_parameters"]["generation_kwargs"]
    schema = City.model_json_schema()
    assert saved["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "City", "schema": schema, "strict": True},
    }
    assert saved["structured_outputs"] == saved["extra_body"]["structured_outputs"] == {"json": schema}


def test_the_counter_there_and_back():
    counter = VLLMTokenCounter(model="m", extra_parameters={"add_generation_prompt": False})
    saved = counter.to_dict()
    assert saved["type"] == "haystack_integrations.components.vllm_adapters.VLLMTokenCounter"
    assert VLLMTokenCounter.from_dict(json.loads(json.dumps(saved))).to_dict() == saved


@pytest.mark.parametrize("cls", COMPONENTS)
def test_what_cannot_be_saved_or_loaded(cls):
    with pytest.raises(ValueError, match="token-based secret"):
        cls(api_key=Secret.from_token("sk-canary")).to_dict()
    pipe = Pipeline()
    pipe.add_component("it", cls())
    with pytest.raises(DeserializationError, match="typo"):
        Pipeline.loads(pipe.dumps().replace("api_base_url", "typo"))


def test_a_lambda_cannot_be_saved():
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


def test_yaml_there_and_back():
    text = pipeline().dumps()
    assert Pipeline.loads(text).dumps() == text


LOAD = """
import sys
from haystack import Pipeline
pipe = Pipeline.loads(sys.stdin.read())
print(type(pipe.get_component("llm")).__name__, pipe.get_component("llm").generation_kwargs["top_k"])
"""


def test_yaml_loads_in_a_fresh_process_with_nothing_set_up():
    asked = [sys.executable, "-c", LOAD]
    done = subprocess.run(asked, input=pipeline().dumps(), capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "VLLMChatGenerator 3\n"), done.stderr


def test_a_pipeline_of_vllm_haystack_moves_over():
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


def test_both_names_are_the_same():
    assert set(room.__all__) == set(namespace.__all__)
    for name in room.__all__:
        assert getattr(room, name) is getattr(namespace, name)
