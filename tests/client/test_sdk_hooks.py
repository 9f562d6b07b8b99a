"""Canary: what the package relies on in the OpenAI SDK without being documented there.

The SDK's own classes are tested here. When a release changes one of these, a message says which module depends on it.
"""

import asyncio
import inspect
from functools import cached_property
from typing import TypeVar, get_args

import openai
import pytest
from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream, _base_client
from openai._constants import RAW_RESPONSE_HEADER
from openai._legacy_response import LegacyAPIResponse
from openai._models import FinalRequestOptions
from openai._response import APIResponse, AsyncAPIResponse
from openai._types import NotGiven, not_given
from openai.types.chat import ChatCompletion

from vllm_adapters._compat import OPENAI_MAJOR, http
from vllm_adapters.testing import payloads

T = TypeVar("T")
REPLY = payloads.chat("hi")
CHUNKS = [{"n": 1}, {"n": 2}, {"n": 3}]
STREAM = b"".join(b'data: {"n": %d}\n\n' % chunk["n"] for chunk in CHUNKS) + b"data: [DONE]\n\n"
HELLO = {"model": "stub", "messages": [{"role": "user", "content": "x"}]}


def changed(what, module):
    """Return the message of a failure: ``module`` must be adapted."""
    return f"openai {openai.__version__} changed {what}: adapt vllm_adapters/{module}"


class Stock:
    """The SDK's own client, sync or async, on a transport that records requests and replies to them."""

    def __init__(self, kind, reply=lambda request: http.Response(200, json=REPLY), **options):
        self.kind, self.requests = kind, []

        def handle(request):
            self.requests.append(request)
            return reply(request)

        client, http_client = (OpenAI, http.Client) if kind == "sync" else (AsyncOpenAI, http.AsyncClient)
        self.transport = http_client(transport=http.MockTransport(handle))
        self.client = client(api_key="x", base_url="http://h/v1", max_retries=0, http_client=self.transport, **options)

    def run(self, call):
        """Return the result of ``call(client)``."""

        async def arun():
            return await call(self.client)

        return call(self.client) if self.kind == "sync" else asyncio.run(arun())


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


# client.py and _client/base.py: hooks that the clients override


@pytest.mark.parametrize("client", [OpenAI, AsyncOpenAI])
@pytest.mark.parametrize(
    ("hook", "parameters", "module"),
    [
        ("request", {"cast_to", "options", "stream", "stream_cls"}, "client.py"),
        ("_prepare_options", {"options"}, "client.py"),
        (
            "_process_response",
            {"cast_to", "options", "response", "stream", "stream_cls", "retries_taken"},
            "client.py",
        ),
        ("_build_request", {"options", "retries_taken"}, "_client/base.py"),
        ("_prepare_url", {"url"}, "_client/base.py"),
        ("_make_status_error", {"err_msg", "body", "response"}, "_client/base.py"),
        ("_process_response_data", {"data", "cast_to", "response"}, "_client/base.py"),
        ("_should_retry", {"response"}, "_client/base.py"),
        ("_calculate_retry_timeout", {"remaining_retries", "options", "response_headers"}, "_client/base.py"),
        ("platform_headers", set(), "_client/base.py"),
    ],
)
def test_overridden_method_has_its_signature(client, hook, parameters, module):
    method = getattr(client, hook, None)
    assert method is not None, changed(f"{client.__name__}.{hook} (it is gone)", module)
    found = set(inspect.signature(method).parameters) - {"self"}
    assert found == parameters, changed(f"the parameters of {client.__name__}.{hook} to {sorted(found)}", module)
    is_async = client is AsyncOpenAI and hook in ("request", "_prepare_options", "_process_response")
    assert inspect.iscoroutinefunction(method) == is_async, changed(f"whether {hook} is async", module)


