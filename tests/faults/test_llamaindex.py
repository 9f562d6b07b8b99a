"""LlamaIndex's classes against a server that fails as it is told to: errors, whole streams, loops, bodies."""

import asyncio
import copy
import io
import json
import logging
import multiprocessing
import pickle
import socket
import traceback

import pytest

pytest.importorskip("llama_index.llms.openai_like")

import openai
from llama_index.core.base.llms.types import (
    AudioBlock,
    CachePoint,
    ChatMessage,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, Field, ValidationError

from vllm_adapters import Timeouts, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters._compat import http
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank
from vllm_adapters.testing import faults, payloads

CHAT, TEXT, EMBED, RERANK = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"
HELLO = [ChatMessage(role="user", content="one two")]


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


TOOL = FunctionTool.from_defaults(add)


@pytest.fixture
def llm(fault_server):
    return VLLM(base_url=fault_server.url, max_retries=0, timeout=5)


def chat(llm, **kwargs):
    return llm.chat(HELLO, **kwargs)


def achat(llm, **kwargs):
    return asyncio.run(llm.achat(HELLO, **kwargs))


def stream_chat(llm, **kwargs):
    return list(llm.stream_chat(HELLO, **kwargs))[-1]


def astream_chat(llm, **kwargs):
    async def run():
        return [found async for found in await llm.astream_chat(HELLO, **kwargs)][-1]

    return asyncio.run(run())


def complete(llm, **kwargs):
    return llm.complete("one two", **kwargs)


def acomplete(llm, **kwargs):
    return asyncio.run(llm.acomplete("one two", **kwargs))


def stream_complete(llm, **kwargs):
    return list(llm.stream_complete("one two", **kwargs))[-1]


def astream_complete(llm, **kwargs):
    async def run():
        return [found async for found in await llm.astream_complete("one two", **kwargs)][-1]

    return asyncio.run(run())


STREAMS = [stream_chat, astream_chat, stream_complete, astream_complete]
WAYS = [chat, achat, complete, acomplete, *STREAMS]
every_way = pytest.mark.parametrize("call", WAYS, ids=lambda f: f.__name__)
every_stream = pytest.mark.parametrize("call", STREAMS, ids=lambda f: f.__name__)
chat_model = pytest.mark.parametrize("chat_model", [True, False], ids=["chat", "completions"])


@every_way
@pytest.mark.parametrize(
    ("behaviour", "ours", "openais"),
    [
        (faults.error(401, "Unauthorized", shape="string"), e.AuthenticationFailed, openai.AuthenticationError),
        (faults.error(404, "`m` does not exist.", param="model"), e.ModelNotServed, openai.NotFoundError),
        (faults.error(400, "bad", param="x"), e.InvalidRequest, openai.BadRequestError),
        (faults.error(429), e.RateLimited, openai.RateLimitError),
        (faults.error(500), e.ServerFailed, openai.InternalServerError),
        (faults.hang_up(), e.ServerUnreachable, openai.APIConnectionError),
        (faults.html(), e.InvalidResponse, openai.APIResponseValidationError),
    ],
)
def test_failures(llm, fault_server, call, behaviour, ours, openais):
    fault_server.reply(behaviour)
    with pytest.raises(ours) as caught:
        call(llm)
    assert isinstance(caught.value, openais)


# A broken transfer


@every_stream
@chat_model
@pytest.mark.parametrize("end", ["clean", "close", "reset"])
def test_a_cut_stream_is_an_error(fault_server, call, chat_model, end):
    # Stock: a clean or closed end is silent, the text as if whole; a reset is a bare httpx.ReadError.
    llm = VLLM(base_url=fault_server.url, max_retries=0, is_chat_model=chat_model)
    chunks = payloads.chat_chunks if chat_model else payloads.completion_chunks
    fault_server.reply(faults.sse(*chunks("one two three", finish_reason=None), end=end))
    with pytest.raises(e.IncompleteStream) as caught:
        call(llm)
    assert isinstance(caught.value, openai.APIConnectionError)
    assert caught.value.partial == "one two three"


@every_stream
def test_an_error_in_a_stream(llm, fault_server, call):
    fault_server.reply(faults.error_event("the engine died", after=2))
    with pytest.raises(e.ServerFailed, match="the engine died"):
        call(llm)


@pytest.mark.parametrize("kind", [VLLM, VLLMEmbedding, VLLMRerank])
@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_one_layer_of_retries(make_fault_server, monkeypatch, kind, retries, way):
    # Stock: two layers multiply: 6 requests for max_retries=2, 12 by default; embeddings up to 110.
    monkeypatch.setattr(openai._base_client.BaseClient, "_calculate_retry_timeout", lambda *a, **k: 0.0)
    server = make_fault_server()
    server.reply(faults.hang_up())
    part = kind("m", base_url=server.url, max_retries=retries)
    calls = {
        (VLLM, "sync"): lambda: part.chat(HELLO),
        (VLLM, "async"): lambda: asyncio.run(part.achat(HELLO)),
        (VLLMEmbedding, "sync"): lambda: part.get_text_embedding("a"),
        (VLLMEmbedding, "async"): lambda: asyncio.run(part.aget_text_embedding("a")),
        (VLLMRerank, "sync"): lambda: part.postprocess_nodes(nodes("a"), query_str="q"),
        (VLLMRerank, "async"): lambda: asyncio.run(part.apostprocess_nodes(nodes("a"), query_str="q")),
    }
    with pytest.raises(openai.APIConnectionError):
        calls[kind, way]()
    assert len(server.requests) == 1 + retries


@every_way
@pytest.mark.parametrize("status", [500, 429])
def test_one_layer_of_retries_in_every_way(fault_server, monkeypatch, call, status):
    monkeypatch.setattr(openai._base_client.BaseClient, "_calculate_retry_timeout", lambda *a, **k: 0.0)
    llm = VLLM("stub", base_url=fault_server.url, max_retries=2)
    fault_server.reply(faults.error(status))
    with pytest.raises(openai.APIStatusError):
        call(llm)
    assert len(fault_server.requests) == 3


def test_nothing_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(e.ServerUnreachable, match=str(port)):
            chat(VLLM(base_url=f"http://127.0.0.1:{port}", max_retries=0))


def test_a_silent_server(fault_server):
    fault_server.reply(faults.hang())
    llm = VLLM("stub", base_url=fault_server.url, max_retries=0, timeout=Timeouts(idle=0.3))
    with pytest.raises(openai.APITimeoutError):
        chat(llm)


@pytest.mark.parametrize("kind", ["chat", "complete"])
def test_leaving_a_stream_disconnects(llm, fault_server, kind):
    fault_server.reply(faults.chat("word " * 400, pause=0.05))
    for _ in llm.stream_chat(HELLO) if kind == "chat" else llm.stream_complete("x"):
        break
    assert fault_server.wait_for(lambda: fault_server.posts(CHAT)[0].disconnected_at is not None, timeout=1)


def test_leaving_an_async_stream_disconnects(llm, fault_server):
    fault_server.reply(faults.chat("word " * 400, pause=0.05))

    async def run():
        async for _ in await llm.astream_chat(HELLO):
            break
        await asyncio.sleep(0.3)

    asyncio.run(run())
    assert fault_server.posts(CHAT)[0].disconnected_at is not None


def test_three_event_loops(llm):
    assert [achat(llm).message.content for _ in range(3)] == ["one two"] * 3


def _ask(llm, queue):
    queue.put(llm.complete("from the child").text)


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_fork_after_use(llm):
    chat(llm)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_ask, args=(llm, queue))
    child.start()
    assert chat(llm).message.content == "one two"
    assert queue.get(timeout=20) == "from the child"
    child.join(10)


