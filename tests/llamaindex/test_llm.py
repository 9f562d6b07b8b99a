"""Identity and metadata of ``VLLM``: base classes, model, context length, LoRA adapters."""

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from pydantic import BaseModel

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank
from vllm_adapters.testing import payloads

recorded = pytest.mark.vllm("tiny")

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SHARED = ["RequestParams", "TemplateParams", "MultiModalParams", "TokenizerParams"]


@pytest.mark.parametrize(
    ("kind", "parameter_models"),
    [
        (VLLM, ["LLMParams", "ChatParams", "SamplingParams", *SHARED]),
        (VLLMEmbedding, ["EmbeddingParams", "VectorParams", "TextEmbeddingParams", "PoolerParams", *SHARED]),
        (VLLMRerank, ["RerankParams", "ScoreParams", "ScoringParams", "PoolerParams", "RequestParams", SHARED[2]]),
    ],
)
def test_own_base_classes_are_parameter_models_and_one_connection(kind, parameter_models):
    own = [base.__name__ for base in kind.__mro__ if base.__module__.startswith("vllm_adapters")]
    assert own[0] == kind.__name__
    assert own[-1] == "Connection"
    assert sorted(own[1:-1]) == sorted(parameter_models)
    assert all(issubclass(base, BaseModel) for base in kind.__mro__ if base.__module__.startswith("vllm_adapters"))


@recorded
def test_context_window_is_looked_up_once(llm, sent):
    # Stock: 3900.
    metadata = llm.metadata
    assert metadata.is_chat_model
    assert metadata.is_function_calling_model
    llm.to_payload()
    assert not sent
    assert metadata.context_window == llm.metadata.context_window == 2048
    assert len(sent) == 1
    assert llm.to_payload()["context_window"] == 2048
    assert VLLM(context_window=100).metadata.context_window == 100


@recorded
def test_from_server(vllm_url, sent):
    for server in (vllm_url, VLLMServer(vllm_url), None):
        llm = VLLM.from_server(server, temperature=0)
        assert (llm.model, llm.context_window, llm.temperature) == ("tiny", 2048, 0)
    before = len(sent)
    assert llm.metadata.model_name == "tiny"
    assert VLLM.from_dict(llm.to_dict()).metadata.context_window == 2048
    assert len(sent) == before


class TestLoRA:
    """An adapter is a model name of its own, with its base model's context length."""

    pytestmark = pytest.mark.vllm("tiny", lora=True)

    def test_lora_adapter_by_name(self, sent):
        base, adapter = VLLM.from_server(max_tokens=4), VLLM("tiny-lora", temperature=0, max_tokens=4)
        assert (base.model, adapter.metadata.context_window) == ("tiny", 2048)
        assert adapter.complete("Hello").raw["model"] == "tiny-lora"
        assert base.complete("Hello", model="tiny-lora").raw["model"] == "tiny-lora"
        assert base.model_copy(update={"model": "tiny-lora"}).complete("Hello").raw["model"] == "tiny-lora"
        assert [body["model"] for body in sent.bodies(CHAT)] == ["tiny-lora"] * 3


def test_context_window_of_an_adapter_is_its_base_models(make_fault_server):
    cards = [*payloads.models("base")["data"], {"id": "lora", "object": "model", "parent": "base", "root": "/x"}]
    server = make_fault_server(models=cards)
    llm = VLLM("lora", base_url=server.url)
    assert llm.metadata.context_window == 4096
    llm.complete("hi")
    assert server.posts(CHAT)[0].json["model"] == "lora"
    other = llm.model_copy(update={"model": "base"})
    other.complete("hi")
    assert server.posts(CHAT)[1].json["model"] == "base"


def test_base_of_an_adapter_may_be_named_by_its_root(make_fault_server):
    base = {"id": "alias", "object": "model", "parent": None, "root": "org/base", "max_model_len": 8192}
    lora = {"id": "lora", "object": "model", "parent": "org/base", "root": "/x", "max_model_len": None}
    server = make_fault_server(models=(base, lora))
    llm = VLLM("lora", base_url=server.url)
    assert llm.metadata.context_window == 8192
    with pytest.raises(e.ModelNotServed, match="alias, lora"):
        llm.model_copy(update={"model": "other"}).metadata.context_window  # noqa: B018


def test_tokenizer_sets_max_tokens_of_completions(fault_server):
    class Words:
        def encode(self, text):
            return text.split()

    llm = VLLM(base_url=fault_server.url, is_chat_model=False, tokenizer=Words())
    llm.complete("one two")
    llm.complete("one two", max_tokens=3)
    assert [request.json["max_tokens"] for request in fault_server.posts(TEXT)] == [4094, 3]
    assert VLLM.from_dict(llm.to_dict()).tokenizer is None