@pytest.mark.parametrize("hook", ["request", "_prepare_options", "_build_request", "_process_response"])
def test_every_call_goes_through_the_hooks(kind, hook, monkeypatch):
    stock, called = Stock(kind), []
    method = getattr(stock.client, hook)

    def record(*args, **kwargs):
        called.append(hook)
        return method(*args, **kwargs)

    monkeypatch.setattr(stock.client, hook, record)
    stock.run(lambda client: client.chat.completions.create(**HELLO))
    stock.run(lambda client: client.post("/anything", body={}, cast_to=object))
    stock.run(lambda client: client.get("/anything", cast_to=object))
    assert len(called) == 3, changed(f"which calls go through {hook}", "client.py")


class _Ours(Exception):
    """Made by a hook."""


def test_status_error_is_made_by_the_hook(kind, monkeypatch):
    stock = Stock(kind, lambda request: http.Response(418, json={"error": "x"}))
    monkeypatch.setattr(stock.client, "_make_status_error", lambda err_msg, *, body, response: _Ours())
    with pytest.raises((_Ours, openai.OpenAIError)) as caught:
        stock.run(lambda client: client.get("/x", cast_to=object))
    assert type(caught.value) is _Ours, changed("who makes the error of a status", "_client/base.py")


@pytest.mark.parametrize("client", [OpenAI, AsyncOpenAI])
def test_resources_are_cached_properties(client):
    for name in ("chat", "beta"):
        assert isinstance(vars(client)[name], cached_property), changed(f"{client.__name__}.{name}", "client.py")
    beta = client(api_key="x").beta
    assert isinstance(vars(type(beta))["chat"], cached_property), changed("client.beta.chat", "client.py")


def test_constructor_assigns_the_client_that_is_passed(kind):
    base, http_client = (OpenAI, http.Client()) if kind == "sync" else (AsyncOpenAI, http.AsyncClient())
    assigned = []

    class Client(base):
        @property
        def _client(self):
            return http_client

        @_client.setter
        def _client(self, client):
            assigned.append(client)

    client = Client(api_key="x", http_client=http_client)
    assert assigned == [http_client], changed("the assignment of _client in the constructor", "_client/base.py")
    assert client._client is http_client, changed("the assignment of _client in the constructor", "_client/base.py")


def test_client_is_read_for_each_request(kind):
    # One object then has a transport for each process and event loop.
    stock = Stock(kind)
    used, other = [], Stock(kind)

    class Client(type(stock.client)):
        @property
        def _client(self):
            used.append(1)
            return other.transport

        @_client.setter
        def _client(self, client):
            pass

    stock.client = Client(api_key="x", base_url="http://h/v1", http_client=other.transport)
    for count in (1, 2):
        before = len(used)
        stock.run(lambda client: client.get("/x", cast_to=object))
        assert len(used) > before, changed("_client, which is kept by someone else", "_client/base.py")
        assert len(other.requests) == count, changed("_client, which is not used to send", "_client/base.py")


def test_custom_headers_and_query_are_sent(kind):
    stock = Stock(kind, default_headers={"X-Mine": "1"}, default_query={"a": "1"})
    assert dict(stock.client._custom_headers) == {"X-Mine": "1"}, changed("_custom_headers", "_client/base.py")
    assert dict(stock.client._custom_query) == {"a": "1"}, changed("_custom_query", "_client/base.py")
    stock.client._custom_headers, stock.client._custom_query = {"X-Mine": "2"}, {"a": "2"}
    stock.run(lambda client: client.get("/x", cast_to=object))
    [request] = stock.requests
    assert request.headers["x-mine"] == "2", changed("_custom_headers", "_client/base.py")
    assert request.url.query == b"a=2", changed("_custom_query", "_client/base.py")


@pytest.mark.parametrize("client", [OpenAI, AsyncOpenAI])
def test_user_agent_and_platform_headers_are_those_of_the_class(client):
    class Client(client):
        user_agent = "ours"

        def platform_headers(self):
            return {}

    headers = Client(api_key="x").default_headers
    assert headers["User-Agent"] == "ours", changed("user_agent", "_client/base.py")
    unknown = {name for name in headers if name.lower().startswith("x-stainless") and name != "X-Stainless-Async"}
    assert not unknown, changed("platform_headers", "_client/base.py")


