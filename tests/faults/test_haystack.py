"""Haystack's components against a server that fails as it is told to: errors, whole streams, loops, order, bodies."""

import asyncio
import base64
import copy
import json
import logging
import pickle
import subprocess
import sys
import time

import openai
import pytest

pytest.importorskip("haystack")

from haystack import Document, Pipeline
from haystack.components.agents import Agent
from haystack.components.builders import ChatPromptBuilder
from haystack.components.generators.chat import FallbackChatGenerator
from haystack.components.retrievers import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ChatMessage, FileContent, ImageContent, TextContent, ToolCall
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.tools import tool
from haystack.utils import Secret

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.haystack import (
    VLLMChatGenerator,
    VLLMDocumentEmbedder,
    VLLMRanker,
    VLLMTextEmbedder,
    VLLMTokenCounter,
)
from vllm_adapters.testing import faults, payloads
from vllm_adapters.testing.faults import healthy

CHAT = "/v1/chat/completions"
EMBED = "/v1/embeddings"
RERANK = "/v1/rerank"
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def ping() -> str:
    """Needs nothing."""
    return "pong"


@pytest.fixture
def llm(fault_server):
    return VLLMChatGenerator(api_base_url=fault_server.url, max_retries=0, timeout=5)


def run(llm, messages="one two", **inputs):
    return llm.run(messages, **inputs)["replies"]


def run_async(llm, messages="one two", **inputs):
    return asyncio.run(llm.run_async(messages, **inputs))["replies"]


def stream(llm, messages="one two", chunks=None, **inputs):
    return run(llm, messages, streaming_callback=([] if chunks is None else chunks).append, **inputs)


def stream_async(llm, messages="one two", chunks=None, **inputs):
    found = [] if chunks is None else chunks

    async def keep(chunk):
        found.append(chunk)

    return run_async(llm, messages, streaming_callback=keep, **inputs)


every_way = pytest.mark.parametrize("ask", [run, run_async, stream, stream_async], ids=lambda f: f.__name__)
streamed = pytest.mark.parametrize("ask", [stream, stream_async], ids=lambda f: f.__name__)
both = pytest.mark.parametrize("is_async", [False, True], ids=["run", "run_async"])


def out(component, is_async, *args, **kwargs):
    if is_async:
        return asyncio.run(component.run_async(*args, **kwargs))
    return component.run(*args, **kwargs)


# Chat: failures

FAILURES = [
    (faults.error(401, "Unauthorized", shape="string"), e.AuthenticationFailed),
    (faults.error(404, "Not Found", shape="detail"), e.WrongAddress),
    (faults.error(404, "`m` does not exist.", param="model"), e.ModelNotServed),
    (faults.error(400, "bad", param="x"), e.InvalidRequest),
    (faults.error(429), e.RateLimited),
    (faults.error(500), e.ServerFailed),
    (faults.loading(), e.ServerNotReady),
    (faults.hang_up(), e.ServerUnreachable),
    (faults.html(), e.InvalidResponse),
    (faults.html(502), e.ServerFailed),
]


@every_way
@pytest.mark.parametrize(("behaviour", "error"), FAILURES)
def test_failures_of_chat(llm, fault_server, ask, behaviour, error):
    fault_server.reply(behaviour)
    with pytest.raises(error) as caught:
        ask(llm)
    assert isinstance(caught.value, openai.OpenAIError)


@streamed
@pytest.mark.parametrize("end", ["clean", "close"])
def test_a_cut_stream_is_no_reply(llm, fault_server, ask, end):
    # vllm-haystack takes a clean end for the end of the reply; other ends raise httpx's own errors there.
    fault_server.reply(faults.sse(*payloads.chat_chunks("one two three", finish_reason=None), end=end))
    with pytest.raises(e.IncompleteStream) as caught:
        ask(llm)
    assert caught.value.partial == "one two three"


@streamed
def test_an_error_in_the_stream(llm, fault_server, ask):
    fault_server.reply(faults.error_event("the engine died", after=3))
    with pytest.raises(e.ServerFailed, match="the engine died"):
        ask(llm)


@every_way
def test_an_ignored_constraint(llm, fault_server, ask):
    fault_server.reply(faults.chat("Sure!"))
    with pytest.raises(e.ConstraintNotEnforced):
        ask(llm, generation_kwargs={"structured_outputs": {"choice": ["yes", "no"]}})


