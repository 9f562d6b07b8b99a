"""The client with a real vLLM: what is sent, and what is returned."""

import json

import pytest
from packaging.version import Version
from version_marks import (
    constraint_is_enforced,
    fingerprint_is_sent,
    forced_call_is_enforced,
    grammar_is_accepted,
    reasoning_is_parsed,
    streamed_call_is_parsed,
)

from vllm_adapters import AsyncVLLMClient, VLLMClient
from vllm_adapters import errors as e

pytestmark = [pytest.mark.vllm("tiny"), pytest.mark.smoke]

CAPITAL = [{"role": "user", "content": "What is the capital of Japan?"}]
WEATHER = [{"role": "user", "content": "What is the weather in Rome and Oslo?"}]
THINK = {"chat_template_kwargs": {"enable_thinking": True}}
GET_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def client(vllm_url):
    with VLLMClient(vllm_url, max_retries=0) as client:
        yield client


def ask(client, messages=CAPITAL, **request):
    return client.chat.completions.create(model="tiny", messages=messages, temperature=0, **request)


def joined(chunks, kind="content"):
    return "".join(getattr(c.choices[0].delta, kind, None) or "" for c in chunks if c.choices)


def test_chat(client, sent):
    reply = ask(client, extra_body={"top_k": 1, "min_p": 0.1})
    assert reply.choices[0].message.content == "The capital of Japan is Tokyo."
    assert sent.last.path == "/v1/chat/completions"
    assert sent.last.json == {
        "model": "tiny",
        "messages": CAPITAL,
        "temperature": 0,
        "top_k": 1,
        "min_p": 0.1,
    }


def test_served_model_is_found(client, sent):
    for _ in range(2):
        reply = client.chat.completions.create(model="", messages=CAPITAL, temperature=0)
        assert reply.model == "tiny"
    assert [request.path for request in sent] == ["/v1/models", "/v1/chat/completions", "/v1/chat/completions"]
    assert sent.last.json["model"] == "tiny"


@reasoning_is_parsed
async def test_chat_async(vllm_url, sent):
    async with AsyncVLLMClient(vllm_url, max_retries=0) as client:
        reply = await client.chat.completions.create(model="tiny", messages=CAPITAL, temperature=0)
        assert reply.choices[0].message.content == "The capital of Japan is Tokyo."
        stream = await client.chat.completions.create(
            model="tiny", messages=CAPITAL, temperature=0, stream=True, extra_body=THINK
        )
        chunks = [chunk async for chunk in stream]
    assert joined(chunks).strip() == "The capital of Japan is Tokyo."
    assert joined(chunks, "reasoning")
    assert [request.json.get("stream") for request in sent] == [None, True]


@reasoning_is_parsed
def test_reasoning(client, sent):
    message = ask(client, extra_body=THINK).choices[0].message
    assert message.reasoning.strip()
    assert message.content.strip() == "The capital of Japan is Tokyo."
    assert sent.last.json["chat_template_kwargs"] == {"enable_thinking": True}


@reasoning_is_parsed
def test_stream(client, sent):
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, extra_body=THINK))
    assert joined(chunks).strip() == "The capital of Japan is Tokyo."
    assert joined(chunks, "reasoning").strip()
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens > 5
    assert {type(chunk).__name__ for chunk in chunks} == {"ChatCompletionChunk"}
    assert sent.last.json["stream_options"] == {"include_usage": True}


def test_tool_calls(client, sent):
    message = ask(client, WEATHER, tools=[GET_WEATHER]).choices[0].message
    assert [call.function.name for call in message.tool_calls] == ["get_weather", "get_weather"]
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [{"city": "Rome"}, {"city": "Oslo"}]
    assert "strict" not in sent.last.json["tools"][0]["function"]


@streamed_call_is_parsed
def test_tool_calls_streamed(client):
    calls = [
        call
        for chunk in ask(client, WEATHER, tools=[GET_WEATHER], stream=True)
        for call in chunk.choices[0].delta.tool_calls or []
    ]
    arguments = {0: "", 1: ""}
    for call in calls:
        arguments[call.index] += call.function.arguments or ""
    assert [json.loads(text) for text in arguments.values()] == [{"city": "Rome"}, {"city": "Oslo"}]