@pytest.mark.parametrize("client", [OpenAI, AsyncOpenAI])
def test_what_the_constructor_reads_of_the_environment_can_be_dropped(client, monkeypatch):
    for name in ("ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET", "ADMIN_KEY", "CUSTOM_HEADERS"):
        monkeypatch.setenv(f"OPENAI_{name}", "canary: canary")
    made = client(api_key="x", base_url="http://h/v1")
    known = ("organization", "project", "webhook_secret", "admin_api_key", "_custom_headers")
    assert {"canary" in str(getattr(made, name)) for name in known} == {True}, "the environment is read into these"
    for name in known:
        setattr(made, name, {} if name == "_custom_headers" else None)
    rest = {name: value for name, value in vars(made).items() if "canary" in str(value)}
    assert not rest, changed("what it reads of the environment", "_client/base.py")


# _client/base.py, _client/endpoint.py and client.py: requests, raw responses and parsers


def test_fields_of_request_options():
    fields = set(FinalRequestOptions.model_fields)
    known = {"method", "url", "headers", "timeout", "json_data", "extra_json", "post_parser", "max_retries"}
    assert known <= fields, changed(f"FinalRequestOptions: no {sorted(known - fields)}", "_client/base.py")
    options = FinalRequestOptions.construct(method="get", url="/x")
    assert isinstance(options.timeout, NotGiven), changed("the default timeout", "_client/base.py")
    assert options.json_data is None, changed("the default of json_data", "_client/base.py")
    assert options.extra_json is None, changed("the default of extra_json", "_client/base.py")


def test_extra_json_is_merged_after_prepare_options(kind, monkeypatch):
    stock, seen = Stock(kind), []
    prepare = stock.client._prepare_options

    def record(options):
        seen.append((options.json_data, options.extra_json))
        options.json_data, options.extra_json = {"ours": 1}, None
        return prepare(options)

    monkeypatch.setattr(stock.client, "_prepare_options", record)
    stock.run(lambda client: client.chat.completions.create(**HELLO, extra_body={"top_k": 1}))
    assert seen == [(HELLO, {"top_k": 1})], changed("where extra_body is before the hook", "_client/base.py")
    assert stock.requests[0].content == b'{"ours":1}', changed("what is sent after the hook", "_client/base.py")


def test_options_of_the_request_are_those_of_process_response(kind, monkeypatch):
    stock, seen = Stock(kind), []
    process = stock.client._process_response

    def record(*, options, response, **how):
        options.post_parser = lambda parsed: ("parsed", parsed)
        seen.append(options.url)
        return process(options=options, response=response, **how)

    monkeypatch.setattr(stock.client, "_process_response", record)
    mark, parsed = stock.run(lambda client: client.chat.completions.create(**HELLO))
    assert seen == ["/chat/completions"], changed("options.url, relative to the base URL", "_client/base.py")
    assert (mark, type(parsed)) == ("parsed", ChatCompletion), changed("post_parser", "_client/base.py")


def test_embeddings_are_decoded_by_a_post_parser():
    from vllm_adapters._response.validate import decodes_as_float32

    seen = []

    class Client(OpenAI):
        def _prepare_options(self, options):
            seen.append(options.post_parser)
            return super()._prepare_options(options)

    response = {"object": "list", "data": [{"index": 0, "embedding": [0.5], "object": "embedding"}], "model": "m"}
    transport = http.Client(transport=http.MockTransport(lambda request: http.Response(200, json=response)))
    client = Client(api_key="x", http_client=transport)
    client.embeddings.create(model="m", input="x")
    client.embeddings.create(model="m", input="x", encoding_format="base64")
    client.chat.completions.with_raw_response.create(**HELLO)
    assert list(map(decodes_as_float32, seen)) == [True, False, False], changed(
        "how embeddings are decoded", "_response/validate.py"
    )