@every_way
@pytest.mark.parametrize("status", [429, 503])
def test_one_layer_of_retries(fault_server, ask, status):
    fault_server.reply(faults.error(status))
    with pytest.raises(openai.APIStatusError):
        ask(VLLMChatGenerator(api_base_url=fault_server.url, max_retries=1))
    assert len(fault_server.posts(CHAT)) == 2


def test_time_limits(fault_server):
    fault_server.reply(faults.hang())
    for options in (
        {"timeout": 0.4},
        {"timeout": {"connect": 5, "idle": 0.4, "total": 9}},
        {"http_client_kwargs": {"timeout": 0.4}},
    ):
        component = VLLMChatGenerator(api_base_url=fault_server.url, max_retries=0, **options)
        with pytest.raises(e.ServerTimeout):
            run(component)
    limits = VLLMChatGenerator(api_base_url=fault_server.url)._sync().time_limits
    assert (limits.connect, limits.idle, limits.total) == (30, 600, 3600)


# Chat: nothing lost, nothing repaired

MIXED = [
    ({"reasoning": "because", "content": "six"}, ("because", "six", 0)),
    (
        {"reasoning": "because", "tool_calls": [payloads.tool_call("add", '{"a": 1, "b": 2}', index=0)]},
        ("because", None, 1),
    ),
    ({"content": "six", "tool_calls": [payloads.tool_call("add", '{"a": 1, "b": 2}', index=0)]}, (None, "six", 1)),
]


@streamed
@pytest.mark.parametrize(("delta", "whole"), MIXED, ids=["reasoning+text", "reasoning+call", "text+call"])
def test_chunks_with_several_kinds_lose_nothing(llm, fault_server, ask, delta, whole):
    # vllm-haystack loses the text, drops the call, and raises ValueError.
    chunks = []
    fault_server.reply(faults.deltas(delta))
    (reply,) = ask(llm, chunks=chunks)
    thought = reply.reasoning and reply.reasoning.reasoning_text
    assert (thought, reply.text, len(reply.tool_calls)) == whole
    assert [call.arguments for call in reply.tool_calls] == [{"a": 1, "b": 2}] * whole[2]
    assert [chunk.index for chunk in chunks if chunk.start] == [0, 1]


@streamed
@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "repetition"])
def test_a_finish_reason_with_the_last_thought(llm, fault_server, ask, reason):
    # vllm-haystack loses it on chunks of reasoning, and does not know vLLM's own reasons.
    chunks = []
    last = payloads.chunk({"reasoning": "because"}, finish_reason=reason)
    last["choices"][0]["logprobs"] = {"content": [{"token": "because", "logprob": -0.1, "top_logprobs": []}]}
    last["choices"][0]["stop_reason"] = "x"
    fault_server.reply(faults.sse(payloads.chunk({"role": "assistant", "content": ""}), last))
    (reply,) = ask(llm, chunks=chunks)
    assert reply.meta["finish_reason"] == chunks[-1].finish_reason == reason
    assert reply.meta["stop_reason"] == "x"
    assert reply.meta["logprobs"]["content"][0]["token"] == "because"


@every_way
def test_a_reply_that_the_server_gave_up(llm, fault_server, ask):
    # vllm-haystack returns what there is, with no finish reason when it streams.
    fault_server.reply(faults.chat("half of", finish_reason="abort"))
    with pytest.raises(e.ServerFailed, match="gave the reply up") as caught:
        ask(llm)
    assert caught.value.partial == "half of"


@every_way
def test_the_old_name_of_reasoning(llm, fault_server, ask):
    fault_server.reply(faults.chat("six", reasoning="because", legacy_reasoning=True))
    (reply,) = ask(llm)
    assert (reply.reasoning.reasoning_text, reply.text) == ("because", "six")


def _calls(ask, *calls):
    streams = ask in (stream, stream_async)
    made = [payloads.tool_call(name, text, index=at if streams else None) for at, (name, text) in enumerate(calls)]
    return faults.chat(tool_calls=made, finish_reason="tool_calls")


@every_way
@pytest.mark.parametrize("arguments", ["", "{}"])
def test_a_tool_without_arguments(llm, fault_server, ask, arguments):
    # vllm-haystack drops the call with no text for arguments unless it streams.
    fault_server.reply(_calls(ask, ("ping", arguments)))
    (reply,) = ask(llm, tools=[ping])
    assert [(call.tool_name, call.arguments) for call in reply.tool_calls] == [("ping", {})]
    assert "invalid_tool_calls" not in reply.meta


