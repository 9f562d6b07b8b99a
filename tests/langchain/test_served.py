"""What ChatVLLM asks a real vLLM beside replies: its model's name and length, and tokens, exactly."""

import pytest

pytest.importorskip("langchain_openai")

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage, trim_messages
from langchain_core.tools import tool

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.langchain import ChatVLLM

pytestmark = pytest.mark.vllm("tiny")

TALK = [SystemMessage("Be brief."), HumanMessage("What is the weather in Rome?")]


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.fixture
def llm():
    return ChatVLLM(temperature=0, max_retries=0, max_tokens=40)


def test_from_server(sent):
    llm = ChatVLLM.from_server(temperature=0, top_k=1)
    assert llm.model_name == "tiny"
    assert llm.profile["max_input_tokens"] == 2048
    assert llm.profile["structured_output"] is llm.profile["tool_calling"] is True
    assert llm.invoke("What is the capital of Japan?").text == "The capital of Japan is Tokyo."
    assert (sent.last.json["model"], sent.last.json["top_k"]) == ("tiny", 1)


async def test_afrom_server(vllm_url):
    llm = await ChatVLLM.afrom_server(server=VLLMServer(vllm_url), profile={"image_inputs": False})
    assert (llm.model_name, llm.profile["max_input_tokens"]) == ("tiny", 2048)
    assert llm.profile["image_inputs"] is False


def test_from_server_of_a_model_that_is_not_served():
    with pytest.raises(e.ModelNotServed, match="It serves: tiny"):
        ChatVLLM.from_server(model="nope")


# Stock ChatOpenAI downloads another model's vocabulary, and raises for the second text.
@pytest.mark.parametrize("text", ["What is the capital of Japan?", "a <|endoftext|> b", "naïve 日本 🙂"])
def test_tokens_of_a_text(llm, text, vllm_url):
    ids = llm.get_token_ids(text)
    assert ids == VLLMServer(vllm_url).tokenize(text, add_special_tokens=False).ids
    assert llm.get_num_tokens(text) == len(ids)


# Stock ChatOpenAI: NotImplementedError for any model that is not OpenAI's.
@pytest.mark.parametrize(
    ("bound", "messages"),
    [
        ({}, TALK),
        ({"chat_template_kwargs": {"enable_thinking": True}}, TALK),
        ({"tools": True}, TALK),
        ({"tools": True, "tool_choice": "get_weather"}, TALK),
        (
            {"tools": True},
            [
                *TALK,
                AIMessage("", tool_calls=[{"name": "get_weather", "args": {"city": "Rome"}, "id": "call-1"}]),
                ToolMessage("sunny", tool_call_id="call-1"),
            ],
        ),
    ],
    ids=["plain", "thinking", "tools", "forced", "history"],
)
def test_tokens_of_messages_are_the_replys_input_tokens(llm, bound, messages):
    parameters = {name: value for name, value in bound.items() if name != "tools"}
    asked = llm.bind_tools([get_weather], **parameters) if "tools" in bound else llm.bind(**parameters)
    used = asked.invoke(messages).usage_metadata["input_tokens"]
    assert asked.get_num_tokens_from_messages(messages) == used
    if "tool_choice" not in bound:
        tools = [get_weather] if "tools" in bound else None
        assert llm.get_num_tokens_from_messages(messages, tools, **parameters) == used


def test_trimmed_messages_fit(llm, sent):
    long = [message for number in range(6) for message in (HumanMessage(f"Count to {number}"), AIMessage("1, 2, 3, 4"))]
    kept = trim_messages(long, max_tokens=30, token_counter=llm, strategy="last", start_on="human")
    assert 0 < len(kept) < len(long)
    assert llm.get_num_tokens_from_messages(kept) <= 30
    asked = [str(body) for body in sent.bodies("/tokenize")]
    assert len(asked) == len(set(asked)), "each conversation is counted once"


@pytest.mark.parametrize("side", [None, "left"])
def test_a_prompt_is_cut_to_what_is_asked(llm, sent, side):
    long = "word " * 3000
    with pytest.raises(e.ContextLengthExceeded):
        llm.invoke(long)
    llm = (
        llm.bind(truncate_prompt_tokens=100)
        if side is None
        else llm.bind(truncate_prompt_tokens=100, truncation_side=side)
    )
    assert llm.invoke(long, max_tokens=5).usage_metadata["input_tokens"] == 100
    assert sent.last.json["truncate_prompt_tokens"] == 100


def test_a_final_message_is_continued(llm, sent):
    begun = [HumanMessage("What is the capital of Japan?"), AIMessage("The capital of")]
    message = llm.invoke(begun, continue_final_message=True, add_generation_prompt=False)
    assert message.text == " Japan is Tokyo."
    assert sent.last.json["continue_final_message"] is True
    echoed = llm.invoke(begun, continue_final_message=True, add_generation_prompt=False, echo=True)
    assert echoed.text == "The capital of Japan is Tokyo."


class TestLoRA:
    """An adapter is a model name of its own, with its base model's context."""

    pytestmark = pytest.mark.vllm("tiny", lora=True)

    def test_a_lora_adapter_by_name(self, sent):
        base = ChatVLLM.from_server(temperature=0, max_tokens=8)
        adapter = ChatVLLM.from_server(model="tiny-lora", temperature=0, max_tokens=8)
        assert (base.model_name, adapter.model_name) == ("tiny", "tiny-lora")
        assert adapter.profile["max_input_tokens"] == base.profile["max_input_tokens"] == 2048
        assert adapter.invoke("Hello").response_metadata["model_name"] == "tiny-lora"
        assert base.invoke("Hello", model="tiny-lora").response_metadata["model_name"] == "tiny-lora"
        assert [body["model"] for body in sent.bodies("/v1/chat/completions")] == ["tiny-lora"] * 2
        assert adapter.get_num_tokens("Hello") == base.get_num_tokens("Hello")
        assert sent.bodies("/tokenize")[0]["model"] == "tiny-lora"
