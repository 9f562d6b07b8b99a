"""ChatVLLM: replies, and what vLLM adds to them."""

import re

import langchain_core.exceptions as lc
import pytest
import yaml
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRefusalMiddleware
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tracers.langchain import _get_usage_metadata_from_generations
from pydantic import BaseModel
from version_marks import fingerprint_is_sent, grammar_is_accepted, metrics_are_sent, reasoning_is_parsed

from vllm_adapters import errors as e
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
@fingerprint_is_sent
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
@reasoning_is_parsed
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
@metrics_are_sent
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
    for given in ({"use_responses_api": True}, {"use_responses_api": True, "model": "codex-mini"}):
        with pytest.raises(e.UnknownParameter, match=r"VLLMClient\(...\).responses") as caught:
            ChatVLLM(**given)
        assert caught.value.param == "use_responses_api"
    assert ChatVLLM(use_responses_api=None).use_responses_api is False


@recorded
@grammar_is_accepted
def test_errors_are_langchains_own(llm):
    with pytest.raises(lc.ModelNotFoundError, match="It serves: tiny"):
        llm.invoke(CAPITAL, model="nope")
    with pytest.raises(lc.ContextOverflowError, match="--max-model-len"):
        llm.invoke("word " * 5000)
    for call in (llm.invoke, lambda *args, **kwargs: list(llm.stream(*args, **kwargs))):
        with pytest.raises(lc.ModelInvalidRequestError, match="Invalid grammar"):
            call(CAPITAL, structured_outputs={"grammar": "root ::= ((("})


# What stock models add


class City(BaseModel):
    """A city."""

    city: str


# Stock: additional_kwargs["parsed"], where code that passes a class looks for it.
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "invoke_streaming", "stream", "astream"])
@pytest.mark.parametrize("level", ["call", "bind", "constructor"])
def test_class_as_response_format_is_parsed(fault_server, call, way, level):
    fault_server.reply(faults.chat('{"city": "Rome"}', reasoning="Hm"))
    options = {"response_format": City}
    llm = ChatVLLM(base_url=fault_server.url, max_retries=0, **(options if level == "constructor" else {}))
    if level == "bind" and "streaming" not in way:
        message = call(way, llm.bind(**options))
    else:
        message = call(way, llm, **({} if level == "constructor" else options))
    assert message.additional_kwargs["parsed"] == City(city="Rome")
    assert message.additional_kwargs["reasoning_content"] == "Hm"
    assert fault_server.posts("/v1/chat/completions")[0].json["response_format"]["json_schema"]["name"] == "City"


@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_tool_call_beside_a_class_is_not_parsed(faulty_llm, fault_server, call, way):
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("add", "{}")]))
    message = call(way, faulty_llm, response_format=City, tools=[{"name": "add"}])
    assert message.tool_calls
    assert "parsed" not in message.additional_kwargs


# A gateway's refusals


def refusal(text):
    """A gateway's reply with a refusal, whole or streamed."""
    whole = payloads.chat("")
    whole["choices"][0]["message"] |= {"content": None, "refusal": text}
    chunks = payloads.chat_chunks("")
    parts = [text[:3], text[3:]]
    deltas = [{**chunks[0], "choices": [{"index": 0, "delta": {"refusal": part}}]} for part in parts]
    streamed = faults.sse(chunks[0], *deltas, chunks[-1])

    async def run(exchange):
        await (streamed if exchange.request.json.get("stream") else faults.json_reply(whole))(exchange)

    return run


# Stock, streamed: the text is lost.
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "invoke_streaming", "stream", "astream"])
def test_refusal_is_a_block_of_the_message(faulty_llm, fault_server, call, way):
    fault_server.reply(refusal("I cannot do that."))
    message = call(way, faulty_llm)
    assert message.additional_kwargs["refusal"] == "I cannot do that."
    [block] = [block for block in message.content_blocks if block["type"] == "refusal"]
    assert block["refusal"] == "I cannot do that."
    assert message.text == "I cannot do that."
    faulty_llm.invoke([("user", "x"), message, ("user", "y")])
    [replayed] = fault_server.posts("/v1/chat/completions")[-1].json["messages"][1]["content"]
    assert replayed["text"] == "I cannot do that."


@pytest.mark.parametrize("run", ["invoke", "stream"])
def test_refusal_of_an_object_is_langchains_error(faulty_llm, fault_server, run):
    fault_server.reply(refusal("I cannot do that."))
    with pytest.raises(lc.ModelRefusalError, match=r"I cannot do that\."):
        list(getattr(faulty_llm.with_structured_output(City), run)("x"))
    raw = faulty_llm.with_structured_output(City, include_raw=True).invoke("x")
    assert isinstance(raw["parsing_error"], lc.ModelRefusalError)
    assert raw["parsed"] is None
    assert raw["raw"].content_blocks[-1]["refusal"] == "I cannot do that."


def test_refusal_ends_an_agent_with_the_middlewares_error(faulty_llm, fault_server):
    fault_server.reply(refusal("I cannot do that."))
    agent = create_agent(faulty_llm, tools=[], middleware=[ModelRefusalMiddleware()])
    with pytest.raises(lc.ModelRefusalError, match=r"I cannot do that\."):
        agent.invoke({"messages": [("user", "x")]})


@pytest.mark.parametrize("run", ["invoke", "stream"])
@pytest.mark.parametrize(("reason", "ours"), [("length", e.TruncatedOutput), ("content_filter", e.FilteredOutput)])
def test_reply_without_an_answer_is_langchains_error(faulty_llm, fault_server, run, reason, ours):
    fault_server.reply(faults.chat('{"city": "Ro', finish_reason=reason))
    for chain in (faulty_llm.with_structured_output(City), faulty_llm.bind(response_format=City)):
        with pytest.raises(ours) as caught:
            list(getattr(chain, run)("x"))
        assert isinstance(caught.value, lc.ModelError)
        assert not caught.value.is_retryable
    fault_server.reply(faults.chat("Sure!"))
    with pytest.raises(e.ConstraintNotEnforced) as caught:
        list(getattr(faulty_llm.bind(response_format=City), run)("x"))
    assert isinstance(caught.value, lc.ModelError)


def test_matches_and_choices_are_plain_texts(faulty_llm, fault_server):
    grammar = ("a", 'root ::= "a"', "grammar")
    for text, schema, method in (("yes", re.compile("yes|no"), None), ("yes", ["yes", "no"], None), grammar):
        fault_server.reply(faults.chat(text))
        found = faulty_llm.with_structured_output(schema, method=method).invoke("x")
        assert type(found) is str
        assert yaml.safe_load(yaml.safe_dump({"found": found})) == {"found": text}
