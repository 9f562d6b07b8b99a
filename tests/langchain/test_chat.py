"""ChatVLLM: replies, and what vLLM adds to them."""

import langchain_core.exceptions as lc
import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tracers.langchain import _get_usage_metadata_from_generations

from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.testing import faults, payloads

pytestmark = pytest.mark.smoke

CHAT = "/v1/chat/completions"
CAPITAL = "What is the capital of Japan?"
TOKYO = "The capital of Japan is Tokyo."
THINK = {"enable_thinking": True}
WHOLE = ["invoke", "ainvoke"]
STREAMED = ["stream", "astream", "invoke_streaming", "events_v3"]

recorded = pytest.mark.vllm("tiny")


@recorded
def test_invoke(llm, sent):
    message = llm.invoke(CAPITAL)
    assert message.text == TOKYO
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


@recorded
async def test_ainvoke(llm):
    assert (await llm.ainvoke(CAPITAL)).text == TOKYO


@recorded
def test_batch(llm, sent):
    replies = llm.batch([CAPITAL, "Hello"], config={"max_concurrency": 1})
    assert replies[0].text == TOKYO
    assert len(sent.bodies(CHAT)) == 2


# Reasoning. Stock ChatOpenAI drops it in replies, chunks and history.


@recorded
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_reasoning(llm, sent, call, way):
    message = call(way, llm.bind(chat_template_kwargs=THINK), CAPITAL)
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "text"]
    assert message.content_blocks[0]["reasoning"] == message.additional_kwargs["reasoning_content"]
    assert message.text.strip() == TOKYO
    assert message.usage_metadata["output_token_details"]["reasoning"] > 0
    assert sent.last.json["chat_template_kwargs"] == THINK


# vLLM's own fields. Stock ChatOpenAI keeps finish_reason and logprobs only.


@recorded
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_vllm_fields_are_in_the_response_metadata(llm, call, way):
    params = {"return_token_ids": True, "stop": ["Tokyo"], **({"prompt_logprobs": 1} if way == "invoke" else {})}
    message = call(way, llm, CAPITAL, **params)
    metadata = message.response_metadata
    assert metadata["stop_reason"] == "Tokyo"
    assert len(metadata["token_ids"]) == message.usage_metadata["output_tokens"]
    assert len(metadata["prompt_token_ids"]) == message.usage_metadata["input_tokens"]
    assert way == "stream" or len(metadata["prompt_logprobs"]) == len(metadata["prompt_token_ids"])
    assert metadata["metrics"]["time_to_first_token_ms"] > 0


@pytest.mark.parametrize("way", [*WHOLE, *STREAMED])
def test_every_vllm_field_is_in_the_response_metadata(fault_server, faulty_llm, call, way):
    of_choice = {"stop_reason": "END", "token_ids": [5, 6], "prompt_logprobs": [None], "routed_experts": "AAAA"}
    of_reply = {
        "prompt_token_ids": [1, 2],
        "prompt_text": "<user>x",
        "kv_transfer_params": {"host": "a"},
        "ec_transfer_params": {"host": "b"},
        "metrics": {"time_to_first_token_ms": 1.5},
    }
    if way in WHOLE:
        reply = payloads.chat("x")
        reply["choices"][0].update(of_choice)
        fault_server.reply(faults.json_reply({**reply, **of_reply}))
    else:
        chunks = payloads.chat_chunks("x", usage=True)
        chunks[-2]["choices"][0].update(of_choice)
        fault_server.reply(faults.sse(*chunks[:-1], {**chunks[-1], **of_reply}))
    metadata = call(way, faulty_llm).response_metadata
    assert {name: metadata.get(name) for name in {**of_choice, **of_reply}} == {**of_choice, **of_reply}


# Stock ChatOpenAI: of a stream chunk by chunk only; of v3 events the last chunk's only.
@recorded
@pytest.mark.parametrize("way", ["invoke", "stream", "events_v3"])
def test_log_probabilities(llm, sent, call, way):
    message = call(way, llm, CAPITAL, logprobs=True, top_logprobs=2)
    tokens = message.response_metadata["logprobs"]["content"]
    assert "".join(item["token"] for item in tokens).removesuffix("<|im_end|>") == TOKYO
    assert all(len(item["top_logprobs"]) == 2 and item["logprob"] <= 0 for item in tokens)
    assert (sent.last.json["logprobs"], sent.last.json["top_logprobs"]) == (True, 2)


