"""Settings of the clients: keys that change, limits, connections, and what copies and assignments do."""

import asyncio
import contextvars
import datetime
import inspect
import threading
import time

import openai
import pytest
from openai.resources.chat import Completions
from openai.types.chat import ChatCompletion
from pydantic import SecretStr

from vllm_adapters import AsyncVLLMClient, Timeouts, VLLMClient, VLLMServer, errors
from vllm_adapters._compat import http
from vllm_adapters.testing import faults, payloads

MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"


def keys_of(server):
    return [request.headers.get("authorization") for request in server.requests]


def chats_of(server):
    return [(each, each.headers.get("authorization")) for each in server.requests if each.path == CHAT]


def test_api_key_function_is_called_before_each_request(fault_server):
    keys = iter(["first", "second", "third"])
    with VLLMClient(fault_server.url, api_key=lambda: next(keys)) as client:
        for _ in range(2):
            client.chat.completions.create(model="tiny", messages=MESSAGES)
        client.with_options(max_retries=0).models.list()
    assert keys_of(fault_server) == ["Bearer first", "Bearer second", "Bearer third"]


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
async def test_async_client_takes_functions_and_coroutine_functions(fault_server, kind):
    async def coroutine():
        return "the key\n".strip().replace(" ", "-")

    key = coroutine if kind == "coroutine function" else (lambda: "the-key")
    async with AsyncVLLMClient(fault_server.url, api_key=key) as client:
        await client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert keys_of(fault_server) == ["Bearer the-key"]


async def test_concurrent_requests_keep_their_own_keys(fault_server):
    """While one request looks up the model, others get their keys."""
    tenant = contextvars.ContextVar("tenant")
    fault_server.reply(faults.slow(0.05, faults.json_reply(payloads.models("tiny"))), "/v1/models")

    async def call(client, name):
        tenant.set(name)
        for _ in range(3):
            await client.chat.completions.create(model="", messages=[{"role": "user", "content": name}])

    async with AsyncVLLMClient(fault_server.url, api_key=lambda: f"key-of-{tenant.get()}") as client:
        await asyncio.gather(*(call(client, name) for name in ("a", "b", "c")))
    sent = [(request.json["messages"][0]["content"], key) for request, key in chats_of(fault_server)]
    assert len(sent) == 9
    assert [key for _, key in sent] == [f"Bearer key-of-{name}" for name, _ in sent]


def test_explicit_authorization_header_overrides_the_key_function(fault_server):
    with VLLMClient(fault_server.url, api_key=lambda: "the-key") as client:
        client.models.list(extra_headers={"authorization": "Bearer explicit"})
    with VLLMClient(fault_server.url, api_key=lambda: "k", default_headers={"authorization": "Bearer given"}) as client:
        client.models.list()
    assert keys_of(fault_server) == ["Bearer explicit", "Bearer given"]


async def test_both_clients_of_a_server_use_the_key_function(fault_server):
    async with VLLMServer(fault_server.url, api_key=lambda: "the-key") as server:
        server.models()
        await server.amodels()
        server.close()
    assert set(keys_of(fault_server)) == {"Bearer the-key"}


def test_key_that_a_sync_client_cannot_get_raises(fault_server):
    async def key():
        return "x"

    with pytest.raises(TypeError, match="async function, which a sync client cannot call"):
        VLLMClient(fault_server.url, api_key=key).models.list()
    with pytest.raises(TypeError, match="must return a str, not int"):
        VLLMClient(fault_server.url, api_key=lambda: 5).models.list()
    assert not fault_server.requests


@pytest.mark.parametrize("failure", [RuntimeError("down"), http.ConnectError("down")], ids=["own", "transport"])
async def test_key_function_that_fails_is_not_taken_for_the_server(fault_server, failure):
    def key():
        raise failure

    with pytest.raises(errors.AuthenticationFailed, match="The function `api_key` failed") as caught:
        VLLMClient(fault_server.url, api_key=key).models.list()
    assert caught.value.__cause__ is failure
    async with AsyncVLLMClient(fault_server.url, api_key=key) as client:
        with pytest.raises(errors.AuthenticationFailed, match="The function `api_key` failed"):
            await client.models.list()
    assert not fault_server.requests


