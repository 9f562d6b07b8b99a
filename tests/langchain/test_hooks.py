"""A canary: the places of langchain-core and langchain-openai that the package relies on."""

import inspect
import re
from importlib.metadata import version
from types import SimpleNamespace

import pytest
from langchain_core.documents import BaseDocumentCompressor
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel, BaseLLM, _compat_bridge
from langchain_core.language_models.base import BaseLanguageModel
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import RunnableBinding
from langchain_core.utils.utils import LC_ID_PREFIX
from langchain_openai.chat_models.base import BaseChatOpenAI
from langchain_openai.llms.base import BaseOpenAI
from pydantic import BaseModel

from vllm_adapters import params
from vllm_adapters.langchain import VLLM, ChatVLLM, VLLMEmbeddings, VLLMRerank
from vllm_adapters.langchain._binding import BoundChatVLLM, BoundModel
from vllm_adapters.langchain._connection import ServerConnection
from vllm_adapters.langchain._messages import invalid_end
from vllm_adapters.types import ToolCall

MOVED = (
    f"langchain-core {version('langchain-core')} or langchain-openai {version('langchain-openai')} "
    "moved what vllm_adapters.langchain overrides or calls: "
)
GENERATE = ["messages", "stop", "run_manager", "kwargs"]
STREAM = ["messages", "stop", "run_manager", "stream_usage", "kwargs"]
PARAMS = ["stop", "kwargs"]


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (BaseChatOpenAI, "_generate", GENERATE),
        (BaseChatOpenAI, "_agenerate", GENERATE),
        (BaseChatOpenAI, "_stream", STREAM),
        (BaseChatOpenAI, "_astream", STREAM),
        (BaseChatOpenAI, "_get_request_payload", ["input_", "stop", "kwargs"]),
        (BaseChatOpenAI, "_create_chat_result", ["response", "generation_info"]),
        (
            BaseChatOpenAI,
            "_convert_chunk_to_generation_chunk",
            ["chunk", "default_chunk_class", "base_generation_info"],
        ),
        (BaseChatOpenAI, "_combine_llm_outputs", ["llm_outputs"]),
        (BaseChatOpenAI, "_get_ls_params", PARAMS),
        (BaseChatOpenAI, "_get_invocation_params", PARAMS),
        (BaseChatOpenAI, "_use_responses_api", ["payload"]),
        (BaseChatOpenAI, "_resolve_model_profile", []),
        (BaseChatOpenAI, "get_token_ids", ["text"]),
        (BaseChatOpenAI, "get_num_tokens_from_messages", ["messages", "tools", "allow_fetching_images"]),
        (
            BaseChatOpenAI,
            "bind_tools",
            ["tools", "tool_choice", "strict", "parallel_tool_calls", "response_format", "kwargs"],
        ),
        (BaseChatOpenAI, "with_structured_output", ["schema", "method", "include_raw", "strict", "tools", "kwargs"]),
        (BaseChatModel, "_convert_input", ["model_input"]),
        (BaseChatModel, "_generate_with_cache", ["messages", "stop", "run_manager", "kwargs"]),
        (BaseChatModel, "_agenerate_with_cache", ["messages", "stop", "run_manager", "kwargs"]),
        (BaseChatModel, "_get_llm_string", ["stop", "kwargs"]),
        (BaseChatModel, "_chat_model_stream_v3", ["input", "config", "stop", "kwargs"]),
        (BaseChatModel, "_achat_model_stream_v3", ["input", "config", "stop", "kwargs"]),
        (BaseLanguageModel, "_add_version", ["pkg", "version"]),
        (BaseLanguageModel, "model_post_init", ["_context"]),
        (BaseOpenAI, "_generate", ["prompts", "stop", "run_manager", "kwargs"]),
        (BaseOpenAI, "_agenerate", ["prompts", "stop", "run_manager", "kwargs"]),
        (BaseOpenAI, "_stream", ["prompt", "stop", "run_manager", "kwargs"]),
        (BaseOpenAI, "_astream", ["prompt", "stop", "run_manager", "kwargs"]),
        (Embeddings, "embed_documents", ["texts"]),
        (Embeddings, "aembed_query", ["text"]),
        (BaseDocumentCompressor, "compress_documents", ["documents", "query", "callbacks"]),
        (BaseDocumentCompressor, "acompress_documents", ["documents", "query", "callbacks"]),
    ],
    ids=lambda value: getattr(value, "__name__", value) if not isinstance(value, list) else "",
)
def test_methods_take_the_same_parameters(owner, name, parameters):
    method = getattr(owner, name, None)
    assert method is not None, f"{MOVED}{owner.__name__}.{name} is gone"
    found = [parameter for parameter in inspect.signature(method).parameters if parameter != "self"]
    assert found == parameters, f"{MOVED}{owner.__name__}.{name} takes {found}"


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (BaseChatOpenAI, "_default_params"),
        (BaseChatOpenAI, "_llm_type"),
        (BaseOpenAI, "_default_params"),
        (BaseOpenAI, "_identifying_params"),
        (BaseOpenAI, "_llm_type"),
    ],
)
def test_properties_are_properties(owner, name):
    assert isinstance(inspect.getattr_static(owner, name), property), f"{MOVED}{owner.__name__}.{name}"