@every_way
@pytest.mark.parametrize("arguments", ['{"a": 1', "[1]", "one"])
def test_broken_calls_are_visible_and_never_run(llm, fault_server, ask, arguments, caplog):
    fault_server.reply(_calls(ask, ("add", '{"a": 1, "b": 2}'), ("add", arguments)))
    (reply,) = ask(llm, tools=[add])
    assert [call.arguments for call in reply.tool_calls] == [{"a": 1, "b": 2}]
    (broken,) = reply.meta["invalid_tool_calls"]
    assert (broken["name"], broken["arguments"]) == ("add", arguments)
    assert broken["error"]
    assert "add" in caplog.text


@every_way
def test_cached_tokens(llm, fault_server, ask):
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 1,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    if ask in (run, run_async):
        fault_server.reply(faults.json_reply({**payloads.chat("hi"), "usage": usage}))
    else:
        chunks = payloads.chat_chunks("hi")
        fault_server.reply(faults.sse(*chunks, {**chunks[-1], "choices": [], "usage": usage}))
    assert ask(llm)[0].meta["usage"]["prompt_tokens_details"] == {"cached_tokens": 8}


# Chat: callbacks, loops, servers


def test_a_callback_that_raises_releases_the_server(llm, fault_server):
    fault_server.reply(faults.chat("word " * 400, pause=0.05))

    def fail(chunk):
        raise LookupError

    with pytest.raises(LookupError):
        llm.run("x", streaming_callback=fail)
    assert fault_server.wait_for(lambda: fault_server.posts(CHAT)[0].disconnected_at is not None, timeout=1)


@pytest.mark.parametrize("how", ["raise", "cancel"])
def test_an_async_callback_that_raises_releases_the_server(llm, fault_server, how):
    fault_server.reply(faults.chat("word " * 400, pause=0.05))

    async def fail(chunk):
        if how == "raise":
            raise LookupError
        await asyncio.sleep(60)

    async def ask():
        with pytest.raises(LookupError if how == "raise" else TimeoutError):
            await asyncio.wait_for(llm.run_async("x", streaming_callback=fail), 0.5)
        await asyncio.sleep(0.3)

    asyncio.run(ask())
    assert fault_server.posts(CHAT)[0].disconnected_at is not None


def test_a_sync_callback_in_a_coroutine(llm):
    chunks = []
    asyncio.run(llm.run_async("one two", streaming_callback=chunks.append))
    assert "".join(chunk.content for chunk in chunks) == "one two"


def test_three_event_loops(llm, fault_server):
    assert [run_async(llm)[0].text for _ in range(3)] == ["one two"] * 3
    assert len(fault_server.posts(CHAT)) == 3


def test_closed_and_warmed_up_again(llm):
    async def closed():
        await llm.run_async("hi")
        await llm.close_async()
        await llm.close_async()
        return await llm.run_async("hi")

    assert asyncio.run(closed())["replies"][0].text == "hi"
    assert run(llm)[0].text == "one two"
    llm.close()
    llm.close()
    assert run(llm)[0].text == "one two"


def test_a_server_object_instead_of_an_address(make_fault_server):
    fault_server = make_fault_server(models=("one", "two"))
    server = VLLMServer(fault_server.url, api_key="sk-of-the-server", model="two", max_retries=0)
    llm = VLLMChatGenerator(server=server)
    assert run(llm)[0].text == "one two"
    llm.close()
    assert server.models()
    request = fault_server.posts(CHAT)[0]
    assert (request.headers["authorization"], request.json["model"]) == ("Bearer sk-of-the-server", "two")
    saved = llm.to_dict()["init_parameters"]
    assert (saved["api_base_url"], saved["model"]) == (server.base_url, "two")
    assert "sk-of" not in str(saved)


def test_a_server_object_and_another_address():
    server = VLLMServer("http://a:1")
    assert VLLMChatGenerator(server=server, api_base_url="http://a:1/").api_base_url == "http://a:1/v1"
    for cls in (VLLMChatGenerator, VLLMTextEmbedder, VLLMDocumentEmbedder, VLLMRanker, VLLMTokenCounter):
        for given in ({"api_base_url": "http://b:1"}, {"server_version": "0.10.2"}):
            with pytest.raises(ValueError, match="Give either server or"):
                cls(server=server, **given)


