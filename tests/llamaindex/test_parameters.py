"""Parameters of ``VLLM``: what is sent, what overrides what, and what is refused before sending."""

import json

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from pydantic import ValidationError
from version_marks import constraint_is_enforced

from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank

recorded = pytest.mark.vllm("tiny")
sync_and_async_stream = pytest.mark.parametrize("method", ["chat", "astream_complete"], indirect=True)

CAPITAL = "What is the capital of Japan?"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@recorded
def test_unset_parameters_are_not_sent(sent):
    # Stock: temperature 0.1, which overrides the model's own.
    VLLM().complete("Hello")
    assert sent.last.json.keys() == {"model", "messages", "stream"}


@recorded
def test_call_overrides_constructor(sent):
    llm = VLLM(
        temperature=0.5,
        max_tokens=50,
        stop=["Japan"],
        top_k=5,
        min_p=0.1,
        chat_template_kwargs={"enable_thinking": True, "a": 1},
        additional_kwargs={"seed": 1, "extra_body": {"repetition_penalty": 1.1}},
        extra_body={"min_tokens": 1},
    )
    call = {"temperature": 0, "max_tokens": 3, "stop": ["x"], "top_k": 1, "min_p": None}
    response = llm.complete(CAPITAL, **call, chat_template_kwargs={"a": 2}, extra_body={"min_tokens": 2})
    assert response.additional_kwargs["completion_tokens"] == 3
    body = sent.last.json
    assert {name: body[name] for name in ("temperature", "max_tokens", "stop", "top_k")} == {
        "temperature": 0.0,
        "max_tokens": 3,
        "stop": ["x"],
        "top_k": 1,
    }
    assert "min_p" not in body
    assert (body["seed"], body["repetition_penalty"], body["min_tokens"]) == (1, 1.1, 2)
    assert body["chat_template_kwargs"] == {"enable_thinking": True, "a": 2}


def test_call_overrides_constructor_in_every_method(fault_server, method, is_chat_model):
    # Stock: the constructor's max_tokens, stop and extra_body win; reasoning_effort is never sent.
    llm = VLLM(
        base_url=fault_server.url,
        is_chat_model=is_chat_model,
        max_tokens=9,
        stop=["a"],
        temperature=1.5,
        seed=1,
        top_k=5,
        reasoning_effort="high" if is_chat_model else None,
        extra_body={"min_p": 0.1, "vllm_xargs": {"a": 1}},
    )
    method(llm, max_tokens=2, stop=["b"], temperature=0, top_k=None, extra_body={"vllm_xargs": {"b": 2}})
    body = fault_server.posts(CHAT if is_chat_model else TEXT)[0].json
    assert (body["max_tokens"], body["stop"], body["temperature"], body["seed"]) == (2, ["b"], 0, 1)
    assert "top_k" not in body
    assert (body["min_p"], body["vllm_xargs"]) == (0.1, {"a": 1, "b": 2})
    assert body.get("reasoning_effort") == ("high" if is_chat_model else None)
    assert ("stream_options" in body) == body["stream"]


def test_max_tokens_and_max_completion_tokens_are_one_parameter(fault_server):
    VLLM(base_url=fault_server.url, extra_body={"max_completion_tokens": 5}).complete("hi", max_tokens=7)
    VLLM(base_url=fault_server.url, max_tokens=5).complete("hi", max_completion_tokens=7)
    for request in fault_server.posts(CHAT):
        assert (request.json["max_tokens"], "max_completion_tokens" in request.json) == (7, False)


def test_stream_options(fault_llm, fault_server, method):
    method(fault_llm, stream_options=None)
    assert "stream_options" not in fault_server.posts(CHAT)[0].json
    method(fault_llm, stream_options={"continuous_usage_stats": True})
    body = fault_server.posts(CHAT)[1].json
    merged = {"include_usage": True, "continuous_usage_stats": True}
    assert body.get("stream_options") == (merged if body["stream"] else None)


def test_method_decides_whether_to_stream(fault_llm, fault_server, method):
    for given in ({"stream": True}, {"stream": False}, {"extra_body": {"stream": True}}, {"model": None}):
        method(fault_llm, **given)
    first, *others = [request.json for request in fault_server.posts(CHAT)]
    assert all(body == first for body in others)


def test_send_options(fault_llm, fault_server):
    fault_llm.complete("hi", extra_headers={"x-mine": "1"}, extra_query={"a": "b"})
    request = fault_server.requests[-1]
    assert request.headers["x-mine"] == "1"
    assert request.path.endswith("?a=b")
    assert request.json.keys() == {"model", "messages", "stream"}


@recorded
@constraint_is_enforced
def test_every_kind_of_constraint(llm, sent):
    # Stock: not available; guided_choice has no effect on this server, and no error.
    assert llm.complete("Yes or no?", structured_outputs={"choice": ["yes", "no"]}).text in ("yes", "no")
    assert llm.complete("Yes or no?", guided_choice=["yes", "no"]).text in ("yes", "no")
    year = llm.complete("Which year?", structured_outputs={"regex": r"[0-9]{4}"})
    assert len(year.text) == 4
    assert year.text.isdigit()
    assert llm.complete("?", structured_outputs={"grammar": 'root ::= "ab" | "cd"'}).text in ("ab", "cd")
    tag = {
        "type": "structural_tag",
        "format": {"type": "const_string", "value": "fixed"},
    }
    assert llm.complete("?", structured_outputs={"structural_tag": json.dumps(tag)}).text == "fixed"
    assert [body["structured_outputs"] for body in sent.bodies(CHAT)][:2] == [{"choice": ["yes", "no"]}] * 2