# Constraints and tool calls


@every_way
def test_an_ignored_constraint(llm, fault_server, call):
    fault_server.reply(faults.chat("Sure!"))
    with pytest.raises(e.ConstraintNotEnforced):
        call(llm, structured_outputs={"choice": ["yes", "no"]})


@pytest.mark.parametrize("streamed", [False, True])
def test_an_ignored_schema(llm, fault_server, streamed):
    fault_server.reply(faults.chat('{"name": "Ada"}'))
    predict = llm.stream_structured_predict if streamed else llm.structured_predict
    with pytest.raises(e.ConstraintNotEnforced):
        list(predict(Person, PromptTemplate("who?")))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("mode", [PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION])
@pytest.mark.parametrize(("reason", "text"), [("length", "max_tokens"), ("repetition", "repetition_detection cut")])
def test_a_cut_object(fault_server, streamed, mode, reason, text):
    # Stock: a pydantic error that does not name the limit; streamed, half an object as the last one.
    llm = VLLM(base_url=fault_server.url, pydantic_program_mode=mode)
    call = payloads.tool_call("Person", '{"name": "A', index=0 if streamed else None)
    reply = {"tool_calls": [call]} if mode == PydanticProgramMode.FUNCTION else {"content": '{"name": "Ada", "age": 3'}
    fault_server.reply(faults.chat(**reply, finish_reason=reason))
    predict = llm.stream_structured_predict if streamed else llm.structured_predict
    with pytest.raises(e.TruncatedOutput, match=text) as caught:
        list(predict(Person, PromptTemplate("who?")))
    assert caught.value.partial.startswith('{"name": "A')


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("reason", "error"),
    [("repetition", e.TruncatedOutput), ("content_filter", e.FilteredOutput), ("eos", e.ConstraintNotEnforced)],
)
def test_an_object_that_the_server_left_half_done(llm, fault_server, streamed, reason, error):
    # Else: Pydantic's error, which names neither the server nor a way out.
    fault_server.reply(faults.chat('{"name": "A', finish_reason=reason))
    predict = llm.stream_structured_predict if streamed else llm.structured_predict
    with pytest.raises(error) as caught:
        list(predict(Person, PromptTemplate("who?")))
    assert '{"name": "A' in (caught.value.partial, getattr(caught.value, "reply", None))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_forced_call_that_breaks_its_schema(fault_server, streamed):
    llm = VLLM(base_url=fault_server.url, pydantic_program_mode=PydanticProgramMode.FUNCTION)
    call = payloads.tool_call("Person", '{"name": "Ada", "age": "old"}', index=0 if streamed else None)
    fault_server.reply(faults.chat(tool_calls=[call], finish_reason="tool_calls"))
    predict = llm.stream_structured_predict if streamed else llm.structured_predict
    with pytest.raises(e.ConstraintNotEnforced, match="age"):
        list(predict(Person, PromptTemplate("who?")))


