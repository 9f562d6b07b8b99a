"""Identity and metadata of ``VLLM``: base classes, model, context length, LoRA adapters."""

import asyncio
import time

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import LLMMetadata
from llama_index.core.memory import ChatMemoryBuffer
from pydantic import BaseModel

from vllm_adapters import VLLMServer
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank
from vllm_adapters.testing import faults, payloads

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


def test_tokenizer_sets_max_tokens_of_completions(fault_server):
    class Words:
        def encode(self, text):
            return text.split()

    llm = VLLM(base_url=fault_server.url, is_chat_model=False, tokenizer=Words())
    llm.complete("one two")
    llm.complete("one two", max_tokens=3)
    assert [request.json["max_tokens"] for request in fault_server.posts(TEXT)] == [4094, 3]
    assert VLLM.from_dict(llm.to_dict()).tokenizer is None


# Context length where the server does not tell it

MODELS = "/v1/models"
GATEWAYS = {
    "missing": faults.error(404),
    "forbidden": faults.error(403),
    "unauthorized": faults.error(401),
    "broken": faults.error(500),
    "loading": faults.error(503),
    "html": faults.html(),
    "of another shape": faults.json_reply({"models": ["stub"]}),
    "of odd cards": faults.json_reply({"data": ["stub", None]}),
    "of other names": faults.json_reply(payloads.models("other")),
    "without length": faults.json_reply({"data": [{"id": "stub"}]}),
}


@pytest.fixture(params=GATEWAYS)
def gateway(make_fault_server, request):
    server = make_fault_server()
    server.reply(GATEWAYS[request.param], MODELS)
    return server


def test_context_window_behind_a_gateway_is_the_default(gateway, caplog):
    # Otherwise: agents and query engines fail, although chat works.
    llm = VLLM("stub", base_url=gateway.url, max_retries=0)
    assert llm.metadata.context_window == 3900
    assert "Pass context_window=" in caplog.text
    assert llm.metadata.model_dump()["context_window"] == 3900
    assert VLLM("stub", base_url=gateway.url, max_retries=0).metadata.model_dump()["context_window"] == 3900
    assert llm.complete("hi").text == "hi"
    assert llm.model_copy(update={"context_window": 100}).metadata.context_window == 100


async def test_agent_behind_a_gateway(gateway):
    llm = VLLM("stub", base_url=gateway.url, max_retries=0)
    assert str(await FunctionAgent(tools=[], llm=llm).run("hi")) == "hi"


def test_context_window_is_looked_up_again_when_the_server_was_not_ready(make_fault_server):
    server = make_fault_server()
    llm = VLLM("stub", base_url=server.url, max_retries=0)
    server.script(MODELS, [faults.error(503)])
    assert [llm.metadata.context_window for _ in range(2)] == [3900, 4096]


async def test_first_run_of_an_agent_does_not_block_the_event_loop(make_fault_server, caplog):
    # Otherwise: a request of the sync client, in a coroutine.
    server = make_fault_server()
    server.reply(faults.slow(1.0, faults.json_reply(payloads.models("stub"))), MODELS)
    llm = VLLM("stub", base_url=server.url)
    gaps = []

    async def tick():
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    ticking = asyncio.create_task(tick())
    assert str(await FunctionAgent(tools=[], llm=llm).run("hi")) == "hi"
    assert "Pass context_window=" in caplog.text
    await asyncio.sleep(1.2)
    assert llm.metadata.context_window == 4096
    ticking.cancel()
    assert max(gaps) < 0.6
    assert len([request for request in server.requests if request.route == MODELS]) == 1


async def test_agent_on_a_prompt_server_knows_the_context_length(fault_server):
    llm = VLLM("stub", base_url=fault_server.url)
    assert ChatMemoryBuffer.from_defaults(llm=llm).token_limit == int(4096 * 0.75)


def test_dump_of_the_metadata_is_complete(fault_server):
    metadata = VLLM("stub", base_url=fault_server.url).metadata
    assert metadata.model_dump()["context_window"] == 4096
    assert LLMMetadata(**metadata.model_dump()).context_window == 4096
    assert '"context_window":4096' in metadata.model_dump_json()


def test_completions_have_no_function_calls():
    # Otherwise: LlamaIndex sends tools to an endpoint that has none.
    llm = VLLM(is_chat_model=False)
    assert llm.metadata.is_function_calling_model is llm.to_payload()["is_function_calling_model"] is False
    assert VLLM().metadata.is_function_calling_model
