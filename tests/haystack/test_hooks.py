"""A canary: the parts of haystack-ai that this package relies on. When one moves, this fails first.

No private function of Haystack is imported; what is pinned here is behaviour that its documentation does not promise.
"""

import ast
import copy
import dataclasses
import inspect
import warnings
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from haystack import Document, Pipeline, component, default_from_dict, default_to_dict
from haystack.core.component.component import ComponentMeta
from haystack.core.errors import DeserializationError
from haystack.dataclasses import (
    ChatMessage,
    ComponentInfo,
    FileContent,
    ImageContent,
    ReasoningContent,
    StreamingChunk,
    TextContent,
    ToolCall,
    ToolCallDelta,
    select_streaming_callback,
)
from haystack.hooks.compaction import CompactionHook
from haystack.token_counters.types import TokenCounter
from haystack.tools import (
    Tool,
    Toolset,
    deserialize_tools_or_toolset_inplace,
    flatten_tools_or_toolsets,
    serialize_tools_or_toolset,
    warm_up_tools,
    warm_up_tools_async,
)
from haystack.utils import Secret
from haystack.utils.auth import TokenSecret

import vllm_adapters.haystack
from vllm_adapters.haystack import VLLMChatGenerator, VLLMTokenCounter

MOVED = f"haystack-ai {version('haystack-ai')} moved what vllm_adapters.haystack relies on: "
PACKAGE = Path(vllm_adapters.haystack.__file__).parent


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def test_nothing_private_is_imported():
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "haystack":
                for alias in node.names:
                    names = [*node.module.split("."), alias.name]
                    assert not any(name.startswith("_") for name in names), f"{file.name}: {alias.name}"
                    assert hasattr(import_module(node.module), alias.name), f"{MOVED}{node.module}.{alias.name}"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (ChatMessage.from_user, ["text", "meta", "name", "content_parts"]),
        (ChatMessage.from_assistant, ["text", "meta", "name", "tool_calls", "reasoning"]),
        (ChatMessage.to_openai_dict_format, ["require_tool_call_ids"]),
        (ComponentInfo.from_component, ["component"]),
        (TokenCounter.count, ["messages", "tools"]),
        (default_from_dict, ["data"]),
        (default_to_dict, ["obj", "init_parameters"]),
        (deserialize_tools_or_toolset_inplace, ["data", "key"]),
        (flatten_tools_or_toolsets, ["tools"]),
        (select_streaming_callback, ["init_callback", "runtime_callback", "requires_async"]),
        (serialize_tools_or_toolset, ["tools"]),
        (warm_up_tools, ["tools"]),
        (warm_up_tools_async, ["tools"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_signatures(function, expected):
    assert parameters(function)[: len(expected)] == expected, MOVED + function.__qualname__


def test_token_counters():
    assert "token_counter" in parameters(CompactionHook), MOVED + "CompactionHook"
    assert {"count", "to_dict", "from_dict"} <= set(vars(TokenCounter)), MOVED + "TokenCounter"


# Components


class Base:
    def __init__(self, *, value):
        self.value = value

    @classmethod
    def from_dict(cls, data):
        return default_from_dict(cls, data)


class Plain(Base):
    __module__ = "haystack_integrations.components.somewhere"

    def __init__(self, *, value=1):
        Base.__init__(self, value=value)

    def zero_argument_super(self):
        return super()

    @component.output_types(out=int)
    def run(self, more: int) -> dict[str, int]:
        return {"out": self.value + more}

    @component.output_types(out=int)
    async def run_async(self, more: int) -> dict[str, int]:
        return {"out": self.value + more}


def test_components_are_created_anew():
    decorated = component(Plain)
    assert decorated is not Plain, MOVED + "@component may be used with super() now"
    assert type(decorated) is ComponentMeta
    assert decorated.__mro__[1:] == (Base, object)
    with pytest.raises(TypeError):
        decorated().zero_argument_super()
    assert decorated.__module__ == Plain.__module__
    saved = default_to_dict(decorated(value=2), value=2)
    assert saved == {"type": "haystack_integrations.components.somewhere.Plain", "init_parameters": {"value": 2}}
    assert decorated.from_dict(saved).value == 2


def test_components_are_checked():
    llm = VLLMChatGenerator()
    assert llm.__haystack_supports_async__
    assert set(llm.__haystack_input__._sockets_dict) == {
        "messages",
        "streaming_callback",
        "generation_kwargs",
        "tools",
        "tools_strict",
        "session_id",
    }
    assert set(llm.__haystack_output__._sockets_dict) == {"replies"}
    assert VLLMTokenCounter().__class__.__class__ is type, "it has no sockets"


async def test_pipelines_call_the_lifecycle():
    calls = []

    class Lifecycle(Plain):
        def warm_up(self):
            calls.append("warm_up")

        async def warm_up_async(self):
            calls.append("warm_up_async")

        def close(self):
            calls.append("close")

        async def close_async(self):
            calls.append("close_async")

    pipe = Pipeline()
    pipe.add_component("it", component(Lifecycle)())
    assert pipe.run({"it": {"more": 1}}) == {"it": {"out": 2}}
    assert await pipe.run_async({"it": {"more": 1}}) == {"it": {"out": 2}}
    pipe.close()
    await pipe.close_async()
    assert calls == ["warm_up", "warm_up_async", "close", "close_async"], MOVED + "Pipeline"


def test_yaml_loads_the_namespace_and_rejects_unknown_arguments():
    pipe = Pipeline()
    pipe.add_component("llm", VLLMChatGenerator())
    text = pipe.dumps()
    assert "type: haystack_integrations.components.vllm_adapters.VLLMChatGenerator" in text
    assert isinstance(Pipeline.loads(text).get_component("llm"), VLLMChatGenerator)
    with pytest.raises(DeserializationError):
        Pipeline.loads(text.replace("haystack_integrations.components.vllm_adapters", "vllm_adapters.haystack"))


# Messages and chunks


def test_messages_in_openai_format():
    call = ToolCall(id="1", tool_name="f", arguments={"ü": 1})
    for message, expected in (
        (ChatMessage.from_user("hi"), {"role": "user", "content": "hi"}),
        (ChatMessage.from_assistant("hi", reasoning="why"), {"role": "assistant", "content": "hi"}),
        (
            ChatMessage.from_assistant(tool_calls=[call]),
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"ü": 1}'}}],
            },
        ),
        (ChatMessage.from_tool("ok", origin=call), {"role": "tool", "content": "ok", "tool_call_id": "1"}),
    ):
        assert message.to_openai_dict_format() == expected, MOVED + "ChatMessage.to_openai_dict_format"
    assert not ChatMessage.from_assistant(reasoning="why").to_openai_dict_format()["content"]
    with pytest.raises(ValueError, match="non-null `id`"):
        ChatMessage.from_tool("ok", origin=ToolCall("f", {})).to_openai_dict_format()


