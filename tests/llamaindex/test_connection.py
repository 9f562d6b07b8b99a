"""Connection settings, which ``VLLM``, ``VLLMEmbedding`` and ``VLLMRerank`` share."""

import asyncio
import copy
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import ValidationError

from vllm_adapters import Timeouts, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters._compat import http
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank

every_kind = pytest.mark.parametrize("kind", [VLLM, VLLMEmbedding, VLLMRerank])

CHAT = "/v1/chat/completions"
NODES = [NodeWithScore(node=TextNode(text="a"), score=0.1)]


def call(part):
    """Send one request with the sync client."""
    if isinstance(part, VLLM):
        return part.complete("hi").text
    if isinstance(part, VLLMEmbedding):
        return part.get_text_embedding("a")
    return part.postprocess_nodes(NODES, query_str="q")


def acall(part):
    """Send one request with the async client."""
    if isinstance(part, VLLM):
        return asyncio.run(part.acomplete("hi"))
    if isinstance(part, VLLMEmbedding):
        return asyncio.run(part.aget_text_embedding("a"))
    return asyncio.run(part.apostprocess_nodes(NODES, query_str="q"))


# Address and credentials


@every_kind
@pytest.mark.parametrize("form", ["{}", "{}/", "{}/v1", "{}/v1/"])
@pytest.mark.parametrize("name", ["base_url", "api_base"])
def test_forms_of_the_address(fault_server, kind, form, name):
    # Stock: base_url is ignored, and requests go to api.openai.com.
    part = kind(**{name: form.format(fault_server.root)})
    call(part)
    assert part.api_base == part.base_url == fault_server.url
    assert fault_server.posts()


@every_kind
def test_openai_environment_is_not_read(make_fault_server, monkeypatch, kind):
    # Stock: the key goes to the vLLM host, the base URL redirects.
    elsewhere, server = make_fault_server(), make_fault_server()
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
    part = kind(base_url=server.url)
    call(part)
    acall(part)
    monkeypatch.setenv("VLLM_BASE_URL", server.url)
    call(kind())
    assert len(server.posts()) == 3
    assert not elsewhere.requests
    assert not any("canary" in f"{request.headers} {request.body}" for request in server.requests)


@every_kind
def test_different_addresses_are_refused(kind):
    with pytest.raises(e.InvalidRequest, match="Pass one"):
        kind(base_url="http://a:1", api_base="http://b:1")
    assert kind(base_url="http://a:1", api_base="http://a:1/v1").api_base == "http://a:1/v1"


def test_empty_key_is_no_key(fault_server):
    # Stock: `Missing credentials`.
    assert VLLM(base_url=fault_server.url, api_key="").complete("hi").text == "hi"


@every_kind
def test_api_key_of_the_wrong_type_is_not_shown(kind):
    with pytest.raises(TypeError, match="must be a str") as caught:
        kind(api_key=["sk-canary"])
    assert "canary" not in str(caught.value)


@every_kind
def test_api_key_of_a_function(make_fault_server, kind):
    # A token of short life: each request has the current one.
    server = make_fault_server()
    keys = iter(["sk-1", "sk-2", "sk-3", "sk-4"])
    part = kind("stub", base_url=server.url, api_key=lambda: next(keys))
    call(part)
    acall(part)

    async def key():
        return next(keys)

    part.api_key = key
    acall(part)
    call(kind("stub", server=VLLMServer(server.url, api_key=lambda: next(keys))))
    assert [request.headers["authorization"] for request in server.posts()] == [f"Bearer sk-{n}" for n in range(1, 5)]
    assert "api_key" not in part.to_dict()


# Settings of every class


@every_kind
def test_headers_and_query_of_every_request(fault_server, kind):
    settings = {"default_headers": {"x-mine": "1"}, "default_query": {"team": "search"}}
    part = kind("stub", base_url=fault_server.url, **settings)
    call(part)
    acall(part)
    assert len(fault_server.requests) == 2
    for request in fault_server.requests:
        assert request.headers["x-mine"] == "1"
        assert request.path.endswith("?team=search")


@every_kind
def test_own_http_clients(fault_server, kind):
    # Stock: with reuse_client=False the second call finds it closed.
    with http.Client(headers={"x-mine": "sync"}) as client:
        own = {"http_client": client, "async_http_client": http.AsyncClient(headers={"x-mine": "async"})}
        part = kind("stub", base_url=fault_server.url, **own)
        call(part)
        call(part)
        acall(part)
    assert [request.headers["x-mine"] for request in fault_server.requests] == ["sync", "sync", "async"]