def test_a_forced_call_that_does_not_come(fault_server):
    llm = VLLM(base_url=fault_server.url, pydantic_program_mode=PydanticProgramMode.FUNCTION)
    fault_server.reply(faults.chat("I would rather not."))
    with pytest.raises(e.ConstraintNotEnforced, match="forced call of `Person`"):
        llm.structured_predict(Person, PromptTemplate("who?"))


def test_chunks_with_several_kinds_lose_nothing(llm, fault_server):
    # Stock: the second call of a chunk is lost.
    tools = [payloads.tool_call("add", '{"a": 1}', index=0), payloads.tool_call("add", '{"a": 2}', index=1)]
    fault_server.reply(faults.deltas({"reasoning": "because", "content": "six"}, {"content": "!", "tool_calls": tools}))
    for call in (stream_chat, astream_chat):
        message = call(llm).message
        assert [block.block_type for block in message.blocks] == ["thinking", "text", "tool_call", "tool_call"]
        assert (message.blocks[0].content, message.content) == ("because", "six!")
        assert [block.tool_kwargs for block in message.blocks[2:]] == [{"a": 1}, {"a": 2}]


def test_the_first_chunk_may_be_reasoning(llm, fault_server):
    # Stock: async streams drop it.
    first = {"role": "assistant", "content": None, "reasoning": "FIRST "}
    fault_server.reply(faults.deltas(first, {"reasoning": "second"}, {"content": "six"}))
    for call in (stream_chat, astream_chat):
        assert call(llm).message.blocks[0].content == "FIRST second"


def test_interleaved_and_repeating_tool_deltas(llm, fault_server):
    # Stock: four calls, two without a name, no arguments; repeated names and ids are strung together.
    def part(index, text, **more):
        return {"index": index, "type": "function", "function": {"arguments": text, **more.pop("function", {})}, **more}

    fault_server.reply(
        faults.deltas(
            {"tool_calls": [part(0, '{"a"', id="x", function={"name": "add"})]},
            {"tool_calls": [part(1, '{"a"', id="y", function={"name": "add"})]},
            {"tool_calls": [part(0, ": 1}", id="x", function={"name": "add"})]},
            {"tool_calls": [part(1, ": 2}", id="y", function={"name": "add"})]},
            finish_reason="tool_calls",
        )
    )
    for call in (stream_chat, astream_chat):
        found = llm.get_tool_calls_from_response(call(llm))
        assert [(tool.tool_id, tool.tool_name, tool.tool_kwargs) for tool in found] == [
            ("x", "add", {"a": 1}),
            ("y", "add", {"a": 2}),
        ]


@pytest.mark.parametrize("call", [chat, achat, stream_chat, astream_chat], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("text", "reason", "error"),
    [
        ('{"a": 1, "b": 2}', "length", e.TruncatedOutput),
        ('{"a": 1, "b": 1', "length", e.TruncatedOutput),
        ('{"a": 1, "b": }', "tool_calls", e.InvalidResponse),
        ("[1, 2]", "tool_calls", e.InvalidResponse),
    ],
)
def test_broken_calls_are_seen_and_not_run(llm, fault_server, call, text, reason, error):
    # Stock: the tool is called with {}, or with what closing brackets makes of it.
    index = 0 if call in STREAMS else None
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("add", text, index=index)], finish_reason=reason))
    response = call(llm)
    assert not [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
    broken = response.message.additional_kwargs["invalid_tool_calls"]
    assert [(found["name"], found["arguments"]) for found in broken] == [("add", text)]
    assert broken[0]["error"]
    with pytest.raises(error):
        llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)


def test_a_tool_is_not_called_with_less_than_the_model_said(llm, fault_server):
    ran = []
    tool = FunctionTool.from_defaults(lambda path="/": ran.append(path), name="remove", description="Remove.")
    fault_server.reply(
        faults.chat(
            tool_calls=[payloads.tool_call("remove", '{"path": "/home/ada', index=None)], finish_reason="length"
        )
    )
    with pytest.raises(e.TruncatedOutput):
        llm.predict_and_call([tool], "clean up")
    assert ran == []


def test_earlier_chunks_stay_as_they_were(llm, fault_server):
    # Stock: the first chunk shows the whole arguments afterwards.
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("add", '{"a": 1, "b": 2}', index=0)]))
    responses, shown = [], []
    for response in llm.stream_chat(HELLO):
        responses.append(response)
        shown.append(response.model_dump_json())
    assert [response.model_dump_json() for response in responses] == shown
    assert len(shown) > 3


