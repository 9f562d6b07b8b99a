"""ChatVLLM as an object: which server it speaks to, what it knows of it, and that its key stays with it."""

import asyncio
import copy
import logging
import pickle
import traceback

import pytest

pytest.importorskip("langchain_openai")

import langchain_core.exceptions as lc
from langchain_core.load import dumps
from pydantic import ValidationError

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.langchain import VLLM, ChatVLLM
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"


def test_a_server_object_instead_of_an_address(fault_server):
    server = VLLMServer(fault_server.url, api_key="sk-of-the-server", max_retries=0)
    assert ChatVLLM(server=server).invoke("hi").text == "hi"
    assert fault_server.posts(CHAT)[0].headers["authorization"] == "Bearer sk-of-the-server"


def test_the_model_of_a_server_object(make_fault_server):
    server = make_fault_server(models=("one", "two"))
    ChatVLLM(server=VLLMServer(server.url, model="two")).invoke("hi")
    ChatVLLM(server=VLLMServer(server.url, model="two"), model="one").invoke("hi")
    assert [request.json["model"] for request in server.posts(CHAT)] == ["two", "one"]


def test_two_servers_do_not_share_cached_answers():
    one, two = ChatVLLM(base_url="http://a:1"), ChatVLLM(base_url="http://b:1")
    assert one._get_llm_string() != two._get_llm_string()
    assert ChatVLLM(top_k=1)._get_llm_string() != ChatVLLM(top_k=2)._get_llm_string()


def test_no_key_anywhere(fault_server, caplog):
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


def test_a_pickle_reads_the_key_where_it_is_opened(make_fault_server, monkeypatch):
    server = make_fault_server(api_key="sk-there")
    packed = pickle.dumps(ChatVLLM(base_url=server.url, api_key="sk-there", top_k=5, max_retries=0))
    monkeypatch.setenv("VLLM_API_KEY", "sk-there")
    assert pickle.loads(packed).invoke("hi").text == "hi"
    assert server.posts(CHAT)[0].json["top_k"] == 5


def test_an_api_key_of_the_wrong_type_is_not_shown():
    with pytest.raises(TypeError, match="must be a str") as caught:
        ChatVLLM(api_key=["sk-canary"])
    assert "canary" not in str(caught.value)


def test_the_constructor_asks_nothing(fault_server):
    llm = ChatVLLM(base_url=fault_server.url)
    assert llm.profile["structured_output"] is True
    assert "max_input_tokens" not in llm.profile
    assert ChatVLLM(model="gpt-4o").profile == llm.profile, "a served name is no OpenAI model"
    assert not fault_server.requests


def test_the_profile_of_a_lora_adapter_is_its_bases(make_fault_server):
    lora = {"id": "mine", "object": "model", "parent": "base", "root": "/x", "max_model_len": None}
    server = make_fault_server(models=("base", lora), max_model_len=4096)
    llm = ChatVLLM.from_server(server.url, model="mine")
    assert (llm.model_name, llm.profile["name"], llm.profile["max_input_tokens"]) == ("mine", "mine", 4096)
    assert asyncio.run(ChatVLLM.afrom_server(server.url)).model_name == "base"


def test_the_base_of_a_lora_adapter_may_be_named_by_its_root(make_fault_server):
    base = {"id": "alias", "object": "model", "parent": None, "root": "org/base", "max_model_len": 4096}
    lora = {"id": "mine", "object": "model", "parent": "org/base", "root": "/x", "max_model_len": None}
    server = make_fault_server(models=(base, lora))
    assert ChatVLLM.from_server(server.url, model="mine").profile["max_input_tokens"] == 4096


def test_a_server_that_serves_several_models(make_fault_server):
    server = make_fault_server(models=("one", "two"))
    with pytest.raises(lc.ModelNotFoundError, match="one, two"):
        ChatVLLM.from_server(server.url)
    assert ChatVLLM.from_server(server.url, model="two").model_name == "two"


def test_two_addresses_are_refused(fault_server):
    server = VLLMServer(fault_server.url)
    with pytest.raises(ValidationError, match="two addresses"):
        ChatVLLM(server=server, base_url="http://elsewhere:8000")
    ChatVLLM(server=server, base_url=fault_server.url)
    for setting in ({"default_headers": {"x-team": "search"}}, {"server_version": "0.10.2"}):
        with pytest.raises(ValidationError, match="Give either server or"):
            ChatVLLM(server=server, **setting)


@pytest.mark.parametrize(
    "lost", [{"http_socket_options": [(6, 1, 1)]}, {"organization": "org"}, {"openai_proxy": "http://proxy:1"}]
)
def test_settings_that_would_be_lost_are_refused(lost):
    with pytest.raises(ValidationError, match=r"vLLM has no organizations|is not supported"):
        ChatVLLM(**lost)


def test_a_deep_copy_shares_the_connections_and_the_key(make_fault_server):
    server = make_fault_server(api_key="sk-there")
    llm = ChatVLLM(base_url=server.url, api_key="sk-there", max_retries=0, chat_template_kwargs={"a": 1})
    copied = copy.deepcopy(llm)
    assert copied.chat_template_kwargs is not llm.chat_template_kwargs
    assert copied.root_client is llm.root_client
    assert copied.invoke("hi").text == asyncio.run(copied.ainvoke("hi")).text == "hi"


def test_tokens_are_asked_for_once(fault_server):
    llm = ChatVLLM(base_url=fault_server.url, max_retries=0)
    for _ in range(2):
        llm.get_num_tokens("one two")
        llm.get_num_tokens_from_messages([("user", "hi")])
    assert len(fault_server.posts("/tokenize")) == 2
    assert ChatVLLM(custom_get_token_ids=lambda text: [1, 2, 3]).get_num_tokens("x") == 3


@pytest.mark.parametrize("cls", [ChatVLLM, VLLM])
def test_tokens_are_those_of_the_model_that_a_copy_names(make_fault_server, cls):
    server = make_fault_server(models=("one", "two"))
    llm = cls(base_url=server.url, model="one")
    llm.get_num_tokens("one two")
    copied = llm.model_copy(update={"model_name": "two"})
    copied.get_num_tokens("one two")
    assert [request.json["model"] for request in server.posts("/tokenize")] == ["one", "two"]


def test_the_room_for_a_text_is_that_of_the_model_that_is_asked(make_fault_server):
    server = make_fault_server(models=("one", "two"))
    llm = VLLM(base_url=server.url, model="one", max_tokens=-1)
    llm.invoke("a b", model="two")
    asyncio.run(llm.ainvoke("a b", model="two"))
    list(llm.stream("a b", model="two"))
    assert [request.json["model"] for request in server.posts("/tokenize")] == ["two"] * 3
