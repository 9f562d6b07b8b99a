"""What all components share: their classes, settings, keys, servers, lifecycle, and how they are copied."""

import asyncio
import copy
import inspect
import logging
import pickle
import traceback

import pytest
from haystack import Document
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret

from vllm_adapters import Timeouts, VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.haystack import (
    VLLMChatGenerator,
    VLLMDocumentEmbedder,
    VLLMRanker,
    VLLMTextEmbedder,
    VLLMTokenCounter,
)
from vllm_adapters.haystack._component import VLLMComponent
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"
CLASSES = [VLLMChatGenerator, VLLMTextEmbedder, VLLMDocumentEmbedder, VLLMRanker, VLLMTokenCounter]
COMPONENTS = CLASSES[:-1]
CONNECTION = set(inspect.signature(VLLMComponent.__init__).parameters) - {"self"}

every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
every_component = pytest.mark.parametrize("cls", COMPONENTS, ids=lambda cls: cls.__name__)


def send(component):
    """Have a component send one request."""
    match component:
        case VLLMChatGenerator():
            return component.run("one two")
        case VLLMTextEmbedder():
            return component.run("one two")
        case VLLMDocumentEmbedder():
            component.progress_bar = False
            return component.run([Document(content="one two")])
        case VLLMRanker():
            return component.run("one", [Document(content="one two")])
        case VLLMTokenCounter():
            return component.count([ChatMessage.from_user("one two")])


async def send_async(component):
    match component:
        case VLLMChatGenerator() | VLLMTextEmbedder():
            return await component.run_async("one two")
        case VLLMDocumentEmbedder():
            component.progress_bar = False
            return await component.run_async([Document(content="one two")])
        case VLLMRanker():
            return await component.run_async("one", [Document(content="one two")])


# Classes and settings


def test_inheritance():
    lines = {cls.__name__: [base.__name__ for base in cls.__mro__[1:-1]] for cls in CLASSES}
    assert lines == {
        "VLLMChatGenerator": ["VLLMComponent"],
        "VLLMTextEmbedder": ["_EmbedderComponent", "VLLMComponent"],
        "VLLMDocumentEmbedder": ["_EmbedderComponent", "VLLMComponent"],
        "VLLMRanker": ["VLLMComponent"],
        "VLLMTokenCounter": ["VLLMComponent"],
    }


@every_class
def test_every_component_has_every_setting(cls):
    parameters = inspect.signature(cls.__init__).parameters
    assert parameters.keys() >= CONNECTION
    assert all(parameter.kind is parameter.KEYWORD_ONLY for name, parameter in parameters.items() if name != "self")
    for name in CONNECTION:
        assert f"        {name}: " in cls.__doc__, name
    defaults = {name: parameters[name].default for name in CONNECTION - {"api_key"}}
    assert set(defaults.values()) == {None, False}


@every_class
def test_headers_and_query(fault_server, monkeypatch, cls):
    monkeypatch.setenv("GATEWAY_TOKEN", "sesame")
    component = cls(
        api_base_url=fault_server.url,
        default_headers={
            "X-Token": Secret.from_env_var("GATEWAY_TOKEN"),
            "X-Unset": Secret.from_env_var("NO_SUCH_VARIABLE", strict=False),
            "X-Team": "search\n",
        },
        default_query={"tenant": "a"},
        http_client_kwargs={"headers": {"X-Other": Secret.from_env_var("GATEWAY_TOKEN")}},
    )
    send(component)
    (request,) = fault_server.posts()
    assert request.path.endswith("?tenant=a")
    headers = request.headers
    assert (headers["x-token"], headers["x-team"], headers["x-other"]) == ("sesame", "search", "sesame")
    assert "x-unset" not in headers


@every_class
def test_invalid_headers_are_rejected_without_being_shown(cls):
    for header in ({"X-Token": "canary\nx: y"}, {"X-Token": "canaryü"}):
        with pytest.raises(e.InvalidRequest, match="'X-Token'") as caught:
            cls(default_headers=header)
        assert "canary" not in str(caught.value)
    with pytest.raises(TypeError, match="headers must be a mapping") as caught:
        cls(default_headers="canary")
    assert "canary" not in str(caught.value)


@every_class
@pytest.mark.parametrize("given", [False, True], ids=["api_base_url", "server"])
def test_allow_unknown(fault_server, cls, given):
    place = {"server": VLLMServer(fault_server.url)} if given else {"api_base_url": fault_server.url}
    name = "generation_kwargs" if cls is VLLMChatGenerator else "extra_parameters"
    with pytest.raises(e.UnknownParameter):
        send(cls(**place, **{name: {"plugin": 1}}))
    assert not fault_server.posts()
    send(cls(**place, **{name: {"plugin": 1}}, allow_unknown=True))
    (body,) = (request.json for request in fault_server.posts())
    assert body["plugin"] == 1
    assert "allow_unknown" not in body