@pytest.mark.parametrize("ask", ["stream_chat", "stream_complete"])
def test_log_probabilities_are_gone_through_once(llm, fault_server, ask):
    # Else again at every chunk: 5000 tokens of a stream took a minute of CPU.
    chunks = [payloads.chunk({"content": word}) for word in ("one", "two", "three")]
    for chunk, word in zip(chunks, ("one", "two", "three"), strict=True):
        token = {"token": word, "logprob": -1.0, "bytes": None, "top_logprobs": []}
        chunk["choices"][0]["logprobs"] = {"content": [token]}
    fault_server.reply(faults.sse(*chunks, payloads.chunk({}, finish_reason="stop")))
    found = [response.logprobs for response in getattr(llm, ask)(HELLO if ask == "stream_chat" else "one")]
    assert [[token.token for (token,) in tokens] for tokens in found[:3]] == [
        ["one"],
        ["one", "two"],
        ["one", "two", "three"],
    ]
    assert all(tokens[0] is found[0][0] for tokens in found)


# What is sent


@chat_model
def test_nothing_of_openais_environment(make_fault_server, monkeypatch, chat_model):
    # Stock: the key goes to the vLLM host, the base redirects.
    elsewhere = make_fault_server()
    for name, value in {
        "OPENAI_API_KEY": "sk-canary",
        "OPENAI_API_BASE": elsewhere.url,
        "OPENAI_BASE_URL": elsewhere.url,
        "OPENAI_ORG_ID": "org-canary",
        "OPENAI_ORGANIZATION": "org-canary",
        "OPENAI_PROJECT_ID": "project-canary",
        "OPENAI_API_VERSION": "canary",
    }.items():
        monkeypatch.setenv(name, value)
    server = make_fault_server()
    llm = VLLM(base_url=server.url, is_chat_model=chat_model)
    for call in WAYS:
        call(llm)
    VLLMEmbedding(base_url=server.url).get_text_embedding("a")
    VLLMRerank(base_url=server.url).postprocess_nodes(nodes("a"), query_str="q")
    assert not elsewhere.requests
    for request in server.requests:
        assert "canary" not in str(request.headers) + str(request.body)
    monkeypatch.setenv("VLLM_BASE_URL", server.url)
    before = len(server.requests)
    VLLM().complete("hi")
    assert len(server.requests) > before
    assert not elsewhere.requests


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/v1", "{}/v1/"])
@pytest.mark.parametrize("name", ["base_url", "api_base"])
def test_addresses(fault_server, form, name):
    # Stock: base_url is ignored, and requests go to api.openai.com.
    assert VLLM(**{name: form.format(fault_server.root)}).complete("hi").text == "hi"
    assert len(VLLMEmbedding(**{name: form.format(fault_server.root)}).get_text_embedding("a")) == 8


def test_two_addresses():
    with pytest.raises(e.InvalidRequest, match="Give one"):
        VLLM(base_url="http://a:1", api_base="http://b:1")
    assert VLLM(base_url="http://a:1", api_base="http://a:1/v1").api_base == "http://a:1/v1"
    server = VLLMServer("http://a:1")
    assert VLLM(server=server, api_base="http://a:1").api_base == "http://a:1/v1"
    for given in ({"api_base": "http://b:1"}, {"base_url": "http://b:1"}, {"default_headers": {"x-team": "search"}}):
        for cls in (VLLM, VLLMEmbedding, VLLMRerank):
            with pytest.raises(ValueError, match="Give either server or"):
                cls(server=server, **given)


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        (VLLM, "topk", "Did you mean `top_k`"),
        (VLLM, "max_new_tokens", "Did you mean `max_tokens`"),
        (VLLM, "bogus_param", "bogus_param"),
        (VLLM, "generate_kwargs", "generate_kwargs"),
        (VLLMEmbedding, "truncate", "truncate_prompt_tokens"),
        (VLLMRerank, "topn", "top_n"),
    ],
)
def test_unknown_arguments_are_type_errors(kind, name, hint):
    # Stock: taken and ignored.
    with pytest.raises(TypeError, match=hint):
        kind(**{name: 1})


def test_refused_before_sending(llm, fault_server):
    for call in WAYS:
        with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
            call(llm, topk=1)
        with pytest.raises(e.InvalidRequest, match="top_k"):
            call(llm, top_k="x")
    with pytest.raises(ValidationError):
        VLLM(top_k="x")
    with pytest.raises(e.UnknownParameter):
        chat(llm, extra_body={"plugin": 1})
    with pytest.raises(e.UnknownParameter):
        chat(VLLM(base_url=fault_server.url, additional_kwargs={"plugin": 1}))
    with pytest.raises(e.UnknownParameter, match="OpenAI's own"):
        chat(VLLM(base_url=fault_server.url, modalities=["text", "audio"]))
    for call in STREAMS:
        with pytest.raises(e.InvalidRequest, match="n must be 1"):
            call(llm, n=2)
    assert not fault_server.requests
    chat(llm, extra_body={"plugin": 1}, allow_unknown=True)
    chat(VLLM(base_url=fault_server.url, extra_body={"plugin": 1}, allow_unknown=True))
    assert [request.json["plugin"] for request in fault_server.posts(CHAT)] == [1, 1]
    assert "allow_unknown" not in fault_server.posts(CHAT)[0].json


