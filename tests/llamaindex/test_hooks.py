"""Canary: the hooks and helpers of LlamaIndex that this package relies on; it fails first when one changes."""

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

CHANGED = (
    f"llama-index-core {version('llama-index-core')} or llama-index-llms-openai {version('llama-index-llms-openai')} "
    "changed what vllm_adapters.llamaindex overrides or calls: "
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
        (LLM, "stream_structured_predict", PREDICT),
        (LLM, "astream_structured_predict", PREDICT),
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
        (BaseEmbedding, "to_payload", []),
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
def test_hook_signature(owner, name, parameters):
    method = getattr(owner, name, None)
    assert method is not None, f"{CHANGED}{owner.__name__}.{name} is missing"
    found = [parameter for parameter in inspect.signature(method).parameters if parameter != "self"]
    assert found == parameters, f"{CHANGED}{owner.__name__}.{name} has the parameters {found}"


def source(member):
    try:
        return inspect.getsource(inspect.unwrap(member)) if inspect.isfunction(member) else ""
    except (OSError, ValueError):
        return ""


def test_every_method_that_sends_requests_is_overridden():
    methods = ["chat", "achat", "stream_chat", "astream_chat"]
    methods += ["complete", "acomplete", "stream_complete", "astream_complete"]
    for name in methods:
        assert name in vars(VLLM), f"{CHANGED}{name} would bypass the core's client"
    senders = [name for name, member in inspect.getmembers(OpenAI) if "chat.completions.create(" in source(member)]
    assert set(senders) <= {"_chat", "_stream_chat", "_achat", "_astream_chat"}, CHANGED + str(senders)
    callers = [
        name
        for owner in (OpenAI, OpenAILike, FunctionCallingLLM)
        for name, member in vars(owner).items()
        if any(f"self.{private}" in source(member) for private in ("_chat,", "_chat(", "_stream_chat", "_complete"))
    ]
    assert set(callers) <= set(methods), f"{CHANGED}{callers} send requests"


def test_skipped_constructor_sets_nothing_else():
    # VLLM calls FunctionCallingLLM's constructor: OpenAI's reads OPENAI_* and changes settings by OpenAI's model names.
    private = {"_client", "_aclient", "_http_client", "_async_http_client"}
    assert set(OpenAI.__private_attributes__) == private, CHANGED + str(set(OpenAI.__private_attributes__))
    assert "__init__" not in vars(OpenAILike), CHANGED + "OpenAILike.__init__"
    named = set(inspect.signature(OpenAI.__init__).parameters) - {"self", "kwargs"}
    clients = {"http_client", "async_http_client", "openai_client", "async_openai_client"}
    assert named - clients <= set(VLLM.model_fields), CHANGED + "OpenAI.__init__"


def test_fields_of_openai_that_vllm_reads():
    read = {"additional_kwargs", "logprobs", "top_logprobs", "audio_config", "tokenizer", "pydantic_program_mode"}
    read |= {"system_prompt", "messages_to_prompt", "completion_to_prompt", "callback_manager", "rate_limiter"}
    assert read <= set(OpenAILike.model_fields), CHANGED + str(read - set(OpenAILike.model_fields))


def test_skipped_structured_methods_only_choose_a_way():
    # VLLM skips OpenAI's overrides, which add a tool choice, and calls LLM's for LlamaIndex's own programs.
    for name in ("structured_predict", "astructured_predict", "_structured_stream_call", "_structured_astream_call"):
        assert name in vars(VLLM)
        assert name in vars(OpenAI), f"{CHANGED}OpenAI.{name} is missing"
        assert name in vars(LLM), f"{CHANGED}LLM.{name} is missing"
    for name, hook in (
        ("stream_structured_predict", "self._structured_stream_call("),
        ("astream_structured_predict", "self._structured_astream_call("),
    ):
        assert hook in source(vars(LLM)[name]), f"{CHANGED}LLM.{name} does not call {hook}"


def test_pickles_are_loaded_by_the_constructor():
    loading = source(BaseComponent.__setstate__)
    assert 'self.__init__(**state["__dict__"])' in loading, CHANGED + "BaseComponent.__setstate__"


def test_callbacks_use_the_payload_and_not_the_metadata():
    for decorator in (llm_chat_callback, llm_completion_callback):
        text = source(decorator)
        assert ".to_payload()" in text, CHANGED + decorator.__name__
        assert ".metadata" not in text, f"{CHANGED}{decorator.__name__} reads metadata, which may send a request"


@pytest.mark.parametrize("kind", [VLLM, VLLMEmbedding, VLLMRerank])
def test_fields_shared_with_the_framework(kind):
    intended = {
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
    own = [base for base in kind.__mro__ if issubclass(base, BaseModel) and base.__module__.startswith("vllm_adapters")]
    declared = {name for base in own for name in base.__annotations__}
    assert declared & set(frameworks[kind].model_fields) == intended[kind], CHANGED + "fields of the same names"


def test_flexible_models_have_optional_fields():
    class Word(BaseModel):
        """A word."""

        text: str

    assert create_flexible_model(Word)().text is None