@pytest.mark.parametrize(("value", "legacy"), [("true", True), ("stream", False)])
def test_raw_response_header_selects_the_class_of_the_response(kind, value, legacy):
    stock = Stock(kind)
    options = FinalRequestOptions.construct(method="post", url="/x", json_data={}, headers={RAW_RESPONSE_HEADER: value})
    raw = stock.run(lambda client: client.request(dict[str, object], options))
    expected = LegacyAPIResponse if legacy else APIResponse if kind == "sync" else AsyncAPIResponse
    assert type(raw) is expected, changed(f"what {RAW_RESPONSE_HEADER}={value} returns", "_client/endpoint.py")
    assert isinstance(raw.http_response, http.Response), changed("raw.http_response", "_client/endpoint.py")
    parsed = raw.parse()
    assert (asyncio.run(_await(parsed)) if inspect.isawaitable(parsed) else parsed) == REPLY


async def _await(awaitable):
    return await awaitable


def test_raw_response_header_is_on_the_request_of_the_response(kind):
    def headers(stock):
        return [request.headers.get(RAW_RESPONSE_HEADER) for request in stock.requests]

    stock = Stock(kind)
    stock.run(lambda client: client.chat.completions.create(**HELLO))
    stock.run(lambda client: client.chat.completions.with_raw_response.create(**HELLO))
    assert headers(stock) == [None, "true"], changed(RAW_RESPONSE_HEADER, "client.py")

    stock = Stock("sync")
    with stock.client.chat.completions.with_streaming_response.create(**HELLO):
        assert headers(stock) == ["stream"], changed(RAW_RESPONSE_HEADER, "_client/base.py")


@pytest.mark.parametrize("response", [LegacyAPIResponse, APIResponse, AsyncAPIResponse])
def test_raw_response_is_parsed_once(response):
    is_async = response is AsyncAPIResponse
    assert inspect.iscoroutinefunction(response.parse) == is_async, changed(
        f"{response.__name__}.parse (sync or async)", "client.py"
    )
    stock, parsers = Stock("async" if is_async else "sync"), []
    value = "true" if response is LegacyAPIResponse else "stream"
    options = FinalRequestOptions.construct(
        method="post",
        url="/x",
        json_data={},
        headers={RAW_RESPONSE_HEADER: value},
        post_parser=lambda parsed: parsers.append(parsed) or parsed,
    )

    async def parse_twice():
        raw = await stock.client.request(ChatCompletion, options)
        return await raw.parse() is await raw.parse()

    if is_async:
        same = asyncio.run(parse_twice())
    else:
        raw = stock.client.request(ChatCompletion, options)
        same = raw.parse() is raw.parse()
    assert same, changed(f"{response.__name__}.parse, which no longer keeps its result", "client.py")
    assert len(parsers) == 1, changed(f"{response.__name__}.parse, which parses again", "client.py")


# _client/raw_completions.py


def test_make_request_options_has_its_parameters():
    options = _base_client.make_request_options(
        extra_headers={"a": "1"}, extra_query={"b": "2"}, extra_body={"c": 3}, timeout=4
    )
    expected = {"headers": {"a": "1"}, "params": {"b": "2"}, "extra_json": {"c": 3}, "timeout": 4}
    assert options == expected, changed("make_request_options", "_client/raw_completions.py")
    none = _base_client.make_request_options(extra_headers=None, extra_query=None, extra_body=None, timeout=not_given)
    assert none == {}, changed("make_request_options without values", "_client/raw_completions.py")


def test_post_with_cast_to_object_returns_plain_json(kind):
    stock = Stock(kind)
    found = stock.run(lambda client: client.post("/x", body={"a": 1}, cast_to=object, options={}, stream=False))
    assert (type(found), found) == (dict, REPLY), changed("post(cast_to=object)", "_client/raw_completions.py")
    assert stock.requests[0].content == b'{"a":1}', changed("post(body=...)", "_client/raw_completions.py")