def test_assigned_key_is_sent_from_then_on(fault_server):
    client = VLLMClient(fault_server.url, api_key=lambda: "function")
    for key in ("first\n", None, lambda: "another", SecretStr("second")):
        client.api_key = key
        client.models.list()
    expected = ["Bearer first", "Bearer EMPTY", "Bearer another", "Bearer second"]
    assert keys_of(fault_server) == expected
    with pytest.raises(errors.AuthenticationFailed):
        client.api_key = "two words"
    client.with_options(max_retries=0).models.list()
    assert keys_of(fault_server)[-1] == "Bearer second"
    assert "second" not in repr(vars(client))


@pytest.mark.parametrize("key", [5, b"key", ["key"]])
def test_key_of_another_type_raises(key):
    with pytest.raises(TypeError, match="`api_key` must be a str"):
        VLLMClient(api_key=key)


def test_key_function_is_not_called_by_repr_or_pickle(fault_server):
    client = VLLMClient(fault_server.url, api_key=lambda: pytest.fail("called"))
    assert "api_key" not in repr(client)
    assert client.__reduce__()


@pytest.mark.parametrize("limit", [1, 4, 33])
def test_no_more_connections_than_max_connections(make_fault_server, limit):
    server = make_fault_server()
    server.reply(faults.slow(0.05, faults.chat("Hi")), CHAT)
    client = VLLMClient(server.url, max_connections=limit)

    def call():
        client.chat.completions.create(model="tiny", messages=MESSAGES)

    threads = [threading.Thread(target=call) for _ in range(limit + 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()
    assert len(server.posts(CHAT)) == limit + 8
    assert server.connections <= limit, "all are kept alive, and none is opened beyond the limit"


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "8"])
def test_invalid_max_connections_raise(limit):
    with pytest.raises(ValueError, match="`max_connections` must be a positive integer"):
        VLLMClient(max_connections=limit)


@pytest.mark.parametrize(
    ("settings", "limits"),
    [
        ({"http_client": http.Client(timeout=7)}, Timeouts(7, 7)),
        ({"http_options": {"timeout": 7}}, Timeouts(7, 7, 7)),
        ({"http_client": http.Client(timeout=7), "timeout": 9}, Timeouts(9, 9, 9)),
        ({"http_client": http.Client()}, Timeouts()),
        ({"timeout": None}, Timeouts(None, None, None)),
    ],
    ids=["client", "options", "own", "client-default", "none"],
)
def test_limits_of_the_http_client_hold_unless_the_client_has_its_own(settings, limits):
    assert VLLMClient(**settings).vllm.timeouts == limits


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_limits_that_are_not_positive_raise(limit):
    for value in (limit, (limit, 5)):
        with pytest.raises(ValueError, match="must be a positive number of seconds"):
            VLLMClient(timeout=value)
    with pytest.raises(ValueError, match="`total` must be a positive number"):
        Timeouts(total=limit)


@pytest.mark.parametrize("limit", [True, "5", {}])
def test_limits_of_other_types_raise(limit):
    with pytest.raises(TypeError, match="must be a number"):
        VLLMClient(timeout=limit)


def test_assigned_timeout_and_retries_are_used(make_fault_server):
    server = make_fault_server()
    server.reply(faults.hang(), CHAT)
    client = VLLMClient(server.url)
    client.timeout, client.max_retries = 0.2, 0
    with pytest.raises(errors.ServerTimeout):
        client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert len(server.posts(CHAT)) == 1
    assert client.vllm.timeouts == Timeouts(0.2, 0.2, 0.2)