@pytest.mark.parametrize(
    ("base", "cls", "replaced", "kept"),
    [
        (
            BaseChatOpenAI,
            ChatVLLM,
            {"build_extra", "validate_temperature", "validate_environment"},
            {"_set_openai_chat_version", "_infer_use_responses_api"},
        ),
        (BaseOpenAI, VLLM, {"build_extra", "validate_environment"}, {"_set_openai_version"}),
    ],
    ids=["ChatVLLM", "VLLM"],
)
def test_validators_are_replaced_by_name(base, cls, replaced, kept):
    theirs = set(vars(base)["__pydantic_decorators__"].model_validators)
    assert replaced <= theirs, f"{MOVED}{replaced - theirs} would run beside ours"
    inherited = {name for name in theirs if base.__dict__.get(name) is not None}
    new = inherited - replaced - kept
    assert not new, f"{MOVED}{base.__name__} has the new validators {new}"
    ours = cls.__pydantic_decorators__.model_validators
    for name in replaced:
        assert ours[name].cls_ref.startswith(f"{cls.__module__}.{cls.__name__}"), f"{MOVED}{name}"


def source(function):
    """The code of a function, without its line breaks."""
    return re.sub(r"\s+", "", inspect.getsource(inspect.unwrap(function)))


def test_requests_go_through_the_clients_that_we_set():
    for name, client in (("_generate", "self.client"), ("_agenerate", "self.async_client")):
        text = source(getattr(BaseChatOpenAI, name))
        assert f"{client}.with_raw_response.create(**payload)" in text, f"{MOVED}{name}"
        assert 'if"response_format"inpayload:' in text, f"{MOVED}{name} needs no detour of response_format"
    for name, client in (("_stream", "self.client"), ("_astream", "self.async_client")):
        assert f"{client}.create(**payload)" in source(getattr(BaseChatOpenAI, name)), f"{MOVED}{name}"
    payload = source(BaseChatOpenAI._get_request_payload)
    assert "payload={**self._default_params,**kwargs}" in payload, f"{MOVED}_get_request_payload"
    ways = {
        name
        for name, member in inspect.getmembers(BaseChatOpenAI, inspect.isfunction)
        if "client.chat.completions" in source(member) or "client.create(" in source(member)
    }
    assert ways <= {"_generate", "_agenerate", "_stream", "_astream", "validate_environment"}, MOVED + str(ways)


def test_responses_api_is_off_by_its_setting():
    assert source(BaseChatOpenAI._use_responses_api).count("returnself.use_responses_api") == 1
    assert BaseChatOpenAI._use_responses_api(SimpleNamespace(use_responses_api=False), {"input": []}) is False, MOVED


def test_events_hook_of_stream_events():
    for name in ("_iter_v2_events", "_aiter_v2_events"):
        text = source(getattr(BaseChatModel, name))
        hook = "_stream_chat_model_events" if name == "_iter_v2_events" else "_astream_chat_model_events"
        assert f'getattr(self,"{hook}",None)' in text, f"{MOVED}{hook}"
        assert "messages,stop=stop,run_manager=run_manager,**kwargs" in text, f"{MOVED}{hook}"
    for name in ("chunks_to_events", "achunks_to_events"):
        events = inspect.signature(getattr(_compat_bridge, name)).parameters
        assert [*events][:2] == ["chunks", "message_id"], f"{MOVED}{name}"
    # These end a reply: its metadata and its tool calls are corrected there.
    text = source(_compat_bridge)
    assert 'event="content-block-finish"' in text, MOVED + "content-block-finish"
    assert '"event":"message-finish"' in text, MOVED + "message-finish"
    assert LC_ID_PREFIX == "lc_run-", MOVED + "LC_ID_PREFIX"


