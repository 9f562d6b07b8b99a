"""VLLM on a real vLLM: what was sent, what came back."""

import json

import pytest

pytest.importorskip("llama_index.llms.openai_like")

import openai
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock, ThinkingBlock

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLM

pytestmark = pytest.mark.vllm("tiny")

CAPITAL = "What is the capital of Japan?"
TOKYO = "The capital of Japan is Tokyo."
THINK = {"enable_thinking": True}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def llm():
    return VLLM(temperature=0, max_retries=0)


@pytest.fixture
def text_llm():
    return VLLM(temperature=0, max_retries=0, is_chat_model=False)


def ask(text=CAPITAL):
    return [ChatMessage(role="user", content=text)]


def thoughts(message):
    return "".join(block.content for block in message.blocks if isinstance(block, ThinkingBlock))


def test_chat(llm, sent):
    response = llm.chat(ask())
    assert response.message.content == TOKYO
    found = response.additional_kwargs
    assert (found["finish_reason"], found["prompt_tokens"] > 0, found["completion_tokens"] > 0) == ("stop", True, True)
    assert found["total_tokens"] == found["prompt_tokens"] + found["completion_tokens"]
    assert found["system_fingerprint"].startswith("vllm-")
    assert response.raw["model"] == "tiny"
    assert sent.last.json == {
        "model": "tiny",
        "messages": [{"role": "user", "content": CAPITAL}],
        "temperature": 0.0,
        "stream": False,
    }


def test_nothing_is_sent_that_was_not_asked_for(sent):
    # Stock: temperature 0.1, over the model's own.
    VLLM().complete("Hello")
    assert sent.last.json.keys() == {"model", "messages", "stream"}


async def test_achat_and_acomplete(llm):
    assert (await llm.achat(ask())).message.content == TOKYO
    assert (await llm.acomplete(CAPITAL)).text == TOKYO


def test_streams_say_all_that_a_reply_says(llm, sent):
    # Stock: no usage and no finish reason.
    responses = list(llm.stream_chat(ask()))
    assert len(responses) > 3
    assert "".join(response.delta for response in responses) == responses[-1].message.content == TOKYO
    last = responses[-1].additional_kwargs
    assert last["finish_reason"] == "stop"
    assert last["completion_tokens"] > 3
    assert sent.last.json["stream_options"] == {"include_usage": True}
    first = responses[1]
    assert first.message.content in TOKYO
    assert "finish_reason" not in first.additional_kwargs


async def test_astream_complete(llm):
    responses = [response async for response in await llm.astream_complete(CAPITAL)]
    assert "".join(response.delta for response in responses) == responses[-1].text == TOKYO
    assert responses[-1].additional_kwargs["finish_reason"] == "stop"


@pytest.mark.parametrize("way", ["chat", "stream"])
def test_reasoning(llm, sent, way):
    if way == "chat":
        response = llm.chat(ask(), chat_template_kwargs=THINK)
    else:
        responses = list(llm.stream_chat(ask(), chat_template_kwargs=THINK))
        response = responses[-1]
        deltas = [found.additional_kwargs.get("thinking_delta") for found in responses]
        assert "".join(filter(None, deltas)) == thoughts(response.message)
    blocks = response.message.blocks
    assert [type(block) for block in blocks] == [ThinkingBlock, TextBlock]
    assert blocks[0].content.strip()
    assert blocks[0].num_tokens == response.additional_kwargs["reasoning_tokens"] > 0
    assert response.message.content.strip() == TOKYO
    assert sent.last.json["chat_template_kwargs"] == THINK


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_reasoning_of_complete(llm, way):
    # Stock: nowhere but in raw.
    asked = {"chat_template_kwargs": THINK}
    response = llm.complete(CAPITAL, **asked) if way == "sync" else await llm.acomplete(CAPITAL, **asked)
    assert response.additional_kwargs["thinking"].strip()
    assert response.text.strip() == TOKYO


async def test_reasoning_of_async_streams_begins_at_the_beginning(llm):
    whole = thoughts(llm.chat(ask(), chat_template_kwargs=THINK).message)
    responses = [found async for found in await llm.astream_chat(ask(), chat_template_kwargs=THINK)]
    deltas = [found.additional_kwargs.get("thinking_delta") for found in responses]
    assert thoughts(responses[-1].message) == "".join(filter(None, deltas)) == whole