@every_kind
def test_server_version(make_fault_server, kind):
    server = make_fault_server(version="0.32.0")
    call(kind("stub", base_url=server.url, server_version="0.8.5", truncate_prompt_tokens=3))
    assert [request.path for request in server.requests] == [request.path for request in server.posts()]


@every_kind
def test_allow_unknown(fault_server, kind):
    part = kind(base_url=fault_server.url, allow_unknown=True)
    assert part._server.client.vllm.allow_unknown
    call(part)


# One server for several objects


def test_server_object(make_fault_server):
    server = make_fault_server(models=("one", "two"), api_key="sk-of-the-server")
    shared = VLLMServer(server.url, api_key="sk-of-the-server", model="two", max_retries=0)
    call(VLLM(server=shared))
    call(VLLM("one", server=shared))
    call(VLLMEmbedding(server=shared))
    call(VLLMEmbedding("one", server=shared))
    call(VLLMRerank("one", server=shared))
    assert [request.json["model"] for request in server.posts()] == ["two", "one", "two", "one", "one"]


@every_kind
def test_server_with_other_settings_is_refused(kind):
    server = VLLMServer("http://a:1")
    assert kind(server=server, api_base="http://a:1").api_base == "http://a:1/v1"
    for given in ({"api_base": "http://b:1"}, {"base_url": "http://b:1"}):
        with pytest.raises(ValueError, match="different addresses"):
            kind(server=server, **given)
    for given in ({"default_headers": {"x-team": "search"}}, {"default_query": {"a": "b"}}, {"server_version": "0.9"}):
        with pytest.raises(ValueError, match=f"`{next(iter(given))}` cannot be set beside `server`"):
            kind(server=server, **given)


@every_kind
def test_changed_model_is_followed(make_fault_server, kind):
    server = make_fault_server(models=("one", "two"))
    field = "model_name" if kind is VLLMEmbedding else "model"
    part = kind("one", base_url=server.url)
    copied = part.model_copy()
    setattr(part, field, "two")
    call(part)
    acall(part)
    call(copied)
    call(part.model_copy(update={field: "one"}))
    assert [request.json["model"] for request in server.posts()] == ["two", "two", "one", "one"]


# The model, checked by the constructor


@every_kind
def test_model_is_validated_on_init(make_fault_server, kind):
    server = make_fault_server(models=("one", "two"))
    given = {"base_url": server.url, "max_retries": 0, "validate_model_on_init": True}
    part = kind("one", **given)
    assert [request.route for request in server.requests] == ["/v1/models"]
    with pytest.raises(e.ModelNotServed, match="one, two"):
        kind("three", **given)
    with pytest.raises(e.ModelNotServed, match="Pass model="):
        kind(**given)
    with pytest.raises(e.ServerUnreachable):
        kind("one", **{**given, "base_url": "http://127.0.0.1:9"})
    before = len(server.requests)
    for loaded in (pickle.loads(pickle.dumps(part)), kind.from_dict(part.to_dict()), part.model_copy()):
        call(loaded)
    assert [request.method for request in server.requests[before:]] == ["POST"] * 3


def test_validated_model_has_a_context_length(make_fault_server):
    server = make_fault_server(models=("one",))
    for name in ("", "one"):
        llm = VLLM(name, base_url=server.url, validate_model_on_init=True)
        before = len(server.requests)
        assert (llm.metadata.context_window, llm.metadata.model_name) == (4096, "one")
        assert len(server.requests) == before


@pytest.mark.vllm("tiny")
def test_model_of_a_real_server_is_validated_on_init(sent):
    assert VLLM(validate_model_on_init=True).metadata.context_window == 2048
    with pytest.raises(e.ModelNotServed, match="tiny"):
        VLLM("other", validate_model_on_init=True)
    assert [request.method for request in sent] == ["GET", "GET"]


# Settings that change later


@pytest.fixture
def two_servers(make_fault_server):
    """Two servers with different keys."""
    return make_fault_server(api_key="sk-one"), make_fault_server(api_key="sk-two")


def assign(part, **changes):
    for name, value in changes.items():
        setattr(part, name, value)
    return part


def update(part, **changes):
    return part.model_copy(update=changes)


