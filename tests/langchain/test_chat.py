"""ChatVLLM on a real vLLM: what was sent, what came back."""

import pytest

pytest.importorskip("langchain_openai")

from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from vllm_adapters import errors as e
from vllm_adapters.langchain import ChatVLLM

pytestmark = pytest.mark.vllm("tiny")

CAPITAL = "What is the capital of Japan?"
THINK = {"enable_thinking": True}


class City(BaseModel):
    """A city with a number."""

    city: str
    n: int = Field(ge=0)


class CityDict(TypedDict):
    """A city with a number."""

    city: str
    n: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.fixture
def llm():
    return ChatVLLM(temperature=0, max_retries=0)


def total(chunks):
    message = None
    for chunk in chunks:
        assert isinstance(chunk, AIMessageChunk)
        message = chunk if message is None else message + chunk
    return message


def test_invoke(llm, sent):
    message = llm.invoke(CAPITAL)
    assert message.text == "The capital of Japan is Tokyo."
    assert message.usage_metadata["output_tokens"] > 0
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["model_name"] == "tiny"
    assert message.response_metadata["system_fingerprint"].startswith("vllm-")
    assert sent.last.json == {
        "model": "tiny",
        "messages": [{"role": "user", "content": CAPITAL}],
        "temperature": 0.0,
        "stream": False,
    }


async def test_ainvoke(llm):
    assert (await llm.ainvoke(CAPITAL)).text == "The capital of Japan is Tokyo."


def test_batch(llm, sent):
    answers = llm.batch([CAPITAL, "Hello"], config={"max_concurrency": 1})
    assert answers[0].text == "The capital of Japan is Tokyo."
    assert len(sent.bodies("/v1/chat/completions")) == 2


def test_stream_with_usage(llm, sent):
    chunks = list(llm.stream(CAPITAL))
    assert len(chunks) > 3
    message = total(chunks)
    assert message.text == "The capital of Japan is Tokyo."
    assert message.usage_metadata["output_tokens"] > 0
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["system_fingerprint"].count("vllm-") == 1
    assert sent.last.json["stream_options"] == {"include_usage": True}


async def test_astream(llm):
    message = total([chunk async for chunk in llm.astream(CAPITAL, chat_template_kwargs=THINK)])
    assert message.text.strip() == "The capital of Japan is Tokyo."
    assert message.additional_kwargs["reasoning_content"].strip()


@pytest.mark.parametrize("streamed", [False, True])
def test_reasoning(llm, sent, streamed):
    llm = llm.bind(chat_template_kwargs=THINK)
    message = total(llm.stream(CAPITAL)) if streamed else llm.invoke(CAPITAL)
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "text"]
    assert message.content_blocks[0]["reasoning"] == message.additional_kwargs["reasoning_content"]
    assert message.text.strip() == "The capital of Japan is Tokyo."
    assert message.usage_metadata["output_token_details"]["reasoning"] > 0
    assert sent.last.json["chat_template_kwargs"] == THINK


@pytest.mark.parametrize("streamed", [False, True])
def test_what_vllm_adds_to_replies(llm, streamed):
    asked = {"return_token_ids": True, "stop": ["Tokyo"]}
    message = total(llm.stream(CAPITAL, **asked)) if streamed else llm.invoke(CAPITAL, prompt_logprobs=1, **asked)
    found = message.response_metadata
    assert found["stop_reason"] == "Tokyo"
    assert len(found["token_ids"]) == message.usage_metadata["output_tokens"]
    assert len(found["prompt_token_ids"]) == message.usage_metadata["input_tokens"]
    assert streamed or len(found["prompt_logprobs"]) == len(found["prompt_token_ids"])
    assert found["metrics"]["time_to_first_token_ms"] > 0