def test_post_with_stream_cls_returns_that_stream(kind):
    made = []

    class Recorded((Stream if kind == "sync" else AsyncStream)[T]):
        def __init__(self, **how):
            made.append(how)
            super().__init__(**how)

    stock = Stock(
        kind, lambda request: http.Response(200, content=STREAM, headers={"content-type": "text/event-stream"})
    )
    stream = stock.run(
        lambda client: client.post("/x", body={}, cast_to=object, options={}, stream=True, stream_cls=Recorded[object])
    )
    assert type(stream) is Recorded, changed("post(stream_cls=...)", "_client/raw_completions.py")
    [how] = made
    assert how.keys() >= {"cast_to", "response", "client", "options"}, changed(
        "the constructor of Stream", "_response/stream.py"
    )
    assert how["cast_to"] is object, changed("how cast_to of a stream is found", "_response/stream.py")
    known = (stream.response, stream._client, stream._options, stream._cast_to)
    assert known == (how["response"], stock.client, how["options"], object), changed(
        "the attributes of Stream", "_response/stream.py"
    )


# _response/stream.py


@pytest.mark.parametrize("stream", [Stream, AsyncStream])
def test_stream_class_can_be_parametrized(stream):
    assert get_args(stream[object]) == (object,), changed(f"{stream.__name__}[...]", "_client/base.py")
    assert "__stream__" in vars(stream), changed(f"{stream.__name__}.__stream__", "_response/stream.py")


class _Decoder:
    def _make_sse_decoder(self):
        return None


def test_iteration_of_a_stream_goes_on_after_break():
    class Numbers(Stream):
        def __stream__(self):
            return iter([1, 2, 3, 4])

    stream = Numbers(cast_to=object, response=http.Response(200), client=_Decoder())
    what = changed("the iteration of Stream", "_response/stream.py")
    assert next(stream) == 1, what
    for number in stream:
        assert number == 2, what
        break
    assert list(stream) == [3, 4], what
    assert list(stream) == [], what


async def test_iteration_of_an_async_stream_goes_on_after_break():
    class Numbers(AsyncStream):
        def __stream__(self):
            return self.numbers()

        async def numbers(self):
            for number in (1, 2, 3, 4):
                yield number

    stream = Numbers(cast_to=object, response=http.Response(200), client=_Decoder())
    what = changed("the iteration of AsyncStream", "_response/stream.py")
    assert await anext(stream) == 1, what
    async for number in stream:
        assert number == 2, what
        break
    assert [number async for number in stream] == [3, 4], what
    assert [number async for number in stream] == [], what


def test_stream_is_closed_by_its_context_and_by_close():
    closed = []

    class Response:
        def close(self):
            closed.append(1)

    class Numbers(Stream):
        def __stream__(self):
            return iter(())

    stream = Numbers(cast_to=object, response=Response(), client=_Decoder())
    stream.close()
    with stream:
        pass
    assert len(closed) == 2, changed("Stream.close", "_response/stream.py")


# _client/sdk_helpers.py


def test_stream_helper_has_its_state():
    from openai.lib.streaming.chat import AsyncChatCompletionStream, ChatCompletionStream, ChatCompletionStreamState

    for helper in (ChatCompletionStream, AsyncChatCompletionStream):
        source = inspect.getsource(helper)
        for name in ("_raw_stream", "_state.handle_chunk(", "_state.get_final_completion("):
            assert f"self.{name}" in source, changed(f"{helper.__name__}.{name}", "_client/sdk_helpers.py")
    state = vars(ChatCompletionStreamState())
    assert {"_input_tools", "_response_format"} <= set(state), changed("the stream's state", "_client/sdk_helpers.py")
    assert hasattr(ChatCompletionStreamState, "current_completion_snapshot"), changed(
        "current_completion_snapshot", "_client/sdk_helpers.py"
    )
    parameters = set(inspect.signature(ChatCompletionStreamState).parameters)
    assert {"input_tools", "response_format"} <= parameters, changed("the stream's state", "_client/sdk_helpers.py")