@pytest.mark.parametrize("arguments", ['{"a": 1', '{"a": "b', '{"a": ["b', '{"a": 1}', ""])
def test_bracket_that_closes_nothing_makes_arguments_invalid(arguments):
    end = invalid_end(ToolCall(0, "id", "add", arguments, None, "Truncated"))
    chunks = [
        {"name": "add", "args": arguments, "id": "1", "index": 0},
        {"name": "", "args": end, "index": 0, "id": ""},
    ]
    message = sum(
        (AIMessageChunk(content="", tool_call_chunks=[chunk]) for chunk in chunks), AIMessageChunk(content="")
    )
    assert not message.tool_calls, MOVED + "AIMessageChunk.init_tool_calls"
    assert message.invalid_tool_calls[0]["args"] == arguments + end, MOVED + "AIMessageChunk.__add__"


def test_binding_covers_every_method_that_takes_parameters():
    """A method of LangChain's binding that merges bound and call parameters must merge dicts deeply."""
    merging = {
        name
        for name, member in inspect.getmembers(RunnableBinding, inspect.isfunction)
        if "{**self.kwargs,**kwargs}" in source(member)
    }
    assert merging <= set(vars(BoundModel)), MOVED + str(merging - set(vars(BoundModel)))
    assert BoundChatVLLM.lc_id() == [*RunnableBinding.get_lc_namespace(), "RunnableBinding"], MOVED + "lc_id"


def own_classes(cls):
    return [base for base in cls.__mro__ if base.__module__.startswith("vllm_adapters")]


@pytest.mark.parametrize(
    ("cls", "parameters", "base"),
    [
        (ChatVLLM, params.ChatParams, BaseChatOpenAI),
        (VLLM, params.CompletionParams, BaseOpenAI),
        (VLLMEmbeddings, params.TextEmbeddingParams, Embeddings),
        (VLLMRerank, params.RerankParams, BaseDocumentCompressor),
    ],
)
def test_classes_are_the_class_its_parameters_and_one_connection(cls, parameters, base):
    assert cls.__bases__ == (parameters, ServerConnection, base)
    parameter_models = [model for model in parameters.__mro__ if model.__module__ == params.__name__]
    assert own_classes(cls) == [cls, *parameter_models, ServerConnection]


@pytest.mark.parametrize(
    ("cls", "base", "meant"),
    [
        (
            ChatVLLM,
            BaseChatOpenAI,
            {
                "model_name",
                "openai_api_base",
                "openai_api_key",
                "openai_organization",
                "openai_proxy",
                "request_timeout",
                "max_retries",
                "default_headers",
                "default_query",
                "http_client",
                "http_async_client",
                "use_responses_api",
                "stream_usage",
                "stream_chunk_timeout",
            },
        ),
        (
            VLLM,
            BaseOpenAI,
            {
                "model_name",
                "openai_api_base",
                "openai_api_key",
                "openai_organization",
                "openai_proxy",
                "request_timeout",
                "max_retries",
                "default_headers",
                "default_query",
                "http_client",
                "http_async_client",
                "temperature",
                "max_tokens",
                "top_p",
                "frequency_penalty",
                "presence_penalty",
                "batch_size",
            },
        ),
        (VLLMRerank, BaseDocumentCompressor, set()),
    ],
    ids=["ChatVLLM", "VLLM", "VLLMRerank"],
)
def test_no_field_of_langchain_is_overridden_by_accident(cls, base, meant):
    declared = {name for own in own_classes(cls) if issubclass(own, BaseModel) for name in own.__annotations__}
    assert declared & set(base.model_fields) == meant, f"{MOVED}fields of the same names"


def test_cache_key_of_completions_is_made_of_the_identifying_params():
    assert "self._identifying_params" in source(BaseLLM.asdict), MOVED + "BaseLLM.asdict"
    assert "self._dict_for_compat()" in source(BaseLLM.generate), MOVED + "BaseLLM.generate"
