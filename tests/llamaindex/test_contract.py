"""What LlamaIndex expects of an LLM class, on both endpoints of a real vLLM.

The stock ``OpenAILike`` fails usage, finish reason, ``max_tokens`` of a call, context window, log probabilities
through ``complete`` and vLLM's parameters here; LlamaIndex has no suite of its own to run.
"""

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.llms.openai_like import OpenAILike

from vllm_adapters.llamaindex import VLLM

pytestmark = pytest.mark.vllm("tiny")

CAPITAL = "What is the capital of Japan?"
MESSAGES = [ChatMessage(role="user", content=CAPITAL)]


@pytest.fixture(params=[True, False], ids=["chat", "completions"])
def llm(request):
    return VLLM(temperature=0, max_tokens=4, is_chat_model=request.param)


def test_is_an_llm(llm):
    assert isinstance(llm, LLM)
    assert isinstance(llm, FunctionCallingLLM)
    assert isinstance(llm, OpenAILike)
    assert llm.class_name() == "VLLM"


def test_complete(llm):
    response = llm.complete(CAPITAL)
    assert isinstance(response, CompletionResponse)
    assert str(response) == response.text != ""


async def test_acomplete(llm):
    assert (await llm.acomplete(CAPITAL)).text


def test_chat(llm):
    response = llm.chat(MESSAGES)
    assert isinstance(response, ChatResponse)
    assert response.message.role == "assistant"
    assert response.message.content


async def test_achat(llm):
    assert (await llm.achat(MESSAGES)).message.content


def test_stream_complete(llm):
    responses = list(llm.stream_complete(CAPITAL))
    assert len(responses) > 1
    assert "".join(response.delta for response in responses) == responses[-1].text == llm.complete(CAPITAL).text


async def test_astream_complete(llm):
    responses = [response async for response in await llm.astream_complete(CAPITAL)]
    assert "".join(response.delta for response in responses) == responses[-1].text


def test_stream_chat(llm):
    responses = list(llm.stream_chat(MESSAGES))
    text = "".join(response.delta for response in responses)
    assert text == responses[-1].message.content == llm.chat(MESSAGES).message.content


async def test_astream_chat(llm):
    responses = [response async for response in await llm.astream_chat(MESSAGES)]
    assert "".join(response.delta for response in responses) == responses[-1].message.content


async def test_sync_and_async_send_the_same(llm, sent):
    assert llm.complete(CAPITAL).text == (await llm.acomplete(CAPITAL)).text
    assert llm.chat(MESSAGES).message.content == (await llm.achat(MESSAGES)).message.content
    list(llm.stream_chat(MESSAGES))
    [found async for found in await llm.astream_chat(MESSAGES)]
    bodies = [request.json for request in sent if request.method == "POST"]
    assert bodies[0::2] == bodies[1::2]


def test_dict_round_trip(llm, sent):
    copy = VLLM.from_dict(llm.to_dict())
    assert copy.chat(MESSAGES).message.content == llm.chat(MESSAGES).message.content
    bodies = [request.json for request in sent if request.method == "POST"]
    assert bodies[0] == bodies[1]


async def test_usage(llm):
    for found in (llm.chat(MESSAGES), await llm.achat(MESSAGES), llm.complete(CAPITAL), await llm.acomplete(CAPITAL)):
        counts = found.additional_kwargs
        assert counts["prompt_tokens"] + counts["completion_tokens"] == counts["total_tokens"] > 1


async def test_usage_of_streams(llm):
    streams = [
        list(llm.stream_chat(MESSAGES)),
        list(llm.stream_complete(CAPITAL)),
        [found async for found in await llm.astream_chat(MESSAGES)],
        [found async for found in await llm.astream_complete(CAPITAL)],
    ]
    for responses in streams:
        assert responses[-1].additional_kwargs["completion_tokens"] > 0


def test_finish_reason(llm):
    for found in (llm.chat(MESSAGES, max_tokens=2), llm.complete(CAPITAL, max_tokens=2)):
        assert found.additional_kwargs["finish_reason"] == "length"
    for responses in (llm.stream_chat(MESSAGES, max_tokens=2), llm.stream_complete(CAPITAL, max_tokens=2)):
        assert list(responses)[-1].additional_kwargs["finish_reason"] == "length"


def test_max_tokens_of_a_call_overrides_the_constructor(llm, sent):
    assert llm.complete(CAPITAL, max_tokens=2).additional_kwargs["completion_tokens"] == 2
    assert sent.last.json["max_tokens"] == 2


def test_context_window(llm):
    assert llm.metadata.context_window == 2048
    assert llm.metadata.num_output == 4


def test_complete_has_logprobs(llm):
    found = llm.complete(CAPITAL, logprobs=True, top_logprobs=1).logprobs
    assert "".join(token[0].token for token in found) == llm.complete(CAPITAL).text


def test_vllm_parameter_is_sent(llm, sent):
    llm.complete(CAPITAL, top_k=1)
    llm.chat(MESSAGES, top_k=1)
    assert [request.json["top_k"] for request in sent if request.method == "POST"] == [1, 1]


def test_chat_does_not_send_the_system_prompt(llm, sent):
    # LlamaIndex's convention: `predict` and its like send it, `chat` sends the messages it is given.
    llm.system_prompt = "Be brief."
    llm.chat(MESSAGES)
    assert "brief" not in str(sent.last.json)