@both
def test_another_model_of_a_server_object(make_fault_server, is_async):
    fault_server = make_fault_server(models=("one", "two", "three"))
    for model in (None, "three"):
        there = {"server": VLLMServer(fault_server.url, model="two"), "model": model}
        out(VLLMChatGenerator(**there), is_async, "hi")
        out(VLLMTextEmbedder(**there), is_async, "hi")
        out(VLLMDocumentEmbedder(**there, progress_bar=False), is_async, [Document(content="hi")])
        out(VLLMRanker(**there), is_async, "hi", [Document(content="hi")])
        VLLMTokenCounter(**there).count([ChatMessage.from_user("hi")])
    assert [request.json["model"] for request in fault_server.posts()] == ["two"] * 5 + ["three"] * 5


@both
def test_a_cut_stream_falls_back(make_fault_server, is_async):
    cut, whole = make_fault_server(), make_fault_server()
    cut.reply(faults.sse(*payloads.chat_chunks("one two", finish_reason=None), end="clean"))
    both = [VLLMChatGenerator(api_base_url=server.url, max_retries=0) for server in (cut, whole)]
    found = out(FallbackChatGenerator(both), is_async, "hello", streaming_callback=[].append)
    assert found["replies"][0].text == "hello"
    assert found["meta"]["successful_chat_generator_index"] == 1


def test_an_agent_does_not_take_a_cut_stream_for_its_answer(fault_server):
    fault_server.reply(faults.sse(*payloads.chat_chunks("one two", finish_reason=None), end="clean"))
    agent = Agent(chat_generator=VLLMChatGenerator(api_base_url=fault_server.url, max_retries=0), tools=[add])
    with pytest.raises(Exception, match="broke off"):
        agent.run([ChatMessage.from_user("hi")], streaming_callback=[].append)


# Chat: what is sent


def test_refused_before_sending(llm, fault_server):
    for ask in (run, run_async, stream, stream_async):
        with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
            ask(llm, generation_kwargs={"topk": 1})
        with pytest.raises(e.InvalidRequest, match="top_k"):
            ask(llm, generation_kwargs={"top_k": "x"})
        with pytest.raises(e.InvalidRequest, match="streaming_callback"):
            ask(llm, generation_kwargs={"stream": True})
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
        VLLMChatGenerator(generation_kwargs={"topk": 1})
    with pytest.raises(e.UnknownParameter):
        run(llm, generation_kwargs={"extra_body": {"plugin": 1}})
    assert not fault_server.requests
    run(llm, generation_kwargs={"extra_body": {"plugin": 1}, "allow_unknown": True})
    assert fault_server.posts(CHAT)[0].json["plugin"] == 1


def test_the_run_beats_the_constructor_in_extra_body_and_under_the_limits_other_name(fault_server):
    given = {"max_completion_tokens": 5, "extra_body": {"temperature": 1}}
    llm = VLLMChatGenerator(api_base_url=fault_server.url, generation_kwargs=given)
    run(llm, generation_kwargs={"max_tokens": 7, "temperature": 0})
    body = fault_server.posts(CHAT)[0].json
    assert (body["max_tokens"], body["temperature"], "max_completion_tokens" in body) == (7, 0, False)


def test_another_model_for_one_run(make_fault_server):
    server = make_fault_server(models=("base", {"id": "my-lora", "parent": "base", "root": "/lora"}))
    llm = VLLMChatGenerator(api_base_url=server.url)
    run(llm)
    run(llm, generation_kwargs={"model": "my-lora"})
    assert [request.json["model"] for request in server.posts(CHAT)] == ["base", "my-lora"]


def test_an_old_server_gets_its_own_names(make_fault_server):
    server = make_fault_server(version="0.10.2")
    run(
        VLLMChatGenerator(api_base_url=server.url), "yes", generation_kwargs={"structured_outputs": {"choice": ["yes"]}}
    )
    assert server.posts(CHAT)[0].json["guided_choice"] == ["yes"]


def test_images_audio_and_video(llm, fault_server):
    file = {"base64_data": PIXEL, "validation": False}
    parts = [
        TextContent("What is this?"),
        ImageContent(base64_image=PIXEL, mime_type="image/png", validation=False),
        FileContent(mime_type="audio/wav", **file),
        FileContent(mime_type="video/mp4", **file),
        FileContent(mime_type="image/webp", **file),
    ]
    run(llm, [ChatMessage.from_user(content_parts=parts)])
    assert fault_server.posts(CHAT)[0].json["messages"][0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{PIXEL}"}},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{PIXEL}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/webp;base64,{PIXEL}"}},
    ]
    with pytest.raises(e.InvalidRequest, match="application/pdf"):
        run(llm, [ChatMessage.from_user(content_parts=[FileContent(mime_type="application/pdf", **file)])])