def test_replaying_reasoning(llm, sent):
    # Stock: never sent back.
    turn = llm.chat(ask(), chat_template_kwargs=THINK).message
    for replay in (False, True):
        VLLM(temperature=0, replay_reasoning=replay).chat([*ask(), turn, *ask("Hello")])
    silent, replayed = (body["messages"][1] for body in sent.bodies(CHAT)[1:])
    assert "reasoning" not in silent
    assert replayed["reasoning"] == thoughts(turn)


def test_the_call_beats_the_constructor(sent):
    template = {"enable_thinking": True, "a": 1}
    llm = VLLM(
        temperature=0.5,
        max_tokens=50,
        stop=["Japan"],
        top_k=5,
        min_p=0.1,
        chat_template_kwargs=template,
        additional_kwargs={"seed": 1, "extra_body": {"repetition_penalty": 1.1}},
        extra_body={"min_tokens": 1},
    )
    call = {"temperature": 0, "max_tokens": 3, "stop": ["x"], "top_k": 1, "min_p": None}
    response = llm.complete(CAPITAL, **call, chat_template_kwargs={"a": 2}, extra_body={"min_tokens": 2})
    assert response.additional_kwargs["completion_tokens"] == 3
    body = sent.last.json
    assert {name: body[name] for name in ("temperature", "max_tokens", "stop", "top_k")} == {
        "temperature": 0.0,
        "max_tokens": 3,
        "stop": ["x"],
        "top_k": 1,
    }
    assert "min_p" not in body
    assert (body["seed"], body["repetition_penalty"], body["min_tokens"]) == (1, 1.1, 2)
    assert body["chat_template_kwargs"] == {"enable_thinking": True, "a": 2}


def test_constraints_of_every_kind(llm, sent):
    # Stock: no way in; guided_choice has no effect on this server, and no error.
    assert llm.complete("Yes or no?", structured_outputs={"choice": ["yes", "no"]}).text in ("yes", "no")
    assert llm.complete("Yes or no?", guided_choice=["yes", "no"]).text in ("yes", "no")
    year = llm.complete("Which year?", structured_outputs={"regex": r"[0-9]{4}"})
    assert len(year.text) == 4
    assert year.text.isdigit()
    assert llm.complete("?", structured_outputs={"grammar": 'root ::= "ab" | "cd"'}).text in ("ab", "cd")
    tag = {
        "type": "structural_tag",
        "format": {"type": "const_string", "value": "fixed"},
    }
    assert llm.complete("?", structured_outputs={"structural_tag": json.dumps(tag)}).text == "fixed"
    assert [body["structured_outputs"] for body in sent.bodies(CHAT)][:2] == [{"choice": ["yes", "no"]}] * 2


def test_what_vllm_adds_to_replies(llm):
    asked = {"return_token_ids": True, "stop": ["Tokyo"]}
    for response in (
        llm.complete(CAPITAL, prompt_logprobs=1, **asked),
        list(llm.stream_complete(CAPITAL, **asked))[-1],
    ):
        found = response.additional_kwargs
        assert (found["finish_reason"], found["stop_reason"]) == ("stop", "Tokyo")
        assert len(found["token_ids"]) == found["completion_tokens"]
        assert len(found["prompt_token_ids"]) == found["prompt_tokens"]
        assert found["metrics"]["time_to_first_token_ms"] > 0
        assert found["cached_tokens"] >= 0


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("top", [0, 2])
def test_log_probabilities(sent, streamed, top):
    # Stock: none without top_logprobs, none through complete, none in streams.
    llm = VLLM(temperature=0, max_tokens=3, logprobs=True, top_logprobs=top)
    chat = list(llm.stream_chat(ask()))[-1] if streamed else llm.chat(ask())
    completed = list(llm.stream_complete(CAPITAL))[-1] if streamed else llm.complete(CAPITAL)
    for response, text in ((chat, chat.message.content), (completed, completed.text)):
        chosen = [token[0] for token in response.logprobs]
        assert "".join(token.token for token in chosen) == text
        assert all(token.logprob <= 0 for token in chosen)
        assert [len(token) for token in response.logprobs] == [max(1, top)] * 3
        assert len(response.additional_kwargs["logprobs"]["content"]) == 3
    assert (sent.last.json["logprobs"], sent.last.json["top_logprobs"]) == (True, top)
    assert llm.complete(CAPITAL, logprobs=False).logprobs is None
    assert "top_logprobs" not in sent.last.json


@pytest.mark.parametrize("streamed", [False, True])
def test_log_probabilities_of_completions(sent, streamed):
    llm = VLLM(temperature=0, max_tokens=3, logprobs=True, is_chat_model=False)
    response = list(llm.stream_complete("Hello"))[-1] if streamed else llm.complete("Hello")
    assert "".join(token[0].token for token in response.logprobs) == response.text
    assert sent.last.json["logprobs"] == 0
    assert [len(token) for token in llm.complete("Hello", logprobs=True, top_logprobs=2).logprobs] == [2, 2, 2]
    assert (sent.last.json["logprobs"], "top_logprobs" in sent.last.json) == (2, False)


