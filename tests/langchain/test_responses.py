"""The way to ``/v1/responses`` in LangChain: its own class on our clients, which keep their checks."""

import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from vllm_adapters import AsyncVLLMClient, VLLMClient
from vllm_adapters import errors as e
from vllm_adapters.testing import faults


class City(BaseModel):
    city: str


def chat(url, **settings):
    client, async_client = VLLMClient(url, max_retries=0), AsyncVLLMClient(url, max_retries=0)
    return ChatOpenAI(
        use_responses_api=True,
        api_key="unused",
        client=client.responses,
        root_client=client,
        async_client=async_client.responses,
        root_async_client=async_client,
        **settings,
    )


@pytest.mark.vllm("tiny")
async def test_chat_openai_on_our_clients(vllm_url, sent):
    llm = chat(vllm_url, model="tiny", temperature=0, extra_body={"top_k": 1})
    assert llm.invoke("Hello").text == "Hello! I am a tiny test model."
    assert sent.last.path == "/v1/responses"
    assert sent.last.json["top_k"] == 1
    assert "".join(chunk.text for chunk in llm.stream("Hello")) == "Hello! I am a tiny test model."
    assert (await llm.ainvoke("Hello")).text == "Hello! I am a tiny test model."
    assert isinstance(llm.with_structured_output(City).invoke("Name a city."), City)


def test_unknown_name_is_refused(fault_server):
    with pytest.raises(openai.OpenAIError, match="`topk`") as caught:
        chat(fault_server.url, model="stub", extra_body={"topk": 1}).invoke("Hello")
    assert isinstance(caught.value.__cause__, e.UnknownParameter)
    assert fault_server.requests == []


def test_truncated_stream_raises(fault_server):
    started = {"type": "response.created", "sequence_number": 0, "response": {"id": "r", "model": "stub", "output": []}}
    fault_server.reply(faults.sse(started, end="clean"), "/v1/responses")
    with pytest.raises(openai.APIConnectionError, match="ended without a finish reason") as caught:
        list(chat(fault_server.url, model="stub").stream("Hello"))
    assert isinstance(caught.value.__cause__, e.IncompleteStream)