def test_an_image_from_a_tool(llm, fault_server):
    image = ImageContent(base64_image=PIXEL, mime_type="image/png", validation=False)
    call = ToolCall(id="1", tool_name="camera", arguments={})
    messages = [
        ChatMessage.from_user("look"),
        ChatMessage.from_assistant(tool_calls=[call]),
        ChatMessage.from_tool([TextContent("here"), image], origin=call),
    ]
    run(llm, messages)
    assert fault_server.posts(CHAT)[0].json["messages"][2] == {
        "role": "tool",
        "tool_call_id": "1",
        "content": [
            {"type": "text", "text": "here"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        ],
    }


def test_reasoning_is_sent_back_on_request_only(fault_server):
    messages = [
        ChatMessage.from_user("why?"),
        ChatMessage.from_assistant("six", reasoning="because"),
        ChatMessage.from_user("really?"),
    ]
    for replay in (False, True):
        run(VLLMChatGenerator(api_base_url=fault_server.url, replay_reasoning=replay), messages)
    quiet, replayed = (request.json["messages"][1] for request in fault_server.posts(CHAT))
    assert quiet == {"role": "assistant", "content": "six"}
    assert replayed == {"role": "assistant", "content": "six", "reasoning": "because"}


def test_empty_and_wrong_messages(llm, fault_server):
    assert run(llm, []) == run_async(llm, []) == []
    with pytest.raises(TypeError):
        run(llm, [1])
    assert not fault_server.requests


# Keys


def test_the_key(make_fault_server, monkeypatch):
    server = make_fault_server(api_key="sk-there")
    llm = VLLMChatGenerator(api_base_url=server.url, max_retries=0)
    with pytest.raises(e.AuthenticationFailed):
        run(llm)
    monkeypatch.setenv("VLLM_API_KEY", "sk-there")
    llm.close()
    assert run(llm)[0].text == "one two"
    with pytest.raises(e.AuthenticationFailed):
        run(VLLMChatGenerator(api_base_url=server.url, api_key=None, max_retries=0))
    strict = VLLMRanker(api_base_url=server.url, api_key=Secret.from_env_var("NO_SUCH_KEY"))
    with pytest.raises(ValueError, match="NO_SUCH_KEY"):
        strict.warm_up()
    with pytest.raises(TypeError, match="must be a haystack") as caught:
        VLLMChatGenerator(api_key="sk-canary")
    assert "canary" not in str(caught.value)


def test_no_key_anywhere(make_fault_server, caplog):
    key = "sk-canary"
    server = make_fault_server(api_key=key)
    options = {"api_base_url": server.url, "api_key": Secret.from_token(key), "max_retries": 0}
    llm, embedder, ranker = VLLMChatGenerator(**options), VLLMTextEmbedder(**options), VLLMRanker(**options)
    shown = []
    with caplog.at_level(logging.DEBUG):
        run(llm)
        stream(llm)
        embedder.run("hi")
        ranker.run("hi", [Document(content="a")])
        for component in (llm, embedder, ranker):
            shown += [repr(component), str(component), repr(component._client)]
            with pytest.raises(ValueError, match="token-based secret"):
                component.to_dict()
        server.reply(faults.error(401, "Unauthorized", shape="string"))
        try:
            run(llm)
        except e.AuthenticationFailed as error:
            shown += [str(error), str(vars(error)), repr(pickle.dumps(error))]
    for text in (*shown, caplog.text):
        assert key not in text


@pytest.mark.parametrize("cls", [VLLMChatGenerator, VLLMTextEmbedder, VLLMDocumentEmbedder, VLLMRanker])
def test_copies_and_pickles(make_fault_server, monkeypatch, cls):
    server = make_fault_server(api_key="sk-canary")
    component = cls(api_base_url=server.url, api_key=Secret.from_token("sk-canary"), max_retries=0)
    component.warm_up()
    for copied in (copy.copy(component), copy.deepcopy(component)):
        assert copied._sync().models.list().data
    packed = pickle.dumps(component)
    assert b"canary" not in packed
    assert isinstance(pickle.loads(packed), cls)
    monkeypatch.setenv("VLLM_API_KEY", "sk-canary")
    assert pickle.loads(packed)._sync().models.list().data


def test_a_counter_in_a_pickle(make_fault_server, monkeypatch):
    server = make_fault_server(api_key="sk-canary")
    counter = VLLMTokenCounter(api_base_url=server.url, api_key=Secret.from_token("sk-canary"), max_retries=0)
    size = counter.count([ChatMessage.from_user("one two")])
    packed = pickle.dumps(counter)
    assert b"canary" not in packed
    monkeypatch.setenv("VLLM_API_KEY", "sk-canary")
    assert pickle.loads(packed).count([ChatMessage.from_user("one two")]) == size


# Embedders


@both
def test_batches_are_under_way_together_and_stay_in_order(make_fault_server, is_async):
    # vllm-haystack sends one batch after the other, in run_async too.
    server = make_fault_server(delay=0.3)
    documents = [Document(content=f"text {number}") for number in range(16)]
    embedder = VLLMDocumentEmbedder(api_base_url=server.url, batch_size=2, max_concurrency=8, progress_bar=False)
    started = time.monotonic()
    found = out(embedder, is_async, documents)["documents"]
    assert time.monotonic() - started < 8 * 0.3
    assert server.peak > 4
    for document in found:
        assert document.embedding == pytest.approx(payloads.vector(document.content, 8), abs=1e-6)
    assert documents[0].embedding is None


@both
def test_never_more_requests_than_allowed(make_fault_server, is_async):
    server = make_fault_server(delay=0.05)
    embedder = VLLMDocumentEmbedder(api_base_url=server.url, batch_size=1, max_concurrency=2, progress_bar=False)
    out(embedder, is_async, [Document(content=str(number)) for number in range(9)])
    assert server.peak == 2


@both
def test_documents_with_the_same_id(fault_server, is_async):
    # vllm-haystack gives both the vector of the last.
    documents = [Document(id="a", content="one"), Document(id="a", content="two")]
    found = out(VLLMDocumentEmbedder(api_base_url=fault_server.url, progress_bar=False), is_async, documents)
    assert found["documents"][0].embedding != found["documents"][1].embedding


def _refuse(word):
    async def answer(exchange):
        refused = any(word in text for text in exchange.request.json["input"])
        await (faults.error(400, f"no {word} here") if refused else healthy)(exchange)

    return answer


@both
def test_a_document_that_fails_fails_alone(fault_server, is_async, caplog):
    # vllm-haystack gives no embedding to any document of its batch, with a line in the log.
    fault_server.reply(_refuse("bad"))
    documents = [Document(content="one"), Document(content="bad", embedding=[9.0]), Document(content="three")]
    embedder = VLLMDocumentEmbedder(api_base_url=fault_server.url, progress_bar=False, max_retries=0)
    found = out(embedder, is_async, documents)
    assert [document.embedding is None for document in found["documents"]] == [False, True, False]
    (failure,) = found["meta"]["failures"]
    assert (failure["index"], failure["id"]) == (1, documents[1].id)
    assert "no bad here" in failure["error"]
    assert documents[1].id in caplog.text
    embedder.raise_on_failure = True
    with pytest.raises(e.InvalidRequest, match="no bad here"):
        out(embedder, is_async, documents)


@both
def test_a_server_that_is_not_there_is_no_documents_fault(is_async):
    # vllm-haystack returns documents without embeddings.
    embedder = VLLMDocumentEmbedder(api_base_url="http://127.0.0.1:9", progress_bar=False, max_retries=0)
    with pytest.raises(e.ServerUnreachable):
        out(embedder, is_async, [Document(content="one")])


@both
def test_a_wrong_parameter_is_no_documents_fault(fault_server, is_async):
    fault_server.reply(faults.error(400, "Model does not support matryoshka representation", param="dimensions"))
    embedder = VLLMDocumentEmbedder(api_base_url=fault_server.url, dimensions=3, progress_bar=False, max_retries=0)
    with pytest.raises(e.InvalidRequest, match="matryoshka"):
        out(embedder, is_async, [Document(content=str(number)) for number in range(4)])


def test_what_the_embedders_send(fault_server, capsys):
    parameters = {"truncate_prompt_tokens": -1}
    shared = {"api_base_url": fault_server.url, "prefix": "[", "suffix": "]", "dimensions": 4}
    VLLMTextEmbedder(**shared, extra_parameters=parameters).run("hi")
    documents = [Document(content="hi", meta={"title": "A", "year": 0, "no": None}), Document(content=None)]
    found = VLLMDocumentEmbedder(
        **shared, extra_parameters=parameters, meta_fields_to_embed=["title", "year", "no"], embedding_separator=" | "
    ).run(documents)
    assert found["meta"]["model"] == "stub"
    one, many = (request.json for request in fault_server.posts(EMBED))
    same = {"model": "stub", "encoding_format": "base64", "dimensions": 4, "truncate_prompt_tokens": -1}
    assert one == {**same, "input": ["[hi]"]}
    assert many == {**same, "input": ["[A | 0 | hi]", "[]"]}
    assert "Calculating embeddings" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["missing", "extra", "nan", "dims", "null"])