@every_class
def test_server_version(make_fault_server, cls):
    server = make_fault_server(version=None)
    component = cls(api_base_url=server.url, server_version="0.10.2")
    send(component)
    assert str(component._client.vllm.info.version) == "0.10.2"
    assert not [request for request in server.requests if request.route == "/version"]


@every_class
def test_default_timeouts(cls):
    # vllm-haystack's ranker gives up after 5 s.
    component = cls()
    component.warm_up()
    limits = component._client.vllm.timeouts
    assert (limits.connect, limits.idle, limits.total) == (30, 600, 3600)
    assert component._client.max_retries == 2


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0.4},
        {"timeout": {"connect": 5, "idle": 0.4, "total": 9}},
        {"http_client_kwargs": {"timeout": 0.4}},
        {"timeout": 0.4, "http_client_kwargs": {"timeout": 60}},
    ],
    ids=["number", "dict", "http_client_kwargs", "both"],
)
def test_timeouts(fault_server, options):
    fault_server.reply(faults.hang())
    with pytest.raises(e.ServerTimeout):
        send(VLLMChatGenerator(api_base_url=fault_server.url, max_retries=0, **options))


# API keys


def test_api_key(make_fault_server, monkeypatch):
    server = make_fault_server(api_key="sk-there")
    llm = VLLMChatGenerator(api_base_url=server.url, max_retries=0)
    with pytest.raises(e.AuthenticationFailed):
        send(llm)
    monkeypatch.setenv("VLLM_API_KEY", "sk-there")
    llm.close()
    assert send(llm)["replies"][0].text == "one two"
    with pytest.raises(e.AuthenticationFailed):
        send(VLLMChatGenerator(api_base_url=server.url, api_key=None, max_retries=0))


@every_class
def test_api_key_of_an_unset_variable(cls):
    component = cls(api_key=Secret.from_env_var("NO_SUCH_KEY"))
    with pytest.raises(ValueError, match="NO_SUCH_KEY"):
        component.warm_up()


@every_class
def test_api_key_must_be_a_secret(cls):
    with pytest.raises(TypeError, match=r"must be a haystack\.utils\.Secret") as caught:
        cls(api_key="sk-canary")
    assert "canary" not in str(caught.value)


def test_api_key_is_not_shown(make_fault_server, caplog):
    key = "sk-canary"
    server = make_fault_server(api_key=key)
    shown = []
    with caplog.at_level(logging.DEBUG):
        for cls in CLASSES:
            component = cls(api_base_url=server.url, api_key=Secret.from_token(key), max_retries=0)
            send(component)
            shown += [repr(component), str(component), repr(component._client)]
            with pytest.raises(ValueError, match="token-based secret"):
                component.to_dict()
        server.reply(faults.error(401, "Unauthorized", shape="string"))
        with pytest.raises(e.AuthenticationFailed) as caught:
            send(VLLMChatGenerator(api_base_url=server.url, api_key=Secret.from_token(key), max_retries=0))
        shown += [str(caught.value), str(vars(caught.value)), repr(pickle.dumps(caught.value))]
    assert not [text for text in (*shown, caplog.text) if key in text]


@every_class
def test_credentials_are_not_shown_by_a_wrong_address(monkeypatch, cls):
    monkeypatch.setenv("TOKEN", "canary")
    secret = Secret.from_env_var("TOKEN")
    headers = {"X-Named": secret, "X-Text": "canary"}
    component = cls(
        api_base_url="ftp://gpu", api_key=secret, default_headers=headers, http_client_kwargs={"headers": headers}
    )
    with pytest.raises(e.WrongAddress) as caught:
        component.warm_up()
    frames = traceback.TracebackException(type(caught.value), caught.value, caught.tb.tb_next, capture_locals=True)
    assert "canary" not in "".join(frames.format())


# A given server


def test_given_server(make_fault_server):
    fault_server = make_fault_server(models=("one", "two"))
    server = VLLMServer(fault_server.url, api_key="sk-of-the-server", model="two", max_retries=0)
    llm = VLLMChatGenerator(server=server)
    assert send(llm)["replies"][0].text == "one two"
    llm.close()
    assert server.models()
    request = fault_server.posts(CHAT)[0]
    assert (request.headers["authorization"], request.json["model"]) == ("Bearer sk-of-the-server", "two")
    saved = llm.to_dict()["init_parameters"]
    assert (saved["api_base_url"], saved["model"]) == (server.base_url, "two")
    assert "sk-of" not in str(saved)


