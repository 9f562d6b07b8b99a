"""Generation parameters of VLLMChatGenerator: precedence, validation, and names of other server versions."""

import pytest
from version_marks import constraint_is_enforced

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.haystack import VLLMChatGenerator

CHAT = "/v1/chat/completions"


@pytest.mark.vllm("tiny")
def test_run_overrides_the_constructor(sent):
    defaults = {
        "top_k": 5,
        "min_p": 0.1,
        "temperature": 0,
        "seed": 1,
        "chat_template_kwargs": {"enable_thinking": False, "a": 1},
        "extra_body": {"min_tokens": 1, "repetition_penalty": 1.1},
    }
    run = {"top_k": 1, "chat_template_kwargs": {"enable_thinking": True}, "extra_body": {"min_tokens": 2}, "seed": None}
    llm = VLLMChatGenerator(generation_kwargs=defaults, max_retries=0)
    llm.run("What is the capital of Japan?", generation_kwargs={**run, "min_p": None})
    body = sent.last.json
    assert {k: v for k, v in body.items() if k not in ("model", "messages", "stream")} == {
        "top_k": 1,
        "temperature": 0,
        "min_tokens": 2,
        "repetition_penalty": 1.1,
        "chat_template_kwargs": {"enable_thinking": True, "a": 1},
    }


def test_run_overrides_extra_body_and_synonyms(fault_server):
    defaults = {"max_completion_tokens": 5, "extra_body": {"temperature": 1}}
    llm = VLLMChatGenerator(api_base_url=fault_server.url, generation_kwargs=defaults)
    llm.run("hi", generation_kwargs={"max_tokens": 7, "temperature": 0})
    body = fault_server.posts(CHAT)[0].json
    assert (body["max_tokens"], body["temperature"], "max_completion_tokens" in body) == (7, 0, False)


def test_stream_options_are_merged_and_only_sent_with_streams(stub_llm, fault_server):
    options = {"stream_options": {"continuous_usage_stats": True}}
    stub_llm.run("hi", generation_kwargs=options)
    stub_llm.run("hi", [].append, options)
    plain, streamed = (request.json for request in fault_server.posts(CHAT))
    assert "stream_options" not in plain
    assert streamed["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_send_options(stub_llm, fault_server):
    options = {"extra_headers": {"X-Run": "1"}, "extra_query": {"tenant": "a"}, "timeout": 3}
    stub_llm.run("hi", generation_kwargs=options)
    assert VLLMChatGenerator(generation_kwargs=options).generation_kwargs == options
    (request,) = fault_server.posts()
    assert request.headers["x-run"] == "1"
    assert request.path.endswith("?tenant=a")
    assert request.json.keys() == {"model", "messages", "stream"}


@pytest.mark.vllm("tiny")
@constraint_is_enforced
def test_removed_name_is_translated(llm, sent):
    reply = llm.run("Yes or no?", generation_kwargs={"guided_choice": ["yes", "no"]})["replies"][0]
    assert reply.text in ("yes", "no")
    assert sent.last.json["structured_outputs"] == {"choice": ["yes", "no"]}


def test_old_server_gets_the_names_of_its_version(make_fault_server):
    server = make_fault_server(version="0.10.2")
    llm = VLLMChatGenerator(api_base_url=server.url)
    llm.run("yes", generation_kwargs={"structured_outputs": {"choice": ["yes"]}})
    assert server.posts(CHAT)[0].json["guided_choice"] == ["yes"]


def test_invalid_parameters_are_rejected_before_sending(stub_llm, fault_server, run):
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
        run(stub_llm, generation_kwargs={"topk": 1})
    with pytest.raises(e.UnknownParameter):
        run(stub_llm, generation_kwargs={"extra_body": {"plugin": 1}})
    with pytest.raises(e.InvalidRequest, match="top_k"):
        run(stub_llm, generation_kwargs={"top_k": "x"})
    with pytest.raises(e.InvalidRequest, match="Pass a `streaming_callback` to run"):
        run(stub_llm, generation_kwargs={"stream": True})
    with pytest.raises(e.InvalidRequest, match="Pass `messages` to run"):
        run(stub_llm, generation_kwargs={"messages": []})
    assert not fault_server.requests


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"topk": 1}, "Did you mean `top_k`"),
        ({"extra_body": {"plugin": 1}}, "`plugin` is not a parameter"),
        ({"top_k": "x"}, "top_k"),
        ({"stream": True}, "streaming_callback"),
    ],
)
def test_invalid_parameters_are_rejected_by_the_constructor(parameters, error):
    with pytest.raises(e.InvalidRequest, match=error):
        VLLMChatGenerator(generation_kwargs=parameters)


def test_streamed_n_is_rejected(stub_llm, fault_server):
    with pytest.raises(e.InvalidRequest, match="`n` must be 1"):
        stub_llm.run("Hello", print, {"n": 2})
    assert not fault_server.requests


def test_allow_unknown(fault_server):
    plugin = {"extra_body": {"plugin": 1}}
    url = fault_server.url
    VLLMChatGenerator(api_base_url=url).run("hi", generation_kwargs={**plugin, "allow_unknown": True})
    VLLMChatGenerator(api_base_url=url, generation_kwargs=plugin, allow_unknown=True).run("hi")
    server = VLLMServer(url, allow_unknown=True)
    VLLMChatGenerator(server=server, generation_kwargs=plugin).run("hi")
    bodies = [request.json for request in fault_server.posts(CHAT)]
    assert [body["plugin"] for body in bodies] == [1, 1, 1]
    assert not any("allow_unknown" in body for body in bodies)


def test_model_of_one_run(make_fault_server):
    server = make_fault_server(models=("base", {"id": "my-lora", "parent": "base", "root": "/lora"}))
    llm = VLLMChatGenerator(api_base_url=server.url)
    llm.run("hi")
    llm.run("hi", generation_kwargs={"model": "my-lora"})
    assert [request.json["model"] for request in server.posts(CHAT)] == ["base", "my-lora"]