@both
def test_wrong_vectors_are_no_embeddings(fault_server, is_async, fault):
    fault_server.reply(faults.wrong_embeddings(fault))
    with pytest.raises(e.InvalidResponse):
        out(
            VLLMDocumentEmbedder(api_base_url=fault_server.url, progress_bar=False),
            is_async,
            [Document(content="one"), Document(content="two")],
        )


def test_wrong_inputs_of_the_embedders(fault_server):
    with pytest.raises(TypeError, match="expects a string"):
        VLLMTextEmbedder(api_base_url=fault_server.url).run(["a"])
    embedder = VLLMDocumentEmbedder(api_base_url=fault_server.url)
    for wrong in ("a", [1], [Document(content="a"), "b"]):
        with pytest.raises(TypeError, match="expects a list of Documents"):
            embedder.run(wrong)
    assert embedder.run([]) == {"documents": [], "meta": {}}
    assert not fault_server.requests
    for name in ("model", "input"):
        with pytest.raises(e.InvalidRequest, match=name):
            VLLMTextEmbedder(extra_parameters={name: "x"})


# Ranker

DOCUMENTS = [Document(content="a", meta={"t": "T"}), Document(content="bb"), Document(content="ccc")]


@both
@pytest.mark.parametrize(("behaviour", "error"), FAILURES)
def test_failures_of_the_ranker(fault_server, is_async, behaviour, error):
    # vllm-haystack looks at no status: RuntimeError, JSONDecodeError or KeyError.
    fault_server.reply(behaviour)
    with pytest.raises(error) as caught:
        out(VLLMRanker(api_base_url=fault_server.url, max_retries=0), is_async, "q", DOCUMENTS)
    assert isinstance(caught.value, openai.OpenAIError)