every_way = pytest.mark.parametrize("change", [assign, update])


@every_kind
@every_way
@pytest.mark.parametrize("name", ["api_base", "base_url"])
def test_changed_address_and_key_are_followed(two_servers, kind, change, name):
    # Stock: the client that exists goes on to the old server, with the old key.
    one, two = two_servers
    part = kind(base_url=one.url, api_key="sk-one", max_retries=0)
    call(part)
    acall(part)
    changed = change(part, **{"api_key": "sk-two", name: two.root})
    call(changed)
    acall(changed)
    assert changed.api_base == changed.base_url == two.url
    assert (len(one.posts()), len(two.posts())) == (2, 2)
    assert not any("sk-one" in str(request.headers) for request in two.requests)
    assert not any("sk-two" in str(request.headers) for request in one.requests)


@every_kind
@every_way
def test_changed_headers_and_query_are_followed(fault_server, kind, change):
    part = kind("stub", base_url=fault_server.url, default_headers={"x-a": "1"}, default_query={"a": "1"})
    call(part)
    acall(part)
    changed = change(part, default_headers={"x-b": "2"}, default_query={"b": "2"})
    call(changed)
    acall(changed)
    for request in fault_server.requests[2:]:
        assert (request.headers.get("x-a"), request.headers["x-b"]) == (None, "2")
        assert request.path.endswith("?b=2")


@every_kind
@every_way
def test_changed_limits_are_followed(make_fault_server, kind, change):
    server = make_fault_server(delay=1)
    part = kind("stub", base_url=server.url, max_retries=0)
    part._server.async_client  # noqa: B018  # both clients exist
    changed = change(part, timeout=0.2, max_retries=1)
    for send in (call, acall):
        with pytest.raises(e.ServerTimeout):
            send(changed)
    assert len(server.posts()) >= 2
    assert changed._server.client.max_retries == changed._server.async_client.max_retries == 1


@every_kind
def test_model_copy_does_not_change_the_original(two_servers, kind):
    one, two = two_servers
    part = kind(base_url=one.url, api_key="sk-one")
    copied = part.model_copy(update={"api_base": two.url, "api_key": "sk-two"})
    call(part)
    call(copied)
    assert (part.api_base, len(one.posts()), len(two.posts())) == (one.url, 1, 1)


@every_kind
@every_way
def test_invalid_change_is_refused_and_changes_nothing(fault_server, kind, change):
    part = kind("stub", base_url=fault_server.url)
    for invalid in ({"max_retries": -1}, {"timeout": "soon"}, {"truncate_prompt_tokens": "x"}):
        with pytest.raises(ValidationError):
            change(part, **invalid)
    for invalid, error in (({"api_base": "nowhere"}, e.WrongAddress), ({"api_key": ["sk"]}, TypeError)):
        with pytest.raises(error):
            change(part, **invalid)
    with pytest.raises((TypeError, ValueError)):
        change(part, api_bse="http://elsewhere:1")
    call(part)
    assert (part.max_retries, part.api_base, len(fault_server.posts())) == (2, fault_server.url, 1)


@every_kind
@pytest.mark.parametrize("name", ["default_headers", "default_query"])
def test_headers_cannot_be_changed_in_place(kind, name):
    part = kind(**{name: {"x-a": "1"}})
    with pytest.raises(TypeError, match="Assign a new dict"):
        getattr(part, name)["x-b"] = "2"
    with pytest.raises(TypeError, match="Assign a new dict"):
        getattr(copy.deepcopy(part), name).update(a="2")


@every_kind
@every_way
def test_changed_server_is_followed(two_servers, kind, change):
    one, two = two_servers
    part = kind(server=VLLMServer(one.url, api_key="sk-one", timeout=7))
    call(part)
    changed = change(part, server=VLLMServer(two.url, api_key="sk-two", max_retries=0))
    call(changed)
    assert len(two.posts()) == 1
    assert (changed.api_base, changed.timeout, changed.max_retries) == (two.url, Timeouts(), 0)
    with pytest.raises(ValueError, match="different addresses"):
        change(changed, api_base=one.url)


@every_kind
def test_settings_beside_a_server_are_refused(kind):
    server = VLLMServer("http://a:1", api_key="sk-there", timeout=7, max_retries=1)
    for given in ({"timeout": 9}, {"max_retries": 5}, {"api_key": "sk-other"}, {"allow_unknown": True}):
        with pytest.raises(ValueError, match=f"`{next(iter(given))}` cannot be set beside `server`"):
            kind(server=server, **given)
    same = kind(server=server, timeout=7, max_retries=1, api_key="sk-there")
    assert (same.timeout, same.max_retries) == (Timeouts.of(7), 1)