@every_class
@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"api_base_url": "http://b:1"}, "different addresses"),
        ({"server_version": "0.10.2"}, "`server_version` cannot be set beside `server`"),
        ({"default_headers": {"X-Token": "x"}}, "`default_headers` cannot be set beside `server`"),
        ({"default_query": {"tenant": "a"}}, "`default_query` cannot be set beside `server`"),
        ({"http_client_kwargs": {"verify": False}}, "`http_client_kwargs` cannot be set beside `server`"),
        ({"timeout": 5}, "`timeout` cannot be set beside `server`"),
        ({"timeout": {"total": 5}}, "`timeout` cannot be set beside `server`"),
        ({"max_retries": 0}, "`max_retries` cannot be set beside `server`"),
        ({"api_key": Secret.from_env_var("OTHER")}, "`api_key` cannot be set beside `server`"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_of_a_given_server_are_rejected(cls, setting, error):
    with pytest.raises(ValueError, match=error):
        cls(server=VLLMServer("http://a:1"), **setting)
    component = cls(server=VLLMServer("http://a:1"))
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=error):
        setattr(component, name, value)


@every_class
def test_settings_of_a_given_server_may_be_repeated(cls):
    server = VLLMServer("http://a:1", timeout=Timeouts(total=5), max_retries=1)
    assert cls(server=server, timeout={"total": 5}, max_retries=1).max_retries == 1


@every_class
def test_address_of_a_given_server(cls):
    assert cls(server=VLLMServer("http://a:1"), api_base_url="http://a:1/").api_base_url == "http://a:1/v1"


@pytest.mark.parametrize("is_async", [False, True], ids=["run", "run_async"])
@pytest.mark.parametrize("model", [None, "three"])
def test_model_of_a_given_server(make_fault_server, is_async, model):
    fault_server = make_fault_server(models=("one", "two", "three"))
    server = VLLMServer(fault_server.url, model="two")
    for cls in COMPONENTS if is_async else CLASSES:
        component = cls(server=server, model=model)
        asyncio.run(send_async(component)) if is_async else send(component)
    assert {request.json["model"] for request in fault_server.posts()} == {model or "two"}


@every_class
def test_model_may_be_changed(make_fault_server, cls):
    server = make_fault_server(models=("one", "two"))
    component = cls(api_base_url=server.url, model="one")
    send(component)
    component.model = "two"
    send(component)
    assert [request.json["model"] for request in server.posts()] == ["one", "two"]
    assert server.connections == 1


# Settings that are changed later


@every_class
def test_address_and_key_may_be_changed(make_fault_server, monkeypatch, cls):
    old, new = make_fault_server(), make_fault_server(api_key="sk-new")
    component = cls(api_base_url=old.url, api_key=Secret.from_token("sk-old"), max_retries=0)
    send(component)
    component.api_base_url, component.api_key = new.url, Secret.from_token("sk-new")
    send(component)
    assert [request.headers["authorization"] for request in old.posts()] == ["Bearer sk-old"]
    assert [request.headers["authorization"] for request in new.posts()] == ["Bearer sk-new"]
    component.api_base_url = None
    monkeypatch.setenv("VLLM_BASE_URL", old.url)
    send(component)
    assert len(old.posts()) == 2


@every_component
def test_settings_may_be_changed_in_async_code(make_fault_server, cls):
    old, new = make_fault_server(), make_fault_server()
    component = cls(api_base_url=old.url)
    asyncio.run(send_async(component))
    component.api_base_url = new.url
    asyncio.run(send_async(component))
    assert (len(old.posts()), len(new.posts())) == (1, 1)


@every_class
def test_headers_and_query_may_be_changed(fault_server, cls):
    component = cls(
        api_base_url=fault_server.url,
        default_headers={"X-A": "1"},
        default_query={"a": "1"},
        http_client_kwargs={"headers": {"X-B": "1"}},
    )
    send(component)
    component.default_headers = {"X-A": "2"}
    send(component)
    component.default_headers["X-A"] = "3"  # in place
    component.default_query["a"] = "3"
    component.http_client_kwargs["headers"]["X-B"] = "3"
    send(component)
    sent = [(r.headers["x-a"], r.headers["x-b"], r.path.partition("?")[2]) for r in fault_server.posts()]
    assert sent == [("1", "1", "a=1"), ("2", "1", "a=1"), ("3", "3", "a=3")]


@every_class
def test_limits_may_be_changed(fault_server, cls):
    component = cls(api_base_url=fault_server.url)
    send(component)
    component.timeout, component.max_retries = 7, 5
    send(component)
    assert (component._client.vllm.timeouts.total, component._client.max_retries) == (7, 5)
    component.server_version = "0.11.0"
    send(component)
    assert str(component._client.vllm.info.version) == "0.11.0"