@both
def test_time_limits_and_retries_of_the_ranker(fault_server, is_async):
    fault_server.reply(faults.error(503))
    with pytest.raises(e.ServerNotReady):
        out(VLLMRanker(api_base_url=fault_server.url, max_retries=1), is_async, "q", DOCUMENTS)
    assert len(fault_server.posts(RERANK)) == 2
    fault_server.reply(faults.hang())
    with pytest.raises(e.ServerTimeout):
        out(VLLMRanker(api_base_url=fault_server.url, max_retries=0, timeout=0.4), is_async, "q", DOCUMENTS)
    limits = VLLMRanker(api_base_url=fault_server.url)._sync().time_limits
    assert (limits.connect, limits.idle, limits.total) == (30, 600, 3600)  # vllm-haystack gives up after 5 s


@both
@pytest.mark.parametrize("fault", ["short", "bad-index", "negative-index", "duplicate", "nan"])
def test_wrong_rankings(fault_server, is_async, fault):
    fault_server.reply(faults.wrong_rerank(fault))
    with pytest.raises(e.InvalidResponse):
        out(VLLMRanker(api_base_url=fault_server.url), is_async, "q", DOCUMENTS)


@both
@pytest.mark.parametrize("path", ["", "/v1", "/v1/"])
def test_what_the_ranker_sends(fault_server, is_async, path):
    ranker = VLLMRanker(
        api_base_url=fault_server.url.removesuffix("/v1") + path,
        top_k=2,
        meta_fields_to_embed=["t"],
        meta_data_separator=": ",
        query_prefix="<q>",
        query_suffix="</q>",
        document_prefix="<d>",
        document_suffix="</d>",
        extra_parameters={"truncate_prompt_tokens": -1, "instruction": "find"},
    )
    found = out(ranker, is_async, "q", DOCUMENTS)
    assert fault_server.posts(RERANK)[0].json == {
        "model": "stub",
        "query": "<q>q</q>",
        "documents": ["<d>T: a</d>", "<d>bb</d>", "<d>ccc</d>"],
        "top_n": 2,
        "truncate_prompt_tokens": -1,
        "instruction": "find",
    }
    scores = [document.score for document in found["documents"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 2
    assert all(document.score is None for document in DOCUMENTS)
    best = out(ranker, is_async, "q", DOCUMENTS, top_k=3, score_threshold=scores[0])
    assert [document.score for document in best["documents"]] == scores[:1]


def test_what_the_ranker_refuses(fault_server):
    ranker = VLLMRanker(api_base_url=fault_server.url)
    for top_k in (0, -1):
        with pytest.raises(ValueError, match="top_k must be > 0"):
            VLLMRanker(top_k=top_k)
        with pytest.raises(ValueError, match="top_k must be > 0"):
            ranker.run("q", DOCUMENTS, top_k=top_k)
    assert ranker.run("q", []) == {"documents": [], "meta": {}}
    assert not fault_server.requests
    for name in ("model", "top_n"):  # which would quietly win over the component's own
        with pytest.raises(e.InvalidRequest, match=name):
            VLLMRanker(extra_parameters={name: 1})
    with pytest.raises(e.UnknownParameter):
        VLLMRanker(api_base_url=fault_server.url, extra_parameters={"truncate": 1}).run("q", DOCUMENTS)


# Token counter


def test_what_the_counter_sends(fault_server):
    counter = VLLMTokenCounter(api_base_url=fault_server.url, extra_parameters={"chat_template_kwargs": {"a": 1}})
    assert counter.count([]) == 0
    messages = [ChatMessage.from_system("be brief"), ChatMessage.from_user("one two three")]
    assert counter.count(messages, [add]) == counter.count(messages, [add]) > 0
    (asked,) = (request.json for request in fault_server.posts("/tokenize"))
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert asked["tools"][0]["function"]["name"] == "add"
    assert asked["chat_template_kwargs"] == {"a": 1}


def test_parts_of_a_conversation_are_counted_in_one(fault_server):
    # Templates such as Qwen3.5's raise when no user has spoken, or when the system speaks later.
    async def count(exchange):
        await faults.json_reply(payloads.tokenized(" ".join(m["content"] for m in exchange.request.json["messages"])))(
            exchange
        )

    fault_server.reply(count, path="/tokenize")
    counter = VLLMTokenCounter(api_base_url=fault_server.url)
    call = ToolCall(id="1", tool_name="add", arguments={})
    assert counter.count([ChatMessage.from_tool("four five six", origin=call)]) > 0
    assert counter.count([ChatMessage.from_system("be brief"), ChatMessage.from_assistant("yes")]) > 0
    for request in fault_server.posts("/tokenize"):
        roles = [message["role"] for message in request.json["messages"]]
        assert roles in (["user"], ["user", "tool"], ["system", "user", "assistant"])


def test_failures_of_the_counter(fault_server):
    fault_server.reply(faults.error(404, "Not Found", shape="detail"))
    with pytest.raises(e.WrongAddress):
        VLLMTokenCounter(api_base_url=fault_server.url).count([ChatMessage.from_user("hi")])
    assert json.dumps(VLLMTokenCounter(api_base_url=fault_server.url).to_dict())


# A pipeline in another process

ELSEWHERE = """
import json, sys
from haystack import Document, Pipeline
index, ask = (Pipeline.loads(text) for text in json.load(sys.stdin))
index.run({"embedder": {"documents": [Document(content=text) for text in ("one", "two", "three")]}})
asked = {"embedder": {"text": "two"}, "ranker": {"query": "two"}, "prompt": {"question": "two"}}
print(ask.run(asked)["llm"]["replies"][0].text)
"""


def test_retrieval_in_a_fresh_process_with_nothing_set_up(fault_server):
    there = {"api_base_url": fault_server.url, "max_retries": 0}
    index, ask = Pipeline(), Pipeline()
    index.add_component("embedder", VLLMDocumentEmbedder(**there, progress_bar=False))
    index.add_component("writer", DocumentWriter(InMemoryDocumentStore(index="rag")))
    index.connect("embedder.documents", "writer.documents")
    ask.add_component("embedder", VLLMTextEmbedder(**there))
    ask.add_component("retriever", InMemoryEmbeddingRetriever(InMemoryDocumentStore(index="rag"), top_k=1))
    ask.add_component("ranker", VLLMRanker(**there))
    template = [ChatMessage.from_user("{{ question }}: {{ documents[0].content }}")]
    ask.add_component("prompt", ChatPromptBuilder(template, required_variables="*"))
    ask.add_component("llm", VLLMChatGenerator(**there))
    ask.connect("embedder.embedding", "retriever.query_embedding")
    ask.connect("retriever.documents", "ranker.documents")
    ask.connect("ranker.documents", "prompt.documents")
    ask.connect("prompt.prompt", "llm.messages")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=json.dumps([index.dumps(), ask.dumps()]),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "two: two\n"), done.stderr
    assert [request.route for request in fault_server.posts()] == [EMBED, EMBED, RERANK, CHAT]
