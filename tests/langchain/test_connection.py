"""The connection settings that all classes share: which server, whose key, and that neither leaks."""

import asyncio
import copy
import logging
import pickle
import traceback

import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_core.documents import Document
from langchain_core.load import dumps
from langchain_core.runnables import ConfigurableField
from langchain_core.stores import InMemoryByteStore
from pydantic import ValidationError

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters._compat import http
from vllm_adapters.langchain import VLLM, ChatVLLM, VLLMEmbeddings, VLLMRerank
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"
CLASSES = {
    ChatVLLM: (lambda llm: llm.invoke("x"), lambda llm: llm.ainvoke("x")),
    VLLM: (lambda llm: llm.invoke("x"), lambda llm: llm.ainvoke("x")),
    VLLMEmbeddings: (lambda part: part.embed_query("x"), lambda part: part.aembed_query("x")),
    VLLMRerank: (
        lambda part: part.compress_documents([Document("x")], "x"),
        lambda part: part.acompress_documents([Document("x")], "x"),
    ),
}

recorded = pytest.mark.vllm("tiny")
recorded_embeddings = pytest.mark.vllm("minilm")
every_class = pytest.mark.parametrize("cls", CLASSES)
every_model_class = pytest.mark.parametrize("cls", [ChatVLLM, VLLM])


def use(part):
    """Send a request with it, sync."""
    return CLASSES[type(part)][0](part)


def ause(part):
    """Send a request with it, async."""
    return asyncio.run(CLASSES[type(part)][1](part))