@every_way
@chat_model
def test_the_call_beats_the_constructor(fault_server, call, chat_model):
    # Stock: the constructor's max_tokens, stop and extra_body win; reasoning_effort is never sent.
    llm = VLLM(
        base_url=fault_server.url,
        is_chat_model=chat_model,
        max_tokens=9,
        stop=["a"],
        temperature=1.5,
        seed=1,
        top_k=5,
        reasoning_effort="high" if chat_model else None,
        extra_body={"min_p": 0.1, "vllm_xargs": {"a": 1}},
    )
    call(llm, max_tokens=2, stop=["b"], temperature=0, top_k=None, extra_body={"vllm_xargs": {"b": 2}})
    body = fault_server.posts(CHAT if chat_model else TEXT)[0].json
    assert (body["max_tokens"], body["stop"], body["temperature"], body["seed"]) == (2, ["b"], 0, 1)
    assert "top_k" not in body
    assert (body["min_p"], body["vllm_xargs"]) == (0.1, {"a": 1, "b": 2})
    assert body.get("reasoning_effort") == ("high" if chat_model else None)
    assert ("stream_options" in body) == body["stream"]


def test_the_call_beats_the_constructor_under_the_limits_other_name(fault_server):
    chat(VLLM(base_url=fault_server.url, extra_body={"max_completion_tokens": 5}), max_tokens=7)
    chat(VLLM(base_url=fault_server.url, max_tokens=5), max_completion_tokens=7)
    for request in fault_server.posts(CHAT):
        assert (request.json["max_tokens"], "max_completion_tokens" in request.json) == (7, False)


def test_several_choices(llm, fault_server):
    fault_server.reply(faults.json_reply({**payloads.chat("one"), "choices": payloads.chat("one")["choices"] * 2}))
    response = chat(llm, n=2)
    assert response.message.content == "one"
    assert len(response.raw["choices"]) == 2


def test_objects_from_the_completions_endpoint(fault_server):
    # Stock: a TypeError of the SDK.
    llm = VLLM(base_url=fault_server.url, is_chat_model=False)
    fault_server.reply(faults.completion('{"name": "Ada", "age": 36}'))
    prompt = PromptTemplate("who?")
    assert llm.structured_predict(Person, prompt) == Person(name="Ada", age=36)
    assert list(llm.stream_structured_predict(Person, prompt))[-1] == Person(name="Ada", age=36)
    assert fault_server.posts(TEXT)[0].json["response_format"]["type"] == "json_schema"
    fault_server.reply(faults.completion("Ada, 36"))
    with pytest.raises(e.ConstraintNotEnforced):
        llm.structured_predict(Person, prompt)


def test_what_the_completions_endpoint_has_no_place_for(fault_server):
    # Stock: images are dropped, tools are a TypeError of the SDK.
    llm = VLLM(base_url=fault_server.url, is_chat_model=False)
    with pytest.raises(e.InvalidRequest, match="is_chat_model=True"):
        llm.chat([ChatMessage(role="user", blocks=[ImageBlock(url="http://nowhere.invalid/a.png")])])
    with pytest.raises(e.UnknownParameter, match="tools"):
        llm.chat_with_tools([TOOL], "hi")
    assert not fault_server.requests


def test_an_empty_key_is_no_key(fault_server):
    # Stock: `Missing credentials`.
    assert VLLM(base_url=fault_server.url, api_key="").complete("hi").text == "hi"


@every_way
def test_options_of_streams(llm, fault_server, call):
    call(llm, stream_options=None)
    assert "stream_options" not in fault_server.posts(CHAT)[0].json
    call(llm, stream_options={"continuous_usage_stats": True})
    asked = fault_server.posts(CHAT)[1].json
    whole = {"include_usage": True, "continuous_usage_stats": True}
    assert asked.get("stream_options") == (whole if asked["stream"] else None)


def test_a_copy_keeps_the_key(make_fault_server):
    server = make_fault_server(api_key="sk-there")
    llm = VLLM(base_url=server.url, api_key="sk-there")
    for twin in (copy.copy(llm), copy.deepcopy(llm), llm.model_copy()):
        assert twin.complete("hi").text == "hi"


def test_how_a_request_is_sent(llm, fault_server):
    chat(llm, extra_headers={"x-mine": "1"}, extra_query={"a": "b"})
    request = fault_server.requests[-1]
    assert request.headers["x-mine"] == "1"