def test_changed_address_has_its_own_context_length(make_fault_server):
    cards = [{"id": "one", "object": "model", "max_model_len": 100}]
    one, two = make_fault_server(models=cards), make_fault_server(models=[{**cards[0], "max_model_len": 200}])
    llm = VLLM("one", base_url=one.url)
    assert llm.metadata.context_window == 100
    llm.api_base = two.url
    assert llm.metadata.context_window == 200


# Copies and serialization


def test_limits_of_a_server_are_saved(fault_server):
    server = VLLMServer(fault_server.url, timeout=Timeouts(idle=9), max_retries=7, server_version="0.9.2")
    for kind in (VLLM, VLLMEmbedding, VLLMRerank):
        part = kind(server=server)
        for loaded in (kind.from_dict(part.to_dict()), pickle.loads(pickle.dumps(part))):
            assert (loaded.timeout, loaded.max_retries, loaded.server_version) == (Timeouts(idle=9), 7, "0.9.2")
            assert loaded._server.client.vllm.timeouts == Timeouts(idle=9)
            assert loaded._server.client.max_retries == 7


@every_kind
def test_child_process_gets_the_credentials(make_fault_server, kind):
    # A pickle does not contain them, but what multiprocessing sends to a child process of this one does.
    server = make_fault_server(api_key="sk-there")
    settings = {"api_key": "sk-there", "default_headers": {"x-team": "search"}, "default_query": {"sig": "s"}}
    own = kind(base_url=server.url, **settings)
    shared = kind(server=VLLMServer(server.url, **settings))
    for part in (own, shared):
        loaded = ForkingPickler.loads(ForkingPickler.dumps(part))
        call(loaded)
        assert server.posts()[-1].headers["x-team"] == "search"
        assert server.posts()[-1].path.endswith("?sig=s")
        assert b"sk-there" not in pickle.dumps(part)


def test_headers_in_additional_kwargs(make_fault_server):
    server = make_fault_server()
    llm = VLLM(base_url=server.url, additional_kwargs={"extra_headers": {"x-token": "sk-canary"}, "timeout": 9})
    llm.complete("hi")
    assert server.posts()[0].headers["x-token"] == "sk-canary"
    assert "canary" not in repr(llm) + str(llm.to_dict()) + repr(pickle.dumps(llm))
    assert VLLM.from_dict(llm.to_dict()).additional_kwargs == {"timeout": 9}


@every_kind
def test_copies_keep_the_key(make_fault_server, kind):
    server = make_fault_server(api_key="sk-there")
    part = kind(base_url=server.url, api_key="sk-there")
    for copied in (copy.copy(part), copy.deepcopy(part), part.model_copy()):
        call(copied)
    assert len(server.posts()) == 3


@every_kind
def test_round_trips(kind, fault_server):
    settings = {"truncate_prompt_tokens": 7, "timeout": Timeouts(idle=9), "max_retries": 1}
    part = kind(base_url=fault_server.url, api_key="sk-gone", default_query={"sig": "sk-gone"}, **settings)
    for loaded in (kind.from_dict(part.to_dict()), kind.from_json(part.to_json()), pickle.loads(pickle.dumps(part))):
        assert type(loaded) is kind
        assert loaded.api_base == fault_server.url
        assert (loaded.truncate_prompt_tokens, loaded.timeout, loaded.max_retries) == (7, Timeouts(idle=9), 1)
        assert loaded.api_key is loaded.default_query is None
    assert part.to_dict()["class_name"] == kind.class_name() == kind.__name__
    assert "sk-gone" not in repr(part) + part.to_json() + repr(pickle.dumps(part))


def test_pickle_reads_the_key_where_it_is_loaded(make_fault_server, monkeypatch):
    server = make_fault_server(api_key="sk-there")
    packed = pickle.dumps(VLLM(base_url=server.url, api_key="sk-there", top_k=5, max_retries=0))
    monkeypatch.setenv("VLLM_API_KEY", "sk-there")
    assert pickle.loads(packed).complete("hi").text == "hi"
    assert server.posts(CHAT)[0].json["top_k"] == 5