def test_stream_helper_of_responses_has_its_state():
    from openai.lib.streaming.responses import _responses as sdk

    for helper in (sdk.ResponseStream, sdk.AsyncResponseStream):
        source = inspect.getsource(helper)
        for name in ("_raw_stream", "_state.handle_event(", "_state._completed_response"):
            assert f"self.{name}" in source, changed(f"{helper.__name__}.{name}", "_client/sdk_responses.py")
    state = vars(sdk.ResponseStreamState(input_tools=[], text_format=None))
    assert {"_input_tools", "_text_format", "_completed_response"} <= set(state), changed(
        "the stream's state", "_client/sdk_responses.py"
    )


def test_stream_helper_is_a_context_manager(kind):
    content = {"content": STREAM, "headers": {"content-type": "text/event-stream"}}
    stock, what = Stock(kind, lambda request: http.Response(200, **content)), "chat.completions.stream"

    async def arun():
        async with stock.client.chat.completions.stream(**HELLO) as stream:
            return vars(stream)

    if kind == "async":
        found = asyncio.run(arun())
    else:
        with stock.client.chat.completions.stream(**HELLO) as stream:
            found = vars(stream)
    assert {"_state", "_raw_stream"} <= set(found), changed(what, "_client/sdk_helpers.py")
    assert found["_raw_stream"]._client is stock.client, changed(what, "_client/sdk_helpers.py")
    assert found["_raw_stream"]._options.url == "/chat/completions", changed(what, "_client/sdk_helpers.py")


def test_resources_are_made_of_a_client(kind):
    client = Stock(kind).client
    assert client.chat._client is client, changed("the client of a resource", "_client/sdk_helpers.py")
    for resource in (client.chat, client.chat.completions):
        copied = type(resource)(client)
        assert copied._client is client, changed(f"{type(resource).__name__}(client)", "_client/sdk_helpers.py")


# errors.py


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (openai.APIConnectionError, openai.APIError),
        (openai.APITimeoutError, openai.APIConnectionError),
        (openai.APIResponseValidationError, openai.APIError),
        *(
            (getattr(openai, name), openai.APIStatusError)
            for name in (
                "InternalServerError",
                "NotFoundError",
                "AuthenticationError",
                "PermissionDeniedError",
                "RateLimitError",
                "BadRequestError",
            )
        ),
        (openai.LengthFinishReasonError, openai.OpenAIError),
        (openai.ContentFilterFinishReasonError, openai.OpenAIError),
    ],
)
def test_errors_have_their_base(error, base):
    assert issubclass(error, base), changed(f"the base of {error.__name__}", "errors.py")
    assert issubclass(base, openai.OpenAIError), changed(f"the base of {base.__name__}", "errors.py")


# _compat.py and _transport/http.py


def test_transport_is_that_of_this_major():
    assert http.__name__ == ("httpx2" if OPENAI_MAJOR >= 3 else "httpx"), changed("its transport", "_compat.py")
    assert issubclass(openai.DefaultHttpxClient, http.Client), changed("its transport", "_compat.py")
    assert issubclass(openai.DefaultAsyncHttpxClient, http.AsyncClient), changed("its transport", "_compat.py")


def test_sdk_puts_its_timeout_into_the_extensions(kind):
    stock = Stock(kind)
    timeout = http.Timeout(connect=1, read=2, write=3, pool=4)
    stock.run(lambda client: client.get("/x", cast_to=object, options={"timeout": timeout}))
    expected = {"connect": 1, "read": 2, "write": 3, "pool": 4}
    assert stock.requests[0].extensions["timeout"] == expected, changed("extensions['timeout']", "_transport/http.py")