def test_completions(text_llm, sent):
    response = text_llm.complete("Hello", max_tokens=4, top_k=1)
    assert response.text
    assert response.additional_kwargs["finish_reason"] in ("stop", "length")
    assert sent.last.json == {
        "model": "tiny",
        "prompt": "Hello",
        "temperature": 0.0,
        "max_tokens": 4,
        "top_k": 1,
        "stream": False,
    }


async def test_chat_on_completions_loses_nothing(text_llm, sent):
    # Stock: usage moves to the message, all else is lost.
    responses = [
        text_llm.chat(ask(), max_tokens=4),
        await text_llm.achat(ask(), max_tokens=4),
        list(text_llm.stream_chat(ask(), max_tokens=4))[-1],
        [found async for found in await text_llm.astream_chat(ask(), max_tokens=4)][-1],
    ]
    assert len({response.message.content for response in responses}) == 1
    for response in responses:
        assert response.additional_kwargs["finish_reason"] == "length"
        assert response.additional_kwargs["completion_tokens"] == 4
    assert sent.bodies(TEXT)[0]["prompt"].startswith("user: What is")


def test_one_call_on_the_other_endpoint(llm, sent):
    # Stock: a TypeError of the SDK.
    assert llm.complete("Hello", use_chat_completions=False, max_tokens=2).text
    assert [request.path for request in sent if request.method == "POST"] == [TEXT]


def test_a_parameter_that_the_endpoint_lacks_is_refused(text_llm, sent):
    with pytest.raises(e.UnknownParameter, match="chat_template_kwargs"):
        text_llm.complete("Hello", chat_template_kwargs=THINK)
    assert not sent


def test_the_context_window_is_the_servers(llm, sent):
    # Stock: 3900.
    metadata = llm.metadata
    assert metadata.is_chat_model
    assert metadata.is_function_calling_model
    llm.to_payload()
    assert not sent
    assert metadata.context_window == llm.metadata.context_window == 2048
    assert len(sent) == 1
    assert llm.to_payload()["context_window"] == 2048
    assert VLLM(context_window=100).metadata.context_window == 100


def test_from_server(vllm_url, sent):
    for server in (vllm_url, VLLMServer(vllm_url), None):
        llm = VLLM.from_server(server, temperature=0)
        assert (llm.model, llm.context_window, llm.temperature) == ("tiny", 2048, 0)
    before = len(sent)
    assert llm.metadata.model_name == "tiny"
    assert VLLM.from_dict(llm.to_dict()).metadata.context_window == 2048
    assert len(sent) == before


def test_a_model_that_cannot_see(llm, sent):
    picture = ImageBlock(image=b"\x89PNG\r\n\x1a\n", image_mimetype="image/png")
    with pytest.raises(openai.BadRequestError, match=r"(?i)image|multimodal"):
        llm.chat([ChatMessage(role="user", blocks=[TextBlock(text="What is this?"), picture])])
    assert sent.last.json["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")


def test_errors(llm):
    with pytest.raises(openai.NotFoundError, match="It serves: tiny"):
        llm.complete(CAPITAL, model="nope")
    with pytest.raises(e.ContextLengthExceeded, match="--max-model-len"):
        llm.complete("word " * 5000)
    for call in (llm.complete, lambda *a, **k: list(llm.stream_complete(*a, **k))):
        with pytest.raises(openai.BadRequestError, match="Invalid grammar"):
            call(CAPITAL, structured_outputs={"grammar": "root ::= ((("})


class TestLoRA:
    """An adapter is a model name of its own, with its base model's context."""

    pytestmark = pytest.mark.vllm("tiny", lora=True)

    def test_a_lora_adapter_by_name(self, sent):
        base, adapter = VLLM.from_server(max_tokens=4), VLLM("tiny-lora", temperature=0, max_tokens=4)
        assert (base.model, adapter.metadata.context_window) == ("tiny", 2048)
        assert adapter.complete("Hello").raw["model"] == "tiny-lora"
        assert base.complete("Hello", model="tiny-lora").raw["model"] == "tiny-lora"
        assert base.model_copy(update={"model": "tiny-lora"}).complete("Hello").raw["model"] == "tiny-lora"
        assert [body["model"] for body in sent.bodies(CHAT)] == ["tiny-lora"] * 3