def test_images_and_files_in_openai_format():
    call = ToolCall(id="1", tool_name="f", arguments={})
    image = ImageContent(base64_image="AAAA", mime_type="image/png", validation=False)
    file = FileContent(base64_data="AAAA", mime_type="audio/wav", validation=False)
    content = ChatMessage.from_user(content_parts=[image, file, "text"]).to_openai_dict_format()["content"]
    assert [part["type"] for part in content] == ["image_url", "file", "text"]
    assert content[1]["file"]["file_data"] == "data:audio/wav;base64,AAAA"
    with pytest.raises(ValueError, match="Unsupported tool result"):
        ChatMessage.from_tool([TextContent("a"), image], origin=call).to_openai_dict_format()


def test_chunks():
    fields = [field.name for field in dataclasses.fields(StreamingChunk)]
    named = ["content", "meta", "component_info", "index", "tool_calls", "start", "finish_reason", "reasoning"]
    assert set(named) <= set(fields), MOVED + "StreamingChunk"
    assert parameters(ToolCallDelta)[:4] == ["index", "tool_name", "arguments", "id"]
    reasoning = ReasoningContent(reasoning_text="why")
    with pytest.raises(ValueError, match="Only one of"):
        StreamingChunk("text", reasoning=reasoning, index=0)
    with pytest.raises(ValueError, match="`index` must also be set"):
        StreamingChunk("", reasoning=reasoning)
    assert StreamingChunk("", finish_reason="repetition").finish_reason == "repetition", "vLLM's own are not refused"
    info = ComponentInfo("a.B", "llm")
    assert (info.type, info.name) == ("a.B", "llm"), MOVED + "ComponentInfo"
    pipe = Pipeline()
    pipe.add_component("llm", VLLMChatGenerator())
    assert ComponentInfo.from_component(pipe.get_component("llm")).name == "llm"


def test_documents_keep_their_fields_in_their_dict():
    document = Document(content="hi")
    assert {"content", "embedding", "meta", "id"} <= set(vars(document)), MOVED + "Document"
    copied = copy.copy(document)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vars(copied)["embedding"] = [1.0]
    assert (copied.embedding, document.embedding, copied.id) == ([1.0], None, document.id)


# Tools and secrets


def test_tools():
    tool = Tool(name="f", description="F.", parameters={"type": "object", "properties": {}}, function=print)
    assert tool.tool_spec == {"name": "f", "description": "F.", "parameters": {"type": "object", "properties": {}}}
    assert flatten_tools_or_toolsets([tool, Toolset([tool])]) == [tool, tool]
    assert flatten_tools_or_toolsets(None) == []
    assert not Toolset([])
    data = {"tools": serialize_tools_or_toolset([tool])}
    deserialize_tools_or_toolset_inplace(data, key="tools")
    assert data["tools"] == [tool]
    deserialize_tools_or_toolset_inplace(empty := {}, key="tools")
    assert empty == {}


def test_secrets(monkeypatch):
    monkeypatch.setenv("TOKEN", "x")
    named, token = Secret.from_env_var("TOKEN"), Secret.from_token("x")
    assert named.to_dict()["type"] == "env_var", MOVED + "Secret.to_dict"
    assert Secret.from_dict(named.to_dict()) == named
    assert isinstance(token, TokenSecret)
    assert not isinstance(named, TokenSecret)
    assert named.resolve_value() == token.resolve_value() == "x"
    assert Secret.from_env_var("NO_SUCH_VARIABLE", strict=False).resolve_value() is None
    with pytest.raises(ValueError, match="Cannot serialize token-based secret"):
        token.to_dict()
