"""A canary: the places of LlamaIndex that this room stands on. When one moves, this says so first."""

import inspect
from importlib.metadata import version

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.llms import LLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.program.utils import create_flexible_model
from llama_index.core.schema import BaseComponent
from llama_index.llms.openai import OpenAI
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank

MOVED = (
    f"llama-index-core {version('llama-index-core')} or llama-index-llms-openai {version('llama-index-llms-openai')} "
    "moved what vllm_adapters.llamaindex overrides or calls: "
)
PREDICT = ["output_cls", "prompt", "llm_kwargs", "prompt_args"]


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (OpenAI, "_get_client", []),
        (OpenAI, "_get_aclient", []),
        (OpenAI, "_update_max_tokens", ["all_kwargs", "prompt"]),
        (
            OpenAI,
            "_prepare_chat_with_tools",
            [
                "tools",
                "user_msg",
                "chat_history",
                "verbose",
                "allow_parallel_tool_calls",
                "tool_required",
                "tool_choice",
                "strict",
                "kwargs",
            ],
        ),
        (OpenAI, "get_tool_calls_from_response", ["response", "error_on_no_tool_call", "kwargs"]),
        (LLM, "structured_predict", PREDICT),
        (LLM, "astructured_predict", PREDICT),
        (LLM, "_structured_stream_call", PREDICT),
        (LLM, "_structured_astream_call", PREDICT),
        (LLM, "_extend_messages", ["messages"]),
        (BaseLLM, "to_payload", []),
        (OpenAILike, "chat", ["messages", "kwargs"]),
        (OpenAILike, "achat", ["messages", "kwargs"]),
        (OpenAILike, "stream_chat", ["messages", "kwargs"]),
        (OpenAILike, "astream_chat", ["messages", "kwargs"]),
        (OpenAILike, "complete", ["prompt", "formatted", "kwargs"]),
        (OpenAILike, "acomplete", ["prompt", "formatted", "kwargs"]),
        (OpenAILike, "stream_complete", ["prompt", "formatted", "kwargs"]),
        (OpenAILike, "astream_complete", ["prompt", "formatted", "kwargs"]),
        (BaseComponent, "__getstate__", []),
        (BaseEmbedding, "_get_query_embedding", ["query"]),
        (BaseEmbedding, "_aget_query_embedding", ["query"]),
        (BaseEmbedding, "_get_text_embedding", ["text"]),
        (BaseEmbedding, "_aget_text_embedding", ["text"]),
        (BaseEmbedding, "_get_text_embeddings", ["texts"]),
        (BaseEmbedding, "_aget_text_embeddings", ["texts"]),
        (BaseEmbedding, "get_text_embedding_batch", ["texts", "show_progress", "kwargs"]),
        (BaseEmbedding, "aget_text_embedding_batch", ["texts", "show_progress", "kwargs"]),
        (BaseNodePostprocessor, "_postprocess_nodes", ["nodes", "query_bundle"]),
        (BaseNodePostprocessor, "_apostprocess_nodes", ["nodes", "query_bundle"]),
    ],
)
def test_hooks(owner, name, parameters):
    method = getattr(owner, name, None)
    assert method is not None, f"{MOVED}{owner.__name__}.{name} is gone"
    found = [parameter for parameter in inspect.signature(method).parameters if parameter != "self"]
    assert found == parameters, f"{MOVED}{owner.__name__}.{name} takes {found}"


def test_no_public_way_to_ask_is_left_to_the_base_class():
    ways = ["chat", "achat", "stream_chat", "astream_chat"]
    ways += ["complete", "acomplete", "stream_complete", "astream_complete"]
    for name in ways:
        assert name in vars(VLLM), f"{MOVED}{name} would go past the core's client"
    asks = [name for name, member in inspect.getmembers(OpenAI) if "chat.completions.create(" in _source(member)]
    assert set(asks) <= {"_chat", "_stream_chat", "_achat", "_astream_chat"}, MOVED + str(asks)
    callers = [
        name
        for owner in (OpenAI, OpenAILike, FunctionCallingLLM)
        for name, member in vars(owner).items()
        if any(f"self.{private}" in _source(member) for private in ("_chat,", "_chat(", "_stream_chat", "_complete"))
    ]
    assert set(callers) <= set(ways), f"{MOVED}{callers} ask by themselves"


def _source(member):
    try:
        return inspect.getsource(inspect.unwrap(member)) if inspect.isfunction(member) else ""
    except (OSError, ValueError):
        return ""


def test_the_constructor_that_is_skipped_sets_nothing_else():
    # VLLM calls FunctionCallingLLM's constructor: OpenAI's own fills in from OPENAI_* and by OpenAI's model names.
    private = {"_client", "_aclient", "_http_client", "_async_http_client"}
    assert set(OpenAI.__private_attributes__) == private, MOVED + str(set(OpenAI.__private_attributes__))
    assert "__init__" not in vars(OpenAILike), MOVED + "OpenAILike.__init__"
    named = set(inspect.signature(OpenAI.__init__).parameters) - {"self", "kwargs"}
    clients = {"http_client", "async_http_client", "openai_client", "async_openai_client"}
    assert named - clients <= set(VLLM.model_fields), MOVED + "OpenAI.__init__"


@pytest.mark.parametrize("cls", [VLLM, VLLMEmbedding, VLLMRerank])
def test_fields_are_not_taken_from_the_framework_by_accident(cls):
    meant = {
        VLLM: {
            "model",
            "temperature",
            "max_tokens",
            "timeout",
            "max_retries",
            "default_headers",
            "api_key",
            "api_base",
            "strict",
            "reasoning_effort",
            "modalities",
            "context_window",
            "is_chat_model",
            "is_function_calling_model",
            "should_use_structured_outputs",
        },
        VLLMEmbedding: {"model_name", "embed_batch_size", "num_workers"},
        VLLMRerank: set(),
    }
    frameworks = {VLLM: OpenAILike, VLLMEmbedding: BaseEmbedding, VLLMRerank: BaseNodePostprocessor}
    own = [base for base in cls.__mro__ if issubclass(base, BaseModel) and base.__module__.startswith("vllm_adapters")]
    declared = {name for base in own for name in base.__annotations__}
    assert declared & set(frameworks[cls].model_fields) == meant[cls], MOVED + "fields of the same names"


def test_decorators_and_helpers():
    assert callable(llm_chat_callback())
    assert callable(llm_completion_callback())
    flexible = create_flexible_model(VLLMFlexible)
    assert flexible().word is None


class VLLMFlexible(BaseModel):
    """A class to make flexible."""

    word: str