@pytest.mark.parametrize("retries", [None, 1.5, True, "2"])
def test_max_retries_of_another_type_raise(retries):
    with pytest.raises(TypeError, match="`max_retries` must be an int"):
        VLLMClient(max_retries=retries)


def test_negative_max_retries_raise():
    with pytest.raises(ValueError, match="`max_retries` must be at least 0"):
        VLLMClient(max_retries=-1)


def test_http_client_and_its_options_exclude_each_other(fault_server):
    with pytest.raises(ValueError, match="exclude each other"):
        VLLMClient(http_client=http.Client(), http_options={"timeout": 5})
    client = VLLMClient(fault_server.url, http_options={"headers": {"x-team": "search"}})
    own = client.with_options(http_client=http.Client())
    own.models.list()
    assert "x-team" not in fault_server.requests[-1].headers
    with pytest.raises(ValueError, match="has no effect"):
        VLLMServer(http_client=http.Client(), async_http_client=http.AsyncClient(), http_options={"timeout": 5})
    server = VLLMServer(http_client=http.Client(timeout=7), http_options={"timeout": 9})
    assert (server.client.vllm.timeouts.idle, server.async_client.vllm.timeouts.idle) == (7, 9)


@pytest.mark.parametrize(
    "name", ["api_key", "base_url", "timeout", "max_retries", "default_headers", "http_client", "server_version"]
)
def test_settings_of_a_server_cannot_be_assigned(name):
    with pytest.raises(AttributeError, match=f"`{name}` of a VLLMServer cannot be changed"):
        setattr(VLLMServer(), name, None)


def test_model_of_a_server_can_be_assigned(fault_server):
    with VLLMServer(fault_server.url) as server:
        server.model = "lora"
        server.embed("a")
    assert fault_server.posts()[-1].json["model"] == "lora"
    with pytest.raises(TypeError, match="`model` must be a str"):
        server.model = 5


def test_a_copy_with_another_key_asks_the_server_itself(make_fault_server):
    server = make_fault_server()
    client = VLLMClient(server.url, api_key="one", server_version="0.20.0")
    assert client.vllm.served_model()
    other = client.with_options(api_key="two")
    server.reply(faults.json_reply({"data": [{"id": "another"}]}), "/v1/models")
    assert other.vllm.served_model() == "another"
    assert keys_of(server) == ["Bearer one", "Bearer two"]
    assert str(other.vllm.info.version) == "0.20.0"
    assert client.with_options(max_retries=0).vllm.info is client.vllm.info


def test_base_url_of_a_client_cannot_be_assigned(fault_server):
    client = VLLMClient(fault_server.url, api_key="secret")
    with pytest.raises(AttributeError, match="with_options"):
        client.base_url = "http://elsewhere:8000/v1"
    assert str(client.base_url) == f"{fault_server.url}/"


def test_query_of_the_base_url_is_sent_and_never_shown(fault_server):
    client = VLLMClient(f"{fault_server.url}?key=sk-canary&version=2", default_query={"version": "3"}, max_retries=0)
    client.models.list()
    assert fault_server.requests[-1].path == "/v1/models?key=sk-canary&version=3"
    fault_server.reply(faults.error(400, "no"), CHAT)
    with pytest.raises(errors.InvalidRequest) as caught:
        client.chat.completions.create(model="tiny", messages=MESSAGES)
    error = caught.value
    shown = (str(error), repr(vars(error)), str(error.request.url), str(error.response.url), repr(vars(client)))
    assert not [text for text in shown if "sk-canary" in text]
    with pytest.raises(ValueError, match="Set default_query"):
        VLLMServer.connect(None, f"{fault_server.url}?key=1")