@every_class
@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"timeout": "5"}, TypeError),
        ({"timeout": {"conect": 5}}, TypeError),
        ({"timeout": {"connect": "5"}}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"timeout": {"total": 0}}, ValueError),
        ({"http_client_kwargs": {"timeout": "5"}}, TypeError),
        ({"http_client_kwargs": "x"}, TypeError),
        ({"max_retries": "5"}, TypeError),
        ({"max_retries": -1}, ValueError),
        ({"default_query": "a=1"}, TypeError),
        ({"default_headers": "X-Token: canary"}, TypeError),
        ({"api_key": "canary"}, TypeError),
        ({"api_base_url": "http://me:canary@gpu"}, e.WrongAddress),
        ({"api_base_url": "http://gpu/v1?key=canary"}, ValueError),
    ],
    ids=str,
)
def test_invalid_settings_are_rejected_at_once(cls, setting, error):
    ((name, value),) = setting.items()
    component = cls()
    for attempt in (lambda: cls(**setting), lambda: setattr(component, name, value)):
        with pytest.raises(error, match=r"timeout|connect|total|max_retries|must be|contains") as caught:
            attempt()
        assert "canary" not in str(caught.value)
    assert getattr(component, name) == getattr(cls(), name)


# Validation of the model


@every_class
def test_model_is_validated_on_request(make_fault_server, cls):
    server = make_fault_server(models=("one", "two"))
    with pytest.raises(e.ModelNotServed, match="one, two"):
        cls(api_base_url=server.url, model="three", validate_model_on_init=True).warm_up()
    with pytest.raises(e.ModelNotServed, match="one, two"):
        cls(api_base_url=server.url, validate_model_on_init=True).warm_up()
    assert [request.route for request in server.requests] == ["/v1/models"] * 2
    component = cls(api_base_url=server.url, model="two", validate_model_on_init=True)
    assert len(server.requests) == 2, "the constructor sends nothing"
    for _ in range(2):
        component.warm_up()
    assert len(server.requests) == 3
    send(component)
    assert component.to_dict()["init_parameters"]["validate_model_on_init"] is True


@every_component
def test_model_is_validated_in_async_code(make_fault_server, cls):
    server = make_fault_server(models=("one", "two"))
    for model in ("three", None):
        component = cls(api_base_url=server.url, model=model, validate_model_on_init=True)
        for attempt in (component.warm_up_async(), send_async(component)):
            with pytest.raises(e.ModelNotServed, match="one, two"):
                asyncio.run(attempt)
    assert not server.posts()


# Lifecycle


@every_class
def test_warm_up_sends_no_request(fault_server, cls):
    component = cls(api_base_url=fault_server.url)
    for _ in range(2):
        component.warm_up()
        asyncio.run(component.warm_up_async())
    assert not fault_server.requests


def test_three_event_loops(stub_llm, fault_server):
    texts = [asyncio.run(send_async(stub_llm))["replies"][0].text for _ in range(3)]
    assert texts == ["one two"] * 3
    assert len(fault_server.posts(CHAT)) == 3


def test_closed_components_connect_again(stub_llm):
    async def close_and_run():
        await stub_llm.run_async("hi")
        await stub_llm.close_async()
        await stub_llm.close_async()
        return await stub_llm.run_async("hi")

    assert asyncio.run(close_and_run())["replies"][0].text == "hi"
    assert send(stub_llm)["replies"][0].text == "one two"
    stub_llm.close()
    stub_llm.close()
    assert send(stub_llm)["replies"][0].text == "one two"


# Copies


@every_component
def test_copies_and_pickles(make_fault_server, monkeypatch, cls):
    server = make_fault_server(api_key="sk-canary")
    component = cls(api_base_url=server.url, api_key=Secret.from_token("sk-canary"), max_retries=0)
    component.warm_up()
    for copied in (copy.copy(component), copy.deepcopy(component)):
        send(copied)
    pickled = pickle.dumps(component)
    assert b"canary" not in pickled
    assert isinstance(pickle.loads(pickled), cls)
    monkeypatch.setenv("VLLM_API_KEY", "sk-canary")
    send(pickle.loads(pickled))


@every_class
def test_pickles_contain_no_credentials(cls):
    named = Secret.from_env_var("TOKEN")
    component = cls(
        default_headers={"X-A": "canary", "X-B": Secret.from_token("canary"), "X-C": named},
        http_client_kwargs={"trust_env": False, "auth": ("me", "canary"), "headers": {"X-A": "canary", "X-C": named}},
    )
    pickled = pickle.dumps(component)
    assert b"canary" not in pickled
    loaded = pickle.loads(pickled)
    assert loaded.default_headers == {"X-C": named}
    assert loaded.http_client_kwargs == {"trust_env": False, "headers": {"X-C": named}}