def test_parameters_of_every_level(sent):
    llm = ChatVLLM(top_k=5, min_p=0.1, temperature=0, chat_template_kwargs={"enable_thinking": False, "a": 1})
    llm.bind(top_k=3, chat_template_kwargs={"a": 2}).invoke(CAPITAL, top_k=1, seed=1, chat_template_kwargs=THINK)
    body = sent.last.json
    assert (body["top_k"], body["min_p"], body["seed"]) == (1, 0.1, 1)
    assert body["chat_template_kwargs"] == {"enable_thinking": True, "a": 2}


def test_structured_outputs_per_call(llm, sent):
    assert llm.invoke("Yes or no?", structured_outputs={"choice": ["yes", "no"]}).text in ("yes", "no")
    assert llm.invoke("Yes or no?", guided_choice=["yes", "no"]).text in ("yes", "no")
    bodies = sent.bodies("/v1/chat/completions")
    assert [body["structured_outputs"] for body in bodies] == [{"choice": ["yes", "no"]}] * 2


def test_tools(llm, sent):
    message = llm.bind(top_k=1).bind_tools([get_weather]).invoke("What is the weather in Rome and Oslo?")
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [
        ("get_weather", {"city": "Rome"}),
        ("get_weather", {"city": "Oslo"}),
    ]
    assert sent.last.json["top_k"] == 1
    assert "strict" not in sent.last.json["tools"][0]["function"]


def test_a_forced_tool_streamed(llm, sent):
    message = total(llm.bind_tools([get_weather], tool_choice="get_weather").stream("What is the weather in Rome?"))
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("get_weather", {"city": "Rome"})]
    assert sent.last.json["tools"][0]["function"]["strict"] is True


def test_a_tool_loop(llm):
    llm = llm.bind_tools([get_weather])
    messages = [HumanMessage("What is the weather in Tokyo?")]
    messages.append(llm.invoke(messages))
    messages.extend(get_weather.invoke(call) for call in messages[-1].tool_calls)
    assert "sunny" in messages[-1].text
    last = llm.invoke(messages)
    assert not last.tool_calls
    assert last.text


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("schema", [City, CityDict], ids=["pydantic", "typeddict"])
def test_structured_output(llm, sent, schema, method):
    found = llm.with_structured_output(schema, method=method).invoke("Give me Rome as json")
    assert (found.model_dump() if isinstance(found, City) else found) == {"city": "Rome", "n": 1}
    asked = sent.last.json
    if method == "json_schema":
        assert asked["response_format"]["json_schema"]["schema"]["required"] == ["city", "n"]
    elif method == "json_mode":
        assert asked["response_format"] == {"type": "json_object"}
    else:
        assert asked["tools"][0]["function"]["strict"] is True


def test_structured_output_streamed(llm):
    assert list(llm.with_structured_output(City).stream("Give me Rome as json")) == [City(city="Rome", n=1)]
    growing = list(llm.with_structured_output(CityDict).stream("Give me Rome as json"))
    assert growing[-1] == {"city": "Rome", "n": 1}
    assert len(growing) > 2


async def test_structured_output_with_reasoning_and_raw(llm):
    city = llm.bind(chat_template_kwargs=THINK).with_structured_output(City, include_raw=True)
    found = await city.ainvoke("Give me Rome as json")
    assert found["parsed"] == City(city="Rome", n=1)
    assert found["raw"].additional_kwargs["reasoning_content"].strip()


def test_truncated_structured_output(llm):
    with pytest.raises(e.TruncatedOutput) as caught:
        llm.with_structured_output(City).invoke("Give me Rome as json", max_tokens=3)
    assert caught.value.partial.startswith("{")


def test_errors(llm):
    from langchain_core.exceptions import ContextOverflowError, ModelInvalidRequestError, ModelNotFoundError

    with pytest.raises(ModelNotFoundError, match="It serves: tiny"):
        llm.invoke(CAPITAL, model="nope")
    with pytest.raises(ContextOverflowError, match="--max-model-len"):
        llm.invoke("word " * 5000)
    for call in (llm.invoke, lambda *a, **k: list(llm.stream(*a, **k))):
        with pytest.raises(ModelInvalidRequestError, match="Invalid grammar"):
            call(CAPITAL, structured_outputs={"grammar": "root ::= ((("})