@forced_call_is_enforced
def test_forced_tool_is_strict(client, sent):
    message = ask(client, WEATHER, tools=[GET_WEATHER], tool_choice="required").choices[0].message
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Rome"}
    assert sent.last.json["tools"][0]["function"]["strict"] is True


@pytest.mark.parametrize(
    ("outputs", "fits"),
    [
        ({"choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
        ({"regex": r"\d{3}-\d{4}"}, lambda text: len(text) == 8 and text[3] == "-"),
        ({"json": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}, json.loads),
        ({"grammar": 'root ::= "a" | "b"'}, lambda text: text in ("a", "b")),
    ],
    ids=["choice", "regex", "json", "grammar"],
)
@constraint_is_enforced
def test_structured_outputs(client, sent, outputs, fits):
    reply = ask(client, extra_body={"structured_outputs": outputs}, max_tokens=60)
    assert fits(reply.choices[0].message.content)
    assert sent.last.json["structured_outputs"] == outputs


@constraint_is_enforced
def test_removed_names_are_translated(client, sent):
    reply = ask(client, extra_body={"guided_choice": ["yes", "no"]})
    assert reply.choices[0].message.content in ("yes", "no")
    assert sent.last.json["structured_outputs"] == {"choice": ["yes", "no"]}
    assert "guided_choice" not in sent.last.json


@fingerprint_is_sent
def test_fields_added_by_vllm(client):
    reply = ask(client, extra_body={"return_token_ids": True, "prompt_logprobs": 1}, logprobs=True, stop=["Tokyo"])
    assert reply.choices[0].stop_reason == "Tokyo"
    assert reply.choices[0].token_ids
    assert reply.prompt_token_ids
    assert reply.prompt_logprobs
    assert reply.system_fingerprint.startswith("vllm-")


def test_completions(client, sent):
    reply = client.completions.create(model="tiny", prompt="user:Hello", max_tokens=4, extra_body={"top_k": 1})
    assert reply.choices[0].text
    chunks = list(client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=3, stream=True))
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}
    assert sent[0].json["top_k"] == 1


@pytest.mark.parametrize("stream", [False, True])
@grammar_is_accepted
def test_invalid_grammar_raises(client, stream):
    with pytest.raises(e.InvalidRequest, match="Invalid grammar specification"):
        list(ask(client, stream=stream, extra_body={"structured_outputs": {"grammar": "root ::= ((("}}))


@pytest.mark.parametrize("stream", [False, True])
def test_too_long_prompt_raises(client, stream):
    with pytest.raises(e.ContextLengthExceeded) as caught:
        list(ask(client, [{"role": "user", "content": "word " * 5000}], stream=stream))
    assert caught.value.max_model_len
    assert caught.value.requested > caught.value.max_model_len


def test_unknown_model_raises(client):
    with pytest.raises(e.ModelNotServed, match="It serves: tiny") as caught:
        client.chat.completions.create(model="nope", messages=CAPITAL)
    assert caught.value.served == ("tiny",)


def test_task_of_another_model_raises(client, vllm_version):
    with pytest.raises(e.WrongAddress) as caught:
        client.embeddings.create(model="tiny", input="x")
    if vllm_version < Version("0.16"):
        assert "The model does not support Embeddings API" in str(caught.value)
    else:
        assert f"this vLLM {vllm_version} has /v1/chat/completions" in str(caught.value)


def test_parameter_out_of_bounds_raises(client):
    with pytest.raises(e.InvalidRequest, match="top_p must be in") as caught:
        ask(client, top_p=0.0)
    assert caught.value.param == "top_p"


def test_base_url_without_v1(vllm_url, sent):
    with VLLMClient(vllm_url.removesuffix("/v1") + "/", max_retries=0) as client:
        assert ask(client).choices[0].message.content
    assert sent.last.path == "/v1/chat/completions"


@pytest.mark.vllm("tiny", api_key="sk-of-the-test")
def test_wrong_key_raises(vllm_url):
    with (
        VLLMClient(vllm_url, api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(e.AuthenticationFailed, match="VLLM_API_KEY"),
    ):
        ask(client)