def test_names_of_an_older_server(make_fault_server):
    server = make_fault_server(version="0.10.2")
    VLLM(base_url=server.url).complete("yes", structured_outputs={"choice": ["yes", "no"]})
    assert server.posts(CHAT)[0].json["guided_choice"] == ["yes", "no"]


@pytest.mark.parametrize("name", ["o1-mini", "gpt-5", "gpt-5.2-pro"])
def test_served_names_like_openais_change_nothing(make_fault_server, name):
    # Stock: temperature 1.0 for one, a ValueError for another.
    server = make_fault_server(models=(name,))
    llm = VLLM(name, base_url=server.url, temperature=0.3, max_tokens=5)
    tool = FunctionTool.from_defaults(lambda a: a, name="same", description="Return it.")
    llm.chat_with_tools([tool], "hi", chat_history=[ChatMessage(role="system", content="be brief")])
    body = server.posts(CHAT)[0].json
    assert (body["temperature"], body["max_tokens"], body["messages"][0]["role"]) == (0.3, 5, "system")
    assert body["parallel_tool_calls"] is False
    VLLM(name, base_url=server.url).complete("hi")
    assert "temperature" not in server.posts(CHAT)[1].json


def test_hook_of_subclasses(fault_server, method, is_chat_model):
    class Own(VLLM):
        def _get_model_kwargs(self, **kwargs):
            parameters = super()._get_model_kwargs(**kwargs)
            return {**parameters, "top_k": parameters["top_k"] + 1, "min_p": 0.5}

    method(Own(base_url=fault_server.url, is_chat_model=is_chat_model), top_k=2)
    body = fault_server.posts(CHAT if is_chat_model else TEXT)[0].json
    assert (body["top_k"], body["min_p"]) == (3, 0.5)


def test_endpoint_of_a_call(fault_llm, fault_server, method):
    method(fault_llm, use_chat_completions=False)
    assert [request.route for request in fault_server.posts()] == [TEXT]


def test_maximum_reasoning_effort(fault_server):
    VLLM(base_url=fault_server.url, reasoning_effort="max").complete("hi")
    assert fault_server.posts(CHAT)[0].json["reasoning_effort"] == "max"


# Refused before sending


def test_assigned_values_are_validated():
    # Stock: kept as they are, and refused by the server or ignored.
    llm = VLLM(top_k=5)
    for name, value in (("top_k", "x"), ("temperature", -1), ("structured_outputs", {"regx": "a"}), ("stop", 1)):
        with pytest.raises(ValidationError, match=name):
            setattr(llm, name, value)
    llm.max_tokens = "7"
    assert (llm.top_k, llm.temperature, llm.max_tokens) == (5, None, 7)
    with pytest.raises(ValueError, match="topk"):
        llm.topk = 1
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
        llm.model_copy(update={"topk": 1})


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
def test_unknown_constructor_argument_is_a_type_error(kind, name, hint):
    # Stock: accepted and ignored.
    with pytest.raises(TypeError, match=hint):
        kind(**{name: 1})


@sync_and_async_stream
def test_unknown_or_invalid_parameter_of_a_call(fault_llm, fault_server, method):
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
        method(fault_llm, topk=1)
    with pytest.raises(e.InvalidRequest, match="top_k"):
        method(fault_llm, top_k="x")
    assert not fault_server.requests


def test_unknown_or_invalid_parameter_of_the_constructor(fault_server):
    with pytest.raises(ValidationError):
        VLLM(top_k="x")
    for given in ({"extra_body": {"plugin": 1}}, {"additional_kwargs": {"plugin": 1}}):
        with pytest.raises(e.UnknownParameter, match="plugin"):
            VLLM(base_url=fault_server.url, **given).complete("hi")
    with pytest.raises(e.UnknownParameter, match="vLLM does not have this parameter of OpenAI"):
        VLLM(base_url=fault_server.url, modalities=["text", "audio"]).complete("hi")
    assert not fault_server.requests


def test_parameter_missing_on_the_endpoint(fault_server):
    llm = VLLM(base_url=fault_server.url, is_chat_model=False)
    with pytest.raises(e.UnknownParameter, match="chat_template_kwargs"):
        llm.complete("Hello", chat_template_kwargs={"enable_thinking": True})
    assert not fault_server.requests


def test_stream_of_several_choices(fault_llm, fault_server, stream_method):
    with pytest.raises(e.InvalidRequest, match="must be 1 when streaming"):
        stream_method(fault_llm, n=2)
    assert not fault_server.requests


def test_allow_unknown(fault_llm, fault_server):
    fault_llm.complete("hi", extra_body={"plugin": 1}, allow_unknown=True)
    VLLM(base_url=fault_server.url, extra_body={"plugin": 1}, allow_unknown=True).complete("hi")
    assert [request.json["plugin"] for request in fault_server.posts(CHAT)] == [1, 1]
    assert not any("allow_unknown" in request.json for request in fault_server.posts(CHAT))