# Stock: "Missing credentials" before anything is sent.
@recorded
def test_key_is_not_required(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert ChatVLLM().invoke("Hello").text


# Stock: a key for OpenAI is sent to whatever host base_url names.
@every_class
def test_openais_environment_is_not_read(fault_server, monkeypatch, cls):
    for name in ("OPENAI_API_BASE", "OPENAI_BASE_URL", "OPENAI_PROXY"):
        monkeypatch.setenv(name, "http://canary.example")
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_ORGANIZATION"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("VLLM_BASE_URL", fault_server.url)
    use(cls(max_retries=0))
    post = fault_server.posts()[-1]
    assert post.headers["authorization"] == "Bearer EMPTY"
    assert "canary" not in repr((post.path, dict(post.headers), post.body))


def test_constructor_sends_nothing(fault_server):
    for cls in CLASSES:
        cls(base_url=fault_server.url)
    assert not fault_server.requests


# Settings


@every_class
def test_every_class_has_every_setting(make_fault_server, cls):
    server = make_fault_server(api_key="sk-there", version="0.32.0")
    part = cls(
        model="stub",
        base_url=server.url,
        api_key="sk-there",
        timeout=5,
        max_retries=0,
        server_version="0.32.0",
        allow_unknown=True,
        extra_body={"plugin": 1},
        default_headers={"X-Team": "search"},
        default_query={"tenant": "a"},
    )
    use(part)
    ause(part)
    assert "/version" not in {request.route for request in server.requests}
    assert len(server.posts()) == 2
    for post in server.posts():
        assert post.headers["x-team"] == "search"
        assert "tenant=a" in post.path
        assert post.json["plugin"] == 1
        assert "allow_unknown" not in post.json


@every_class
def test_http_clients_of_the_user_are_used(fault_server, cls):
    seen = []

    def note(request):
        seen.append(request.url.path)

    async def anote(request):
        seen.append(request.url.path)

    client = http.Client(event_hooks={"request": [note]})
    async_client = http.AsyncClient(event_hooks={"request": [anote]})
    part = cls(base_url=fault_server.url, model="stub", http_client=client, http_async_client=async_client)
    use(part)
    ause(part)
    assert len(seen) >= 2
    assert copy.deepcopy(part).http_client is client
    assert isinstance(pickle.loads(pickle.dumps(part)), cls)


@every_class
def test_unknown_field_needs_allow_unknown(fault_server, cls):
    with pytest.raises(e.UnknownParameter, match="plugin"):
        use(cls(base_url=fault_server.url, model="stub", extra_body={"plugin": 1}, max_retries=0))
    assert not fault_server.posts()


@every_class
def test_allow_unknown_holds_on_a_shared_server(fault_server, cls):
    shared = VLLMServer(fault_server.url, model="stub")
    use(cls(server=shared, extra_body={"plugin": 1}, allow_unknown=True))
    assert fault_server.posts()[-1].json["plugin"] == 1
    with pytest.raises(e.UnknownParameter):
        use(cls(server=shared, extra_body={"plugin": 1}))


@every_class
def test_server_version_of_the_user_holds(fault_server, cls):
    name = {VLLMRerank: "max_tokens_per_doc"}.get(cls, "cache_salt")
    value = 5 if cls is VLLMRerank else "pepper"
    with pytest.raises(e.UnsupportedParameter, match=rf"0\.8\.5.*`{name}`"):
        use(cls(base_url=fault_server.url, model="stub", server_version="0.8.5", **{name: value}))
    assert not fault_server.requests


# A server object


@every_class
def test_server_object_instead_of_an_address(fault_server, cls):
    server = VLLMServer(fault_server.url, api_key="sk-of-the-server", max_retries=0, model="stub")
    use(cls(server=server))
    assert fault_server.posts()[-1].headers["authorization"] == "Bearer sk-of-the-server"


@every_class
def test_model_of_a_server_object(make_fault_server, cls):
    server = make_fault_server(models=("one", "two"))
    shared = VLLMServer(server.url, model="two")
    for part in (cls(server=shared), cls(server=shared, model="one")):
        use(part)
        ause(part)
    assert [request.json["model"] for request in server.posts()] == ["two", "two", "one", "one"]


@every_class
def test_server_with_other_settings_is_rejected(fault_server, cls):
    server = VLLMServer(fault_server.url)
    with pytest.raises(ValidationError, match="different addresses"):
        cls(server=server, base_url="http://elsewhere:8000")
    cls(server=server, base_url=fault_server.url)
    for setting in ({"default_headers": {"x-team": "search"}}, {"server_version": "0.10.2"}, {"http_client": object()}):
        with pytest.raises(ValidationError, match="cannot be set beside `server`"):
            cls(server=server, **setting)


@every_model_class
@pytest.mark.parametrize(
    "setting", [{"http_socket_options": [(6, 1, 1)]}, {"organization": "org"}, {"openai_proxy": "http://proxy:1"}]
)
def test_openais_settings_are_rejected(cls, setting):
    unknown = cls is VLLM and "http_socket_options" in setting  # BaseOpenAI does not have it
    with pytest.raises(e.UnknownParameter if unknown else ValidationError, match=r"is not supported|is not a param"):
        cls(**setting)


# A changed model


@every_class
def test_changed_model_is_followed(make_fault_server, cls):
    server = make_fault_server(models=("one", "two", "three"))
    field = cls._setting_fields[0]
    part = cls(base_url=server.url, model="one")
    use(part)
    copied = part.model_copy(update={field: "two"})
    use(copied)
    ause(copied)
    setattr(part, field, "three")
    use(part)
    ause(part)
    assert [request.json["model"] for request in server.posts()] == ["one", "two", "two", "three", "three"]


@every_model_class
def test_tokens_are_those_of_the_changed_model(make_fault_server, cls):
    server = make_fault_server(models=("one", "two"))
    llm = cls(base_url=server.url, model="one")
    llm.get_num_tokens("one two")
    llm.model_copy(update={"model_name": "two"}).get_num_tokens("one two")
    assert [request.json["model"] for request in server.posts("/tokenize")] == ["one", "two"]


# Keys


def test_key_is_shown_nowhere(fault_server, caplog):
    key = "sk-canary"
    with caplog.at_level(logging.DEBUG):
        llm = ChatVLLM(base_url=fault_server.url, api_key=key, default_headers={"X-Token": key}, max_retries=0, top_k=5)
        llm.invoke("hi")
        list(llm.stream("hi"))
        shown = [repr(llm), str(llm), dumps(llm), str(llm.model_dump()), llm.model_dump_json(), llm._get_llm_string()]
        shown += [repr(llm.bind(top_k=1)), repr(llm.root_client), str(vars(llm.server or object))]
        fault_server.reply(faults.error(401, "Unauthorized", shape="string"))
        try:
            llm.invoke("hi")
        except e.AuthenticationFailed as error:
            shown += [str(error), repr(error), str(vars(error)), str(error.request.headers)]
            shown += traceback.format_exception(error)
            shown.append(repr(pickle.dumps(error)))
        shown.append(repr(pickle.dumps(llm)))
    assert fault_server.posts(CHAT)[0].headers["x-token"] == key
    for text in (*shown, caplog.text):
        assert key not in text


@every_class
def test_key_of_the_wrong_type_is_not_shown(cls):
    with pytest.raises(TypeError, match="`api_key` must be a str") as caught:
        cls(api_key=["sk-canary"])
    assert "canary" not in str(caught.value)


@every_class
def test_pickle_has_no_key_and_reads_it_where_it_is_loaded(make_fault_server, monkeypatch, cls):
    server = make_fault_server(api_key="sk-there")
    for part in (
        cls(base_url=server.url, api_key="sk-there", default_headers={"x-secret": "canary"}, max_retries=0),
        cls(server=VLLMServer(server.url, api_key="sk-there", default_headers={"x-secret": "canary"}, timeout=7)),
    ):
        packed = pickle.dumps(part)
        assert b"canary" not in packed
        assert b"sk-there" not in packed
        assert "canary" not in repr(part) + str(part) + part.model_dump_json()
        with monkeypatch.context() as patch:
            patch.setenv("VLLM_API_KEY", "sk-there")
            loaded = pickle.loads(packed)
        use(loaded)
        assert loaded.server is None or loaded.server.client.timeout.read == 7


@every_class
def test_deep_copy_shares_the_connections_and_the_key(make_fault_server, cls):
    server = make_fault_server(api_key="sk-there")
    part = cls(base_url=server.url, api_key="sk-there", max_retries=0)
    copied = copy.deepcopy(part)
    assert copied._connected is part._connected
    use(copied)
    ause(copied)


# LangChain's cache


@every_model_class
def test_cache_key_contains_server_and_parameters(cls):
    def key(**options):
        llm = cls(**options)
        return llm._get_llm_string() if cls is ChatVLLM else str(sorted(llm._identifying_params.items()))

    assert key(base_url="http://a:1") != key(base_url="http://b:1")
    assert key(top_k=1) != key(top_k=2)
    assert key(top_k=1) == key(top_k=1)


@every_class
def test_key_may_be_a_function(make_fault_server, cls):
    keys = iter(["sk-1", "sk-2", "sk-3", "sk-4"])
    server = make_fault_server()
    part = cls(base_url=server.url, model="stub", max_retries=0, api_key=lambda: next(keys))
    use(part)
    ause(part)
    use(part.model_copy(update={"max_retries": 1}))
    assert [r.headers["authorization"] for r in server.requests] == ["Bearer sk-1", "Bearer sk-2", "Bearer sk-3"]
    assert "sk-" not in repr(part)


# Settings that change later


SETTINGS = {
    ChatVLLM: ("openai_api_base", "openai_api_key", "request_timeout"),
    VLLM: ("openai_api_base", "openai_api_key", "request_timeout"),
    VLLMEmbeddings: ("base_url", "api_key", "timeout"),
    VLLMRerank: ("base_url", "api_key", "timeout"),
}
ARGUMENTS = ("base_url", "api_key", "timeout")


def assigned(part, update):
    """The same object, its fields assigned one by one."""
    for name, value in update.items():
        setattr(part, name, value)
    return part


def changed(part, update):
    return part.model_copy(update=update)


def renamed(part, update):
    """A copy with changes under the names of the constructor's arguments."""
    names = dict(zip(SETTINGS[type(part)], ARGUMENTS, strict=True))
    return part.model_copy(update={names.get(name, name): value for name, value in update.items()})


def seen_by(server):
    return [request.headers["authorization"] for request in server.requests]


ways_to_change = pytest.mark.parametrize("change", [assigned, changed, renamed])


# Stock: everything goes on to the old server, with the old key.
@every_class
@ways_to_change
def test_changed_address_is_followed_without_the_old_credentials(make_fault_server, monkeypatch, cls, change):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    old, new = make_fault_server(), make_fault_server()
    secrets = {"default_headers": {"X-Token": "sk-old"}, "default_query": {"token": "sk-old"}}
    part = cls(base_url=old.url, api_key="sk-old", max_retries=0, **secrets)
    use(part)
    count = len(old.requests)
    part = change(part, {SETTINGS[cls][0]: new.url})
    use(part)
    ause(part)
    assert len(old.requests) == count
    assert set(seen_by(new)) == {"Bearer EMPTY"}
    for request in new.requests:
        assert "sk-old" not in request.path
        assert "x-token" not in request.headers


@every_class
@ways_to_change
def test_changed_key_headers_and_limits_are_followed(make_fault_server, cls, change):
    server, other = make_fault_server(), make_fault_server()
    address, key, timeout = SETTINGS[cls]
    part = cls(base_url=server.url, model="stub", api_key="sk-old", max_retries=0)
    part = change(part, {key: "sk-new", "default_headers": {"X-Token": "new"}, timeout: 7, "max_retries": 1})
    use(part)
    assert seen_by(server) == ["Bearer sk-new"]
    assert server.requests[0].headers["x-token"] == "new"
    assert part._connected.client.timeout.read == 7
    assert part._connected.client.max_retries == 1
    assert "sk-new" not in repr(part)
    part = change(part, {address: other.url, key: "sk-other"})
    use(part)
    assert seen_by(other) == ["Bearer sk-other"]
    assert "x-token" not in other.requests[0].headers


@every_class
def test_copy_with_another_address_leaves_the_original(make_fault_server, cls):
    old, new = make_fault_server(), make_fault_server()
    part = cls(base_url=old.url, model="stub", api_key="sk-old", max_retries=0)
    copied = part.model_copy(update={"base_url": new.url})
    use(part)
    use(copied)
    assert seen_by(old) == ["Bearer sk-old"]
    same = part.model_copy(update={"base_url": old.url.removesuffix("/v1"), "max_retries": 3})
    use(same)
    assert seen_by(old) == ["Bearer sk-old"] * 2


@every_class
def test_changed_server_is_followed(make_fault_server, cls):
    old, new = make_fault_server(), make_fault_server()
    part = cls(base_url=old.url, api_key="sk-old", max_retries=0)
    part.server = VLLMServer(new.url, api_key="sk-new")
    use(part)
    assert not old.requests
    assert set(seen_by(new)) == {"Bearer sk-new"}


@every_class
def test_settings_beside_a_server_are_rejected(fault_server, cls):
    server = VLLMServer(fault_server.url)
    for name, value in {"api_key": "sk", "timeout": 5, "max_retries": 7}.items():
        with pytest.raises(ValueError, match=f"`{name}` cannot be set beside `server`"):
            cls(server=server, **{name: value})
    part = cls(server=server)
    for name, value in zip(SETTINGS[cls], ("http://other:1", "sk", 5), strict=True):
        with pytest.raises(ValueError, match="cannot be set beside `server`"):
            setattr(part, name, value)
    use(part)


@every_class
def test_invalid_changes_are_rejected_and_change_nothing(fault_server, cls):
    part = cls(base_url=fault_server.url, model="stub", max_retries=0)
    address, _, timeout = SETTINGS[cls]
    for name, value, error in ((address, "nonsense", e.WrongAddress), (timeout, "soon", TypeError)):
        with pytest.raises(error):
            setattr(part, name, value)
    with pytest.raises(e.UnknownParameter, match="temprature"):
        part.model_copy(update={"temprature": 1})
    use(part)


def test_configurable_address_does_not_get_the_old_key(make_fault_server):
    old, new = make_fault_server(), make_fault_server()
    field = ConfigurableField("url")
    llm = ChatVLLM(base_url=old.url, api_key="sk-old", default_headers={"X-Token": "sk-old"}, max_retries=0)
    chosen = llm.configurable_fields(openai_api_base=field).with_config(configurable={"url": new.url})
    chosen.invoke("x")
    assert set(seen_by(new)) == {"Bearer EMPTY"}
    assert "x-token" not in new.requests[0].headers
    assert not old.requests


# The model's name


# Stock: an empty name, under which another model's vectors are found.
@recorded_embeddings
def test_cached_vectors_are_kept_apart_by_the_served_name(vllm_url):
    embeddings = VLLMEmbeddings()
    assert embeddings.model == "minilm"
    assert embeddings.model_copy(update={"model": "other"}).model == "other"
    embeddings.model = "another"
    assert embeddings.model == embeddings.model_name == "another"


def test_cached_vectors_of_another_model_are_not_returned(fault_server):
    store = InMemoryByteStore()
    for name in ("one", "two"):
        cards = {"data": [{"id": name, "root": name, "object": "model"}]}
        fault_server.reply(faults.json_reply(cards), "/v1/models")
        embeddings = VLLMEmbeddings(base_url=fault_server.url, max_retries=0)
        CacheBackedEmbeddings.from_bytes_store(embeddings, store, namespace=embeddings.model).embed_documents(["a"])
    assert [request.json["model"] for request in fault_server.posts("/v1/embeddings")] == ["one", "two"]


def test_name_of_no_model_is_not_empty(fault_server):
    fault_server.reply(faults.json_reply({"data": []}), "/v1/models")
    with pytest.raises(e.ModelNotServed):
        _ = VLLMEmbeddings(base_url=fault_server.url, max_retries=0).model