@pytest.mark.parametrize("name", ["o1-mini", "gpt-5", "gpt-5.2-pro"])
def test_served_names_that_remind_of_openai_change_nothing(make_fault_server, name):
    # Stock: temperature 1.0 for one, a ValueError for another.
    server = make_fault_server(models=(name,))
    llm = VLLM(name, base_url=server.url, temperature=0.3, max_tokens=5)
    llm.chat_with_tools([TOOL], "hi", chat_history=[ChatMessage(role="system", content="be brief")])
    body = server.posts(CHAT)[0].json
    assert (body["temperature"], body["max_tokens"], body["messages"][0]["role"]) == (0.3, 5, "system")
    assert body["parallel_tool_calls"] is False
    VLLM(name, base_url=server.url).complete("hi")
    assert "temperature" not in server.posts(CHAT)[1].json


def test_an_old_server_gets_its_own_names(make_fault_server):
    server = make_fault_server(version="0.10.2")
    VLLM(base_url=server.url).complete("yes", structured_outputs={"choice": ["yes", "no"]})
    assert server.posts(CHAT)[0].json["guided_choice"] == ["yes", "no"]


def test_media_by_address_is_not_fetched(llm, fault_server):
    # Stock: audio is downloaded, video refused, images outside user messages are dropped.
    fault_server.reply(faults.chat("ok"))
    blocks = [
        TextBlock(text="look"),
        ImageBlock(url="http://nowhere.invalid/a.png", detail="low"),
        AudioBlock(url="http://nowhere.invalid/a.wav"),
        VideoBlock(url="http://nowhere.invalid/a.mp4"),
        ImageBlock(image=b"\x89PNG\r\n\x1a\n", image_mimetype="image/png"),
        AudioBlock(audio=b"RIFF\x00\x00", format="wav"),
        CachePoint(cache_control={"type": "ephemeral"}),
    ]
    llm.chat(
        [
            ChatMessage(role="user", blocks=blocks),
            ChatMessage(
                role="tool",
                blocks=[TextBlock(text="a map"), ImageBlock(url="http://nowhere.invalid/b.png")],
                additional_kwargs={"tool_call_id": "call-1"},
            ),
        ]
    )
    user, tool = fault_server.posts(CHAT)[0].json["messages"]
    assert user["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "http://nowhere.invalid/a.png", "detail": "low"}},
        {"type": "audio_url", "audio_url": {"url": "http://nowhere.invalid/a.wav"}},
        {"type": "video_url", "video_url": {"url": "http://nowhere.invalid/a.mp4"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "input_audio", "input_audio": {"data": "UklGRgAA", "format": "wav"}},
    ]
    assert tool == {
        "role": "tool",
        "tool_call_id": "call-1",
        "content": [
            {"type": "text", "text": "a map"},
            {"type": "image_url", "image_url": {"url": "http://nowhere.invalid/b.png"}},
        ],
    }


def test_media_in_open_files(llm, fault_server):
    # Stock: audio as it is under the name of base64, a UnicodeDecodeError for images.
    fault_server.reply(faults.chat("ok"))
    message = ChatMessage(
        role="user",
        blocks=[
            ImageBlock(image=io.BytesIO(b"\x89PNG\r\n\x1a\n"), image_mimetype="image/png"),
            AudioBlock(audio=io.BytesIO(b"RIFF\x00\x00"), format="wav"),
            VideoBlock(video=io.BytesIO(b"\x00\x01\xff"), video_mimetype="video/mp4"),
        ],
    )
    for _ in range(2):  # a second time, as retries and token counts do
        llm.chat([message])
        assert fault_server.posts(CHAT)[-1].json["messages"][0]["content"] == [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            {"type": "input_audio", "input_audio": {"data": "UklGRgAA", "format": "wav"}},
            {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAH/"}},
        ]


def test_a_document_has_no_place_in_a_message(llm, fault_server):
    # Stock: a part with `data:None`.
    with pytest.raises(e.InvalidRequest, match="DocumentBlock"):
        llm.chat([ChatMessage(role="user", blocks=[DocumentBlock(data=b"x", document_mimetype="application/pdf")])])
    assert not fault_server.requests


def test_messages_of_other_classes(llm, fault_server):
    from openai.types.chat import ChatCompletionMessageToolCall

    fault_server.reply(faults.chat("ok"))
    call = {"id": "x", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    theirs = ChatCompletionMessageToolCall.model_validate(call)
    llm.chat(
        [
            ChatMessage(role=MessageRole.MODEL, blocks=[ThinkingBlock(content="hm"), TextBlock(text="yes")]),
            ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [theirs]}),
            ChatMessage(
                role="assistant", blocks=[ToolCallBlock(tool_call_id="y", tool_name="add", tool_kwargs={"a": "é"})]
            ),
        ]
    )
    old, legacy, new = fault_server.posts(CHAT)[0].json["messages"]
    assert old == {"role": "assistant", "content": "yes"}
    assert legacy == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert new["tool_calls"][0]["id"] == "y"
    assert json.loads(new["tool_calls"][0]["function"]["arguments"]) == {"a": "é"}


# Embeddings and rankings


def nodes(*texts):
    return [NodeWithScore(node=TextNode(text=text), score=0.1) for text in texts]


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("fault", ["missing", "extra", "nan", "dims", "null"])
def test_wrong_vectors_are_refused(fault_server, way, fault):
    # Stock: one vector for three texts is taken.
    fault_server.reply(faults.wrong_embeddings(fault), EMBED)
    model = VLLMEmbedding(base_url=fault_server.url, max_retries=0)
    embed = {
        "sync": model.get_text_embedding_batch,
        "async": lambda texts: asyncio.run(model.aget_text_embedding_batch(texts)),
    }
    with pytest.raises(e.InvalidResponse):
        embed[way](["a", "b", "c"])


def test_vectors_in_any_order(fault_server):
    # Stock: taken as they come.
    model = VLLMEmbedding(base_url=fault_server.url)
    right = model.get_text_embedding_batch(["a", "b", "c"])
    fault_server.reply(faults.wrong_embeddings("shuffled"), EMBED)
    assert model.get_text_embedding_batch(["a", "b", "c"]) == right


@pytest.mark.parametrize("way", ["sync", "async"])
def test_requests_at_once_are_bounded(make_fault_server, way):
    server = make_fault_server(delay=0.05)
    model = VLLMEmbedding(base_url=server.url, embed_batch_size=2, num_workers=3)
    texts = [str(number) for number in range(20)]
    if way == "sync":
        vectors = model.get_text_embedding_batch(texts)
    else:
        vectors = asyncio.run(model.aget_text_embedding_batch(texts))
    assert [len(request.json["input"]) for request in server.posts(EMBED)] == [2] * 10
    assert 1 < server.peak <= 3
    assert vectors == [model.get_text_embedding(text) for text in texts]


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("fault", ["short", "bad-index", "negative-index", "duplicate", "nan"])
def test_wrong_rankings_are_refused(fault_server, way, fault):
    fault_server.reply(faults.wrong_rerank(fault), RERANK)
    rerank = VLLMRerank(base_url=fault_server.url, max_retries=0)
    rank = {
        "sync": rerank.postprocess_nodes,
        "async": lambda *a, **k: asyncio.run(rerank.apostprocess_nodes(*a, **k)),
    }
    with pytest.raises(e.InvalidResponse):
        rank[way](nodes("a", "b"), query_str="q")


def test_rerank_does_not_block_the_loop(make_fault_server):
    # Stock postprocessors: a thread for each call.
    server = make_fault_server(delay=0.3)
    rerank = VLLMRerank(base_url=server.url)

    async def run():
        await asyncio.gather(*(rerank.apostprocess_nodes(nodes("a", "b"), query_str="q") for _ in range(20)))

    asyncio.run(run())
    assert server.peak > 10


def test_the_servers_own_words(fault_server):
    # Stock JinaRerank: KeyError('detail').
    fault_server.reply(faults.error(400, "the document is too long", param="documents"), RERANK)
    with pytest.raises(e.InvalidRequest, match="the document is too long"):
        VLLMRerank(base_url=fault_server.url).postprocess_nodes(nodes("a"), query_str="q")


# Objects that travel


class Heard(BaseEventHandler):
    """Keeps LlamaIndex's events as text."""

    texts: list[str] = Field(default_factory=list)

    def handle(self, event, **kwargs):
        self.texts.append(event.model_dump_json())


def test_no_key_anywhere(fault_server, caplog):
    # Stock: to_dict() and pickles hold the key.
    key = "sk-canary"
    heard, root = Heard(), get_dispatcher()
    root.add_event_handler(heard)
    given = {"base_url": fault_server.url, "api_key": key, "default_headers": {"x-token": key}, "max_retries": 0}
    with caplog.at_level(logging.DEBUG):
        parts = [VLLM(**given), VLLMEmbedding(**given), VLLMRerank(**given)]
        parts[0].complete("hi")
        list(parts[0].stream_chat(HELLO))
        parts[1].get_text_embedding("a")
        parts[2].postprocess_nodes(nodes("a"), query_str="q")
        shown = [*heard.texts]
        for part in parts:
            shown += [repr(part), str(part), str(part.to_dict()), part.to_json(), repr(pickle.dumps(part))]
            shown += [str(part.model_dump()), part.model_dump_json()]
        fault_server.reply(faults.error(401, "Unauthorized", shape="string"))
        try:
            parts[0].complete("hi")
        except e.AuthenticationFailed as error:
            shown += [str(error), repr(error), str(vars(error)), *traceback.format_exception(error)]
    root.event_handlers.remove(heard)
    assert {request.headers.get("x-token") for request in fault_server.requests} == {key}
    for text in (*shown, caplog.text):
        assert key not in text


@pytest.mark.parametrize("kind", [VLLM, VLLMEmbedding, VLLMRerank])
def test_round_trips(kind, fault_server):
    given = {"truncate_prompt_tokens": 7, "timeout": Timeouts(idle=9), "max_retries": 1}
    part = kind(base_url=fault_server.url, api_key="sk-gone", **given)
    for other in (kind.from_dict(part.to_dict()), kind.from_json(part.to_json()), pickle.loads(pickle.dumps(part))):
        assert type(other) is kind
        assert other.api_base == fault_server.url
        assert (other.truncate_prompt_tokens, other.timeout, other.max_retries) == (7, Timeouts(idle=9), 1)
        assert other.api_key is None
    assert part.to_dict()["class_name"] == kind.class_name() == kind.__name__


def test_a_pickle_reads_the_key_where_it_is_opened(make_fault_server, monkeypatch):
    server = make_fault_server(api_key="sk-there")
    packed = pickle.dumps(VLLM(base_url=server.url, api_key="sk-there", top_k=5, max_retries=0))
    monkeypatch.setenv("VLLM_API_KEY", "sk-there")
    assert pickle.loads(packed).complete("hi").text == "hi"
    assert server.posts(CHAT)[0].json["top_k"] == 5


def test_an_api_key_of_the_wrong_type_is_not_shown():
    for kind in (VLLM, VLLMEmbedding, VLLMRerank):
        with pytest.raises(TypeError, match="must be a str") as caught:
            kind(api_key=["sk-canary"])
        assert "canary" not in str(caught.value)


def test_a_server_object(make_fault_server):
    server = make_fault_server(models=("one", "two"), api_key="sk-of-the-server")
    shared = VLLMServer(server.url, api_key="sk-of-the-server", model="two", max_retries=0)
    assert VLLM(server=shared).complete("hi").text == "hi"
    VLLM("one", server=shared).complete("hi")
    VLLMEmbedding(server=shared).get_text_embedding("a")
    VLLMEmbedding("one", server=shared).get_text_embedding("a")
    VLLMRerank("one", server=shared).postprocess_nodes(nodes("a"), query_str="q")
    asked = [request.json["model"] for request in server.requests if request.method == "POST"]
    assert asked == ["two", "one", "two", "one", "one"]


def test_the_model_that_is_named_last(make_fault_server):
    server = make_fault_server(models=("one", "two"))
    embed, rerank = VLLMEmbedding("one", base_url=server.url), VLLMRerank("one", base_url=server.url)
    parts = [embed, rerank, embed.model_copy(), rerank.model_copy()]
    for part in parts[:2]:
        setattr(part, "model_name" if part is embed else "model", "two")
    for part in (*parts, embed.model_copy(update={"model_name": "one"}), rerank.model_copy(update={"model": "one"})):
        if isinstance(part, VLLMEmbedding):
            asyncio.run(part.aget_text_embedding("a"))
        else:
            part.postprocess_nodes(nodes("a"), query_str="q")
    asked = [request.json["model"] for request in server.requests if request.method == "POST"]
    assert asked == ["two", "two", "one", "one", "one", "one"]


def test_an_own_http_client(fault_server):
    # Stock: with reuse_client=False the second call finds it closed.
    with http.Client(headers={"x-mine": "sync"}) as client:
        own = {"http_client": client, "async_http_client": http.AsyncClient(headers={"x-mine": "async"})}
        llm = VLLM("stub", base_url=fault_server.url, **own)
        for _ in range(2):
            chat(llm)
        achat(llm)
    assert [request.headers["x-mine"] for request in fault_server.requests] == ["sync", "sync", "async"]


def test_an_adapters_context_window_is_its_base_models(make_fault_server):
    cards = [*payloads.models("base")["data"], {"id": "lora", "object": "model", "parent": "base", "root": "/x"}]
    server = make_fault_server(models=cards)
    llm = VLLM("lora", base_url=server.url)
    assert llm.metadata.context_window == 4096
    llm.complete("hi")
    assert server.posts(CHAT)[0].json["model"] == "lora"
    other = llm.model_copy(update={"model": "base"})
    other.complete("hi")
    assert server.posts(CHAT)[1].json["model"] == "base"


def test_completions_fill_the_window_if_there_is_a_tokenizer(fault_server):
    class Words:
        def encode(self, text):
            return text.split()

    llm = VLLM(base_url=fault_server.url, is_chat_model=False, tokenizer=Words())
    complete(llm)
    complete(llm, max_tokens=3)
    assert [request.json["max_tokens"] for request in fault_server.posts(TEXT)] == [4094, 3]
    assert VLLM.from_dict(llm.to_dict()).tokenizer is None


def test_the_base_of_an_adapter_may_be_named_by_its_root(make_fault_server):
    base = {"id": "alias", "object": "model", "parent": None, "root": "org/base", "max_model_len": 8192}
    lora = {"id": "lora", "object": "model", "parent": "org/base", "root": "/x", "max_model_len": None}
    server = make_fault_server(models=(base, lora))
    llm = VLLM("lora", base_url=server.url)
    assert llm.metadata.context_window == 8192
    with pytest.raises(e.ModelNotServed, match="alias, lora"):
        llm.model_copy(update={"model": "other"}).metadata.context_window  # noqa: B018
