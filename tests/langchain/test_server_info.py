"""What ChatVLLM knows of its server: model, context length, and exact token counts."""

import asyncio
import copy
import pickle

import langchain_core.exceptions as lc
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage, trim_messages
from langchain_core.tools import tool
from version_marks import forced_call_is_enforced

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.langchain import VLLM, ChatVLLM, VLLMEmbeddings, VLLMRerank
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"
CONVERSATION = [SystemMessage("Be brief."), HumanMessage("What is the weather in Rome?")]

recorded = pytest.mark.vllm("tiny")


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.fixture
def short_llm():
    return ChatVLLM(temperature=0, max_retries=0, max_tokens=40)


# Model and profile


@recorded
def test_from_server(sent):
    llm = ChatVLLM.from_server(temperature=0, top_k=1)
    assert llm.model_name == "tiny"
    assert llm.profile["max_input_tokens"] == 2048
    assert llm.profile["structured_output"] is llm.profile["tool_calling"] is True
    assert llm.invoke("What is the capital of Japan?").text == "The capital of Japan is Tokyo."
    assert (sent.last.json["model"], sent.last.json["top_k"]) == ("tiny", 1)


@recorded
async def test_afrom_server(vllm_url):
    llm = await ChatVLLM.afrom_server(server=VLLMServer(vllm_url), profile={"image_inputs": False})
    assert (llm.model_name, llm.profile["max_input_tokens"]) == ("tiny", 2048)
    assert llm.profile["image_inputs"] is False


@recorded
def test_from_server_of_an_unserved_model():
    with pytest.raises(e.ModelNotServed, match=r"serves: tiny"):
        ChatVLLM.from_server(model="nope")


def test_from_server_with_several_models(make_fault_server):
    server = make_fault_server(models=("one", "two"))
    with pytest.raises(lc.ModelNotFoundError, match="one, two"):
        ChatVLLM.from_server(server.url)
    assert ChatVLLM.from_server(server.url, model="two").model_name == "two"


def test_constructor_has_a_profile_without_asking(fault_server):
    llm = ChatVLLM(base_url=fault_server.url)
    assert llm.profile["structured_output"] is True
    assert "max_input_tokens" not in llm.profile
    assert ChatVLLM(model="gpt-4o").profile == llm.profile, "the model's name is no OpenAI model's"
    assert not fault_server.requests


def test_profile_of_a_lora_adapter_is_its_base_models(make_fault_server):
    lora = {"id": "mine", "object": "model", "parent": "base", "root": "/x", "max_model_len": None}
    server = make_fault_server(models=("base", lora), max_model_len=4096)
    llm = ChatVLLM.from_server(server.url, model="mine")
    assert (llm.model_name, llm.profile["name"], llm.profile["max_input_tokens"]) == ("mine", "mine", 4096)
    assert asyncio.run(ChatVLLM.afrom_server(server.url)).model_name == "base"


def test_base_of_a_lora_adapter_may_be_named_by_its_root(make_fault_server):
    base = {"id": "alias", "object": "model", "parent": None, "root": "org/base", "max_model_len": 4096}
    lora = {"id": "mine", "object": "model", "parent": "org/base", "root": "/x", "max_model_len": None}
    server = make_fault_server(models=(base, lora))
    assert ChatVLLM.from_server(server.url, model="mine").profile["max_input_tokens"] == 4096


class TestLoRA:
    """An adapter is a model name of its own, with its base model's context."""

    pytestmark = pytest.mark.vllm("tiny", lora=True)

    def test_lora_adapter_by_name(self, sent):
        base = ChatVLLM.from_server(temperature=0, max_tokens=8)
        adapter = ChatVLLM.from_server(model="tiny-lora", temperature=0, max_tokens=8)
        assert (base.model_name, adapter.model_name) == ("tiny", "tiny-lora")
        assert adapter.profile["max_input_tokens"] == base.profile["max_input_tokens"] == 2048
        assert adapter.invoke("Hello").response_metadata["model_name"] == "tiny-lora"
        assert base.invoke("Hello", model="tiny-lora").response_metadata["model_name"] == "tiny-lora"
        assert [body["model"] for body in sent.bodies(CHAT)] == ["tiny-lora"] * 2
        assert adapter.get_num_tokens("Hello") == base.get_num_tokens("Hello")
        assert sent.bodies("/tokenize")[0]["model"] == "tiny-lora"


# Tokens