def test_secrets_of_requests_are_in_no_log(fault_server, caplog):
    caplog.set_level(1)
    client = VLLMClient(
        f"{fault_server.url}?key=sk-canary",
        api_key="sk-canary",
        default_headers={"x-token": "sk-canary"},
        http_options={"headers": {"x-other": "sk-canary"}},
    )
    extra = {"extra_query": {"sig": "sk-canary"}, "extra_headers": {"x-more": "sk-canary"}}
    client.chat.completions.create(
        model="tiny", messages=MESSAGES, extra_body={"cache_salt": "sk-canary", "top_k": 1}, **extra
    )
    sent = fault_server.posts(CHAT)[-1]
    assert sent.path == f"{CHAT}?key=sk-canary&sig=sk-canary"
    assert sent.json["cache_salt"] == sent.headers["x-more"] == "sk-canary"
    assert "key=***&sig=***" in caplog.text
    assert "sk-canary" not in caplog.text + repr(vars(client)) + repr(vars(client.vllm))
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES)
    assert "sk-canary" not in str(raw.http_response.url) + repr(raw.http_response.url)


def test_query_of_another_address_takes_precedence_in_a_copy(make_fault_server):
    old, new = make_fault_server(), make_fault_server()
    client = VLLMClient(f"{old.url}?key=old&version=1").with_options(base_url=f"{new.url}?key=new")
    client.models.list()
    assert new.requests[-1].path == "/v1/models?key=new&version=1"
    assert not old.requests


@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings/", "/models"])
def test_address_of_an_endpoint_raises(path):
    with pytest.raises(errors.WrongAddress, match="base_url is the URL of an endpoint") as caught:
        VLLMClient(f"http://gpu:8000/v1{path}?key=sk-canary")
    assert "sk-canary" not in str(caught.value)


def test_options_of_a_copy(fault_server):
    client = VLLMClient(fault_server.url, default_headers={"X-One": "1"}, default_query={"a": "1"})
    added = client.with_options(default_headers={"X-Two": "2"}, default_query={"b": "2"}, timeout=5, max_retries=7)
    added.models.list()
    assert fault_server.requests[-1].path == "/v1/models?a=1&b=2"
    assert {"x-one", "x-two"} <= fault_server.requests[-1].headers.keys()
    assert (added.vllm.timeouts.total, added.max_retries) == (5, 7)
    replaced = client.with_options(set_default_headers={"X-Two": "2"}, set_default_query={}, organization="org")
    replaced.models.list()
    sent = fault_server.requests[-1]
    assert sent.path == "/v1/models"
    assert "x-one" not in sent.headers
    assert sent.headers["openai-organization"] == "org"
    assert client.organization is None
    with pytest.raises(ValueError, match="exclude each other"):
        client.with_options(default_headers={}, set_default_headers={})
    with pytest.raises(TypeError, match="`workload_identity` is not an option"):
        client.with_options(workload_identity=object())
    assert replaced.vllm.http_clients is client.vllm.http_clients


def test_a_closed_client_says_so_until_it_is_used_again(fault_server):
    client = VLLMClient(fault_server.url)
    assert not client.is_closed()
    client.models.list()
    client.close()
    assert client.is_closed()
    client.models.list()
    assert not client.is_closed()
    client.close()


async def test_a_closed_async_client_says_so(fault_server):
    client = AsyncVLLMClient(fault_server.url)
    await client.models.list()
    assert not client.is_closed()
    await client.close()
    assert client.is_closed()


def test_raw_responses_know_how_long_they_took(fault_server):
    client = VLLMClient(fault_server.url)
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES)
    assert raw.elapsed > datetime.timedelta(0)


def test_helpers_have_the_signature_of_the_sdk(fault_server):
    client = VLLMClient(fault_server.url)
    expected = [name for name in inspect.signature(Completions.stream).parameters if name != "self"]
    assert list(inspect.signature(client.chat.completions.stream).parameters) == expected
    assert client.beta.chat.completions is not client.chat.completions, "who wraps both would wrap it twice"
    with client.beta.chat.completions.stream(model="tiny", messages=MESSAGES) as stream:
        assert stream.get_final_completion().choices[0].message.content