# Stock ChatOpenAI: each generation carries the usage of the whole request, and tracers count it n times.
@recorded
async def test_usage_of_several_choices_counts_once(llm, sent):
    handler = UsageMetadataCallbackHandler()
    bound = llm.bind(n=3, temperature=0.5, seed=1)
    for result in (
        await llm.agenerate([[HumanMessage(CAPITAL)]], n=3, temperature=0.5, seed=1, callbacks=[handler]),
        llm.generate([[HumanMessage(CAPITAL)]], n=3, temperature=0.5, seed=1),
    ):
        generations = result.generations[0]
        assert len(generations) == 3
        assert all(generation.message.text for generation in generations)
        total = result.llm_output["token_usage"]["completion_tokens"]
        assert total > generations[0].message.usage_metadata["input_tokens"]
        summed = _get_usage_metadata_from_generations([[dumpd(generation)["kwargs"] for generation in generations]])
        usages = [generation.message.usage_metadata for generation in generations]
        assert [usage["output_tokens"] if usage else None for usage in usages] == [total, None, None]
        assert summed["output_tokens"] == total
        assert result.llm_output["model_name"] == "tiny"
        assert {generation.message.response_metadata["model_name"] for generation in generations} == {"tiny"}
    assert handler.usage_metadata["tiny"]["output_tokens"] == total
    assert bound.invoke(CAPITAL).usage_metadata["output_tokens"] == total
    assert sent.last.json["n"] == 3


# Roles. Stock ChatOpenAI: a HumanMessage, or a ChatMessage without tool calls; with usage, an AttributeError.


@pytest.mark.parametrize("role", ["user", "tool", "bot", None])
@pytest.mark.parametrize("way", ["invoke", "stream", "astream", "events_v3"])
def test_reply_is_an_ai_message_whatever_its_role(faulty_llm, fault_server, call, way, role):
    tool_call = payloads.tool_call("add", "{}")

    async def run(exchange):
        if exchange.request.json.get("stream"):
            chunks = payloads.chat_chunks("Hi", tool_calls=[tool_call])
            chunks[0]["choices"][0]["delta"]["role"] = role
            await faults.sse(*chunks)(exchange)
        else:
            reply = payloads.chat("Hi", tool_calls=[tool_call])
            reply["choices"][0]["message"]["role"] = role
            await faults.json_reply(reply)(exchange)

    fault_server.reply(run)
    message = call(way, faulty_llm)
    assert isinstance(message, AIMessage)
    assert message.text == "Hi"
    assert [tool["name"] for tool in message.tool_calls] == ["add"]


# OpenAI's rules that go by the model's name, and its other API.


@pytest.mark.parametrize("name", ["o1-mini", "gpt-5", "gpt-5.2-pro", "codex"])
def test_model_names_like_openais_change_nothing(make_fault_server, name):
    server = make_fault_server(models=(name,))
    ChatVLLM(base_url=server.url, model=name, temperature=0.3).invoke([("system", "be brief"), ("user", "hi")])
    body = server.posts(CHAT)[0].json
    assert (body["temperature"], body["messages"][0]["role"]) == (0.3, "system")


# Stock ChatOpenAI sends each of these to /v1/responses, whose content is a list and which loses vLLM's own fields.
@pytest.mark.parametrize("given", [{"output_version": "responses/v1"}, {"model": "codex-mini"}, {"model": "gpt-6"}])
@pytest.mark.parametrize("way", [*WHOLE, *STREAMED])
def test_responses_api_is_never_used(make_fault_server, call, given, way):
    server = make_fault_server(models=(given.get("model", "stub"),))
    assert call(way, ChatVLLM(base_url=server.url, **given)).text == "x"
    assert {request.route for request in server.requests} & {"/v1/responses"} == set()


def test_responses_api_is_rejected():
    for given in ({"use_responses_api": True}, {"use_responses_api": None, "model": "codex-mini"}):
        with pytest.raises(ValueError, match="chat completions only"):
            ChatVLLM(**given)
    assert ChatVLLM(use_responses_api=None).use_responses_api is False


@recorded
def test_errors_are_langchains_own(llm):
    with pytest.raises(lc.ModelNotFoundError, match="It serves: tiny"):
        llm.invoke(CAPITAL, model="nope")
    with pytest.raises(lc.ContextOverflowError, match="--max-model-len"):
        llm.invoke("word " * 5000)
    for call in (llm.invoke, lambda *args, **kwargs: list(llm.stream(*args, **kwargs))):
        with pytest.raises(lc.ModelInvalidRequestError, match="Invalid grammar"):
            call(CAPITAL, structured_outputs={"grammar": "root ::= ((("})