# Stock ChatOpenAI downloads another model's vocabulary, and raises for the second text.
@recorded
@pytest.mark.parametrize("text", ["What is the capital of Japan?", "a <|endoftext|> b", "naïve 日本 🙂"])
def test_tokens_of_a_text(short_llm, text, vllm_url):
    ids = short_llm.get_token_ids(text)
    assert ids == VLLMServer(vllm_url).tokenize(text, add_special_tokens=False).ids
    assert short_llm.get_num_tokens(text) == len(ids)


# Stock ChatOpenAI: NotImplementedError for any model that is not OpenAI's.
@recorded
@pytest.mark.parametrize(
    ("bound", "messages"),
    [
        ({}, CONVERSATION),
        ({"chat_template_kwargs": {"enable_thinking": True}}, CONVERSATION),
        ({"tools": True}, CONVERSATION),
        ({"tools": True, "tool_choice": "get_weather"}, CONVERSATION),
        (
            {"tools": True},
            [
                *CONVERSATION,
                AIMessage("", tool_calls=[{"name": "get_weather", "args": {"city": "Rome"}, "id": "call-1"}]),
                ToolMessage("sunny", tool_call_id="call-1"),
            ],
        ),
    ],
    ids=["plain", "thinking", "tools", "forced", "history"],
)
@forced_call_is_enforced
def test_tokens_of_messages_are_the_input_tokens_of_usage(short_llm, bound, messages):
    parameters = {name: value for name, value in bound.items() if name != "tools"}
    llm = short_llm.bind_tools([get_weather], **parameters) if "tools" in bound else short_llm.bind(**parameters)
    used = llm.invoke(messages).usage_metadata["input_tokens"]
    assert llm.get_num_tokens_from_messages(messages) == used
    if "tool_choice" not in bound:
        tools = [get_weather] if "tools" in bound else None
        assert short_llm.get_num_tokens_from_messages(messages, tools, **parameters) == used


@recorded
def test_trimmed_messages_fit(short_llm, sent):
    long = [message for number in range(6) for message in (HumanMessage(f"Count to {number}"), AIMessage("1, 2, 3, 4"))]
    kept = trim_messages(long, max_tokens=30, token_counter=short_llm, strategy="last", start_on="human")
    assert 0 < len(kept) < len(long)
    assert short_llm.get_num_tokens_from_messages(kept) <= 30
    bodies = [str(body) for body in sent.bodies("/tokenize")]
    assert len(bodies) == len(set(bodies)), "each conversation is counted once"


def test_token_counts_are_cached(fault_server):
    llm = ChatVLLM(base_url=fault_server.url, max_retries=0)
    for _ in range(2):
        llm.get_num_tokens("one two")
        llm.get_num_tokens_from_messages([("user", "hi")])
    assert len(fault_server.posts("/tokenize")) == 2
    assert ChatVLLM(custom_get_token_ids=lambda text: [1, 2, 3]).get_num_tokens("x") == 3


# Checks of the constructor


@pytest.mark.parametrize("cls", [ChatVLLM, VLLM, VLLMEmbeddings, VLLMRerank])
def test_constructor_asks_for_the_model_on_request(make_fault_server, cls):
    server = make_fault_server()
    part = cls(base_url=server.url, validate_model_on_init=True)
    assert [request.path for request in server.requests] == ["/v1/models"]
    assert part._model_name == "stub"
    cls(base_url=server.url, model="stub", validate_model_on_init=True)
    copy.deepcopy(part.model_copy())
    pickle.loads(pickle.dumps(part))
    assert len(server.requests) == 2
    with pytest.raises(lc.ModelNotFoundError, match=r"`nope` is not served.*It serves: stub"):
        cls(base_url=server.url, model="nope", validate_model_on_init=True)
    with pytest.raises(e.ServerUnreachable):
        cls(base_url="http://127.0.0.1:9", validate_model_on_init=True, max_retries=0)


@pytest.mark.parametrize("name", ["max_model_len", "max_input_tokens", "context_length"])
def test_context_length_is_in_the_profile_on_request(fault_server, name):
    card = {"id": "m", "root": "m", "object": "model", name: 1234}
    fault_server.reply(faults.json_reply({"data": [card]}), "/v1/models")
    llm = ChatVLLM(base_url=fault_server.url, validate_model_on_init=True)
    assert llm.profile["max_input_tokens"] == 1234
    assert llm.profile["tool_calling"]
    assert ChatVLLM(base_url=fault_server.url).profile.get("max_input_tokens") is None
    own = ChatVLLM(base_url=fault_server.url, validate_model_on_init=True, profile={"max_input_tokens": 7})
    assert own.profile["max_input_tokens"] == 7


@recorded
def test_context_length_of_a_real_server(vllm_url):
    assert ChatVLLM(validate_model_on_init=True).profile["max_input_tokens"] == 2048