@pytest.mark.parametrize("version", ["latest", "0.x"])
def test_server_version_that_is_none_raises(version):
    with pytest.raises(ValueError, match="Leave it out to ask the server"):
        VLLMClient(server_version=version)


@pytest.mark.parametrize("status", [401, 403, 404, 405, 429, 500, 501, 502, 503])
def test_gateway_without_version_means_the_newest(make_fault_server, status):
    server = make_fault_server()
    server.reply(faults.error(status, "no"), "/version")
    client = VLLMClient(server.url, max_retries=0)
    body = {"structured_outputs": {"choice": ["Hello"]}}
    for _ in range(2):
        client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body=body)
    assert server.posts(CHAT)[-1].json["structured_outputs"] == {"choice": ["Hello"]}
    asked = [request for request in server.requests if request.path == "/version"]
    assert len(asked) == (2 if status in (429, 503) else 1)


def test_routes_that_vllm_lacks_do_not_blame_the_address(fault_server):
    client = VLLMClient(fault_server.url)
    for call in (client.files.list, lambda: client.batches.retrieve("b")):
        with pytest.raises(errors.WrongAddress, match="vLLM does not have all of OpenAI's API"):
            call()


def test_parameters_of_openai_without_effect_are_not_sent(fault_server, caplog):
    caplog.set_level("DEBUG", logger="vllm_adapters")
    client = VLLMClient(fault_server.url)
    ignored = {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "prompt_cache_key": "k"}
    client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, **ignored)
    assert fault_server.posts(CHAT)[-1].json.keys() == {"model", "messages", "temperature"}
    assert all(name in caplog.text for name in ignored)
    client.chat.completions.create(model="tiny", messages=MESSAGES, store=True, extra_body={"allow_unknown": True})
    assert fault_server.posts(CHAT)[-1].json["store"] is True
    with pytest.raises(errors.UnknownParameter, match="vLLM does not have this parameter of OpenAI"):
        client.chat.completions.create(model="tiny", messages=MESSAGES, verbosity="low")


@pytest.mark.parametrize(
    "message",
    [
        "The engine is currently busy and cannot accept new requests. Please retry later.",
        "Generation is paused. Please retry after it resumes.",
    ],
)
def test_full_queue_is_overload_and_not_loading(fault_server, message):
    fault_server.reply(faults.error(503, message, retry_after=3), CHAT)
    with pytest.raises(errors.ServerOverloaded) as caught:
        VLLMClient(fault_server.url, max_retries=0).chat.completions.create(model="tiny", messages=MESSAGES)
    assert (caught.value.status_code, caught.value.retry_after) == (503, 3)
    assert isinstance(caught.value, errors.RateLimited)
    assert caught.value.body["message"] == message
    assert "loading" not in str(caught.value)


def test_pause_in_a_stream_is_no_failure(fault_server):
    event = {"error": {"message": "Generation is paused. Please retry after it resumes.", "code": "engine_paused"}}
    fault_server.reply(faults.sse(event), CHAT)
    stream = VLLMClient(fault_server.url).chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    with pytest.raises(errors.ServerOverloaded) as caught:
        list(stream)
    assert caught.value.status_code == 503


