"""Haystack's agents, chunks and saved components where gateways and models do what they should not."""

import asyncio
import pickle

import pytest

pytest.importorskip("haystack")

from haystack import Document
from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage
from haystack.tools import tool
from haystack.utils import Secret

from vllm_adapters.errors import WrongAddress
from vllm_adapters.haystack import VLLMChatGenerator, VLLMDocumentEmbedder
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@pytest.fixture(params=["run", "run_async"])
def ask(request, fault_server):
    agent = Agent(
        chat_generator=VLLMChatGenerator(api_base_url=fault_server.url, max_retries=0),
        tools=[weather],
        max_agent_steps=4,
    )
    messages = [ChatMessage.from_user("What is the weather?")]
    return lambda: agent.run(messages) if request.param == "run" else asyncio.run(agent.run_async(messages))


def _calls(*texts, **changes):
    made = [{**payloads.tool_call("weather", text), **changes} for text in texts]
    return faults.chat(tool_calls=made, finish_reason="tool_calls")


@pytest.mark.parametrize("id", [None, ""])
def test_calls_without_ids_find_their_results(fault_server, ask, id):
    # Haystack would raise ValueError when it sends them back, with the tools already run.
    fault_server.script(CHAT, [_calls('{"city": "Rome"}', '{"city": "Oslo"}', id=id)])
    ask()
    _, said, *results = fault_server.posts(CHAT)[-1].json["messages"]
    ids = [call["id"] for call in said["tool_calls"]]
    assert all(ids)
    assert len(set(ids)) == 2
    assert [(result["tool_call_id"], result["content"]) for result in results] == [
        (ids[0], "sunny in Rome"),
        (ids[1], "sunny in Oslo"),
    ]


def test_an_agent_whose_model_makes_broken_calls_sends_no_empty_turns(fault_server, ask):
    fault_server.reply(_calls('{"city": "Ro'))
    assert ask()["exit_reason"] == "max_agent_steps"
    assert [len(request.json["messages"]) for request in fault_server.posts(CHAT)] == [1, 1, 1, 1]


def test_deltas_of_interleaved_calls_are_of_their_own_blocks(fault_server):
    parts = [(0, "weather", '{"city": '), (1, "weather", '{"city": '), (0, None, '"Rome"}'), (1, None, '"Oslo"}')]
    made = [{"index": at, "function": {"name": name, "arguments": text}} for at, name, text in parts]
    texts = [{"content": "I look."}, *({"tool_calls": [call]} for call in made), {"content": " Wait."}]
    fault_server.reply(faults.deltas(*texts, finish_reason="tool_calls"))
    chunks = []
    VLLMChatGenerator(api_base_url=fault_server.url).run("hi", streaming_callback=chunks.append)
    said = [(chunk.index, chunk.start) for chunk in chunks if chunk.index is not None]
    assert said == [(0, True), (1, True), (2, True), (1, False), (2, False), (3, True)]


def test_a_document_that_cannot_be_sent_fails_alone(fault_server):
    documents = [Document(content="one"), Document(id="broken", content="tw\ud83d")]
    found = VLLMDocumentEmbedder(api_base_url=fault_server.url, progress_bar=False).run(documents)
    assert [document.embedding is None for document in found["documents"]] == [False, True]
    assert [failure["id"] for failure in found["meta"]["failures"]] == ["broken"]


@pytest.mark.parametrize("option", [{"proxy": "http://me:canary@proxy:3128"}, {"auth": ("me", "canary")}], ids=str)
def test_passwords_in_http_client_kwargs_are_neither_saved_nor_pickled(option):
    llm = VLLMChatGenerator(http_client_kwargs={"trust_env": False, **option})
    with pytest.raises(ValueError, match="Cannot serialize") as caught:
        llm.to_dict()
    assert "canary" not in str(caught.value)
    packed = pickle.dumps(llm)
    assert b"canary" not in packed
    assert pickle.loads(packed).http_client_kwargs == {"trust_env": False}


def test_a_proxy_as_a_secret(make_fault_server, monkeypatch):
    proxy = make_fault_server()
    monkeypatch.setenv("PROXY", proxy.url.replace("://", "://me:canary@").removesuffix("/v1"))
    llm = VLLMChatGenerator(
        model="stub", api_base_url="http://vllm.invalid", http_client_kwargs={"proxy": Secret.from_env_var("PROXY")}
    )
    saved = llm.to_dict()
    assert "canary" not in str(saved)
    with pytest.raises(WrongAddress):  # it is no proxy
        VLLMChatGenerator.from_dict(saved).run("one two")
    assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")
    plain = VLLMChatGenerator(http_client_kwargs={"proxy": "http://proxy:3128"})
    assert plain.to_dict()["init_parameters"]["http_client_kwargs"] == {"proxy": "http://proxy:3128"}