def test_overload_is_retried_after_what_the_server_says(fault_server):
    busy = faults.error(503, "The engine is currently busy and cannot accept new requests.", retry_after=1)
    fault_server.script(CHAT, [busy, faults.chat("Hi")])
    start = time.monotonic()
    reply = VLLMClient(fault_server.url).chat.completions.create(model="tiny", messages=MESSAGES)
    assert reply.choices[0].message.content == "Hi"
    assert 1 <= time.monotonic() - start < 5


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": "k"},
        {"timeout": 5},
        {"max_retries": 0},
        {"http_options": {"verify": False}},
        {"default_query": {"a": 1}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_beside_a_server_raise(fault_server, settings):
    server = VLLMServer(fault_server.url)
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` cannot be set beside `server`"):
        VLLMServer.connect(server, **settings)
    assert VLLMServer.connect(server, api_key=None, timeout=Timeouts(), max_retries=2) is server


def test_unknown_settings_of_a_server_raise():
    with pytest.raises(TypeError, match="tmeout"):
        VLLMServer("http://localhost:8000", tmeout=5)


def test_key_function_beside_the_same_server_passes(fault_server):
    def key():
        return "key"

    server = VLLMServer(fault_server.url, api_key=key)
    assert VLLMServer.connect(server, api_key=key) is server
    with pytest.raises(ValueError, match="`api_key` cannot be set"):
        VLLMServer.connect(server, api_key=lambda: "other")


async def test_instrumentation_of_the_sdk_sees_calls_of_models_only(fault_server, monkeypatch):
    seen = []

    def watch(cls):
        request = cls.request
        monkeypatch.setattr(
            cls, "request", lambda self, cast_to, *a, **k: (seen.append(cast_to), request(self, cast_to, *a, **k))[1]
        )

    watch(openai.OpenAI)
    watch(openai.AsyncOpenAI)
    body = {"structured_outputs": {"choice": ["Hello"]}}
    VLLMClient(fault_server.url).chat.completions.create(model="", messages=MESSAGES, extra_body=body)
    async with AsyncVLLMClient(fault_server.url) as client:
        await client.chat.completions.create(model="", messages=MESSAGES, extra_body=body)
    assert {"/version", "/v1/models"} <= {request.path for request in fault_server.requests}
    server = VLLMServer(fault_server.url)
    server.embed("a")
    assert server.is_ready()
    await server.amodels()
    await server.aclose()
    assert seen == [ChatCompletion, ChatCompletion]


class TextTransport(http.BaseTransport):
    """Sends the text of a URL, as aiohttp's transport does."""

    def __init__(self):
        self._inner = http.HTTPTransport()

    def handle_request(self, request):
        sent = http.Request(request.method, str(request.url), headers=request.headers, content=request.read())
        return self._inner.handle_request(sent)

    def close(self):
        self._inner.close()


@pytest.mark.parametrize("settings", ["http_client", "http_options"])
@pytest.mark.parametrize("stream", [False, True])
def test_query_arrives_through_a_transport_of_the_user(fault_server, settings, stream):
    own = {"http_client": http.Client(transport=TextTransport()), "http_options": {"transport": TextTransport()}}
    query = {"api-version": "7", "key": "the-secret"}
    with VLLMClient(fault_server.url, default_query=query, **{settings: own[settings]}) as client:
        reply = client.chat.completions.create(model="tiny", messages=MESSAGES, stream=stream)
        list(reply)
        fault_server.reply(faults.error(400), CHAT)
        with pytest.raises(errors.InvalidRequest) as caught:
            client.chat.completions.create(model="tiny", messages=MESSAGES)
    sent = [request.path for request in fault_server.requests]
    assert set(sent) >= {f"{CHAT}?api-version=7&key=the-secret"}
    assert all(path.endswith("?api-version=7&key=the-secret") for path in sent)
    assert "the-secret" not in f"{caught.value.request.url} {caught.value.response.url} {caught.value!r}"


def test_urls_are_parsed_once_each_and_only_some_are_kept(fault_server):
    client = VLLMClient(fault_server.url)
    for number in range(200):
        path = f"/models/{number % 100}?a=b"
        assert str(client._prepare_url(path)) == f"{fault_server.url}{path}"
        assert str(client._prepare_url("http://elsewhere/x")) == "http://elsewhere/x"
    assert len(client._urls) == 64
    other = client.with_options(base_url="http://127.0.0.1:9")
    assert str(other._prepare_url("/models/1?a=b")) == "http://127.0.0.1:9/v1/models/1?a=b"
