"""Parameters of constructor, bind and call: their precedence, their names, and what is rejected before sending."""

import asyncio

import langchain_core.exceptions as lc
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from pydantic import BaseModel, ValidationError
from version_marks import constraint_is_enforced, vllm_since

from vllm_adapters import errors as e
from vllm_adapters.langchain import VLLM, ChatVLLM
from vllm_adapters.langchain._binding import BoundChatVLLM
from vllm_adapters.langchain._schemas import convert_tools
from vllm_adapters.testing import faults, payloads

CHAT = "/v1/chat/completions"
CAPITAL = "What is the capital of Japan?"

recorded = pytest.mark.vllm("tiny")


class City(BaseModel):
    """A city with a number."""

    city: str
    n: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@recorded
def test_parameters_of_every_level(sent):
    llm = ChatVLLM(top_k=5, min_p=0.1, temperature=0, chat_template_kwargs={"enable_thinking": False, "a": 1})
    bound = llm.bind(top_k=3, chat_template_kwargs={"a": 2})
    bound.invoke(CAPITAL, top_k=1, seed=1, chat_template_kwargs={"enable_thinking": True})
    body = sent.last.json
    assert (body["top_k"], body["min_p"], body["seed"]) == (1, 0.1, 1)
    assert body["chat_template_kwargs"] == {"enable_thinking": True, "a": 2}


@recorded
@constraint_is_enforced
def test_structured_outputs_per_call(llm, sent):
    assert llm.invoke("Yes or no?", structured_outputs={"choice": ["yes", "no"]}).text in ("yes", "no")
    assert llm.invoke("Yes or no?", guided_choice=["yes", "no"]).text in ("yes", "no")
    assert [body["structured_outputs"] for body in sent.bodies(CHAT)] == [{"choice": ["yes", "no"]}] * 2


# Stock ChatOpenAI: the call's extra_body replaces the constructor's.
@recorded
def test_extra_body_merges_into_structured_output(sent):
    llm = ChatVLLM(temperature=0, extra_body={"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}})
    llm.with_structured_output(City, extra_body={"min_p": 0.1}).invoke("Give me Rome as json")
    body = sent.last.json
    assert (body["top_k"], body["min_p"]) == (5, 0.1)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


# Stock ChatOpenAI: the same 400 as a class that no framework knows; two constraints in one dict are sent.
def test_two_constraints_are_rejected(faulty_llm, fault_server):
    with pytest.raises(lc.ModelInvalidRequestError, match="has two constraints"):
        faulty_llm.with_structured_output(City).invoke(CAPITAL, structured_outputs={"choice": ["a", "b"]})
    with pytest.raises(lc.ModelInvalidRequestError, match="one constraint"):
        faulty_llm.invoke(CAPITAL, structured_outputs={"choice": ["a", "b"], "regex": "a"})
    assert not fault_server.posts(CHAT)


# Stock ChatOpenAI renames max_tokens, and errors name a parameter that nobody gave.
@recorded
def test_max_tokens_keeps_its_name(llm, sent):
    assert llm.invoke("Count to 10", max_tokens=2).usage_metadata["output_tokens"] == 2
    assert sent.last.json["max_tokens"] == 2
    assert "max_completion_tokens" not in sent.last.json
    with pytest.raises(lc.ContextOverflowError, match=r"max_tokens\D+100000") as caught:
        llm.invoke("Hello", max_tokens=100000)
    assert caught.value.param == "max_tokens"


@recorded
@pytest.mark.parametrize("side", [None, "left"])
@vllm_since("0.22", before=e.UnsupportedParameter, match="truncation_side", only="left")
def test_prompt_is_truncated_on_request(sent, side):
    llm = ChatVLLM(temperature=0, max_retries=0, max_tokens=40)
    long = "word " * 3000
    with pytest.raises(e.ContextLengthExceeded):
        llm.invoke(long)
    bound = llm.bind(truncate_prompt_tokens=100, **({"truncation_side": side} if side else {}))
    assert bound.invoke(long, max_tokens=5).usage_metadata["input_tokens"] == 100
    assert sent.last.json["truncate_prompt_tokens"] == 100


@recorded
def test_final_message_is_continued(sent):
    llm = ChatVLLM(temperature=0, max_retries=0, max_tokens=40)
    begun = [HumanMessage(CAPITAL), AIMessage("The capital of")]
    message = llm.invoke(begun, continue_final_message=True, add_generation_prompt=False)
    assert message.text == " Japan is Tokyo."
    assert sent.last.json["continue_final_message"] is True
    echoed = llm.invoke(begun, continue_final_message=True, add_generation_prompt=False, echo=True)
    assert echoed.text == "The capital of Japan is Tokyo."


# Precedence


def test_call_beats_bind_beats_constructor(fault_server):
    llm = ChatVLLM(
        base_url=fault_server.url,
        top_k=1,
        min_p=0.1,
        chat_template_kwargs={"enable_thinking": False, "deep": {"a": 1, "b": 1}},
        extra_body={"repetition_penalty": 1.1},
    )
    bound = llm.bind(top_k=2, chat_template_kwargs={"deep": {"b": 2}}).bind(seed=7)
    bound.invoke("hi", top_k=3, chat_template_kwargs={"deep": {"c": 3}}, extra_body={"min_tokens": 1})
    body = fault_server.posts(CHAT)[0].json
    assert {k: v for k, v in body.items() if k not in ("messages", "model", "stream")} == {
        "top_k": 3,
        "min_p": 0.1,
        "seed": 7,
        "repetition_penalty": 1.1,
        "min_tokens": 1,
        "chat_template_kwargs": {"enable_thinking": False, "deep": {"a": 1, "b": 2, "c": 3}},
    }


@pytest.mark.parametrize("cls", [ChatVLLM, VLLM])
def test_call_beats_extra_body_of_the_constructor(fault_server, cls):
    llm = cls(base_url=fault_server.url, extra_body={"temperature": 1, "top_k": 5})
    llm.invoke("hi", temperature=0, top_k=1)
    body = fault_server.requests[-1].json
    assert (body["temperature"], body["top_k"]) == (0, 1)


@pytest.mark.parametrize(
    ("cls", "name"), [(ChatVLLM, "mm_processor_kwargs"), (VLLM, "vllm_xargs")], ids=["ChatVLLM", "VLLM"]
)
def test_model_kwargs_merge_with_fields_and_extra_body(fault_server, cls, name):
    llm = cls(
        base_url=fault_server.url,
        **{name: {"a": 1}},
        extra_body={"min_p": 0.1},
        model_kwargs={name: {"b": 2}, "user": "me", "extra_body": {"top_k": 3}},
    )
    llm.invoke("hi")
    body = fault_server.requests[-1].json
    assert body[name] == {"a": 1, "b": 2}
    assert (body["min_p"], body["top_k"], body["user"]) == (0.1, 3, "me")


@pytest.mark.parametrize("cls", [ChatVLLM, VLLM])
def test_none_drops_a_parameter(fault_server, cls):
    cls(base_url=fault_server.url, top_k=5, min_p=0.1, temperature=0.5).invoke("hi", top_k=None, temperature=None)
    body = fault_server.requests[-1].json
    assert (body["min_p"], "top_k" in body, "temperature" in body) == (0.1, False, False)


def test_zero_and_false_are_sent(fault_server):
    llm = ChatVLLM(base_url=fault_server.url, top_k=0, min_p=0.0, skip_special_tokens=False, temperature=0)
    llm.invoke("hi", priority=0)
    body = fault_server.posts(CHAT)[0].json
    assert (body["top_k"], body["min_p"], body["skip_special_tokens"]) == (0, 0.0, False)
    assert (body["temperature"], body["priority"]) == (0, 0)


# Bindings. Stock: bind_tools and with_structured_output drop what is bound, and dicts are replaced.


def test_bound_parameters_hold_for_every_method(faulty_llm, fault_server):
    bound = faulty_llm.bind(top_k=1, stop=["x"])

    async def run():
        await bound.ainvoke("hi")
        await bound.abatch(["hi"])
        await bound.agenerate([[HumanMessage("hi")]], seed=1)
        async for _ in bound.astream("hi"):
            pass
        async for _ in bound.astream_events("hi", version="v2"):
            pass

    asyncio.run(run())
    bound.invoke("hi")
    bound.batch(["hi"])
    list(bound.stream("hi"))
    bound.generate([[HumanMessage("hi")]], seed=1)
    assert bound.stream_events("hi", version="v3").output.text == "hi"
    bound.with_config(tags=["a"]).with_retry().invoke("hi")
    requests = fault_server.posts(CHAT)
    assert len(requests) == 11
    assert all((request.json["top_k"], request.json["stop"]) == (1, ["x"]) for request in requests)


def test_dicts_merge_in_every_method_and_in_chains(faulty_llm, fault_server):
    bound = faulty_llm.bind(chat_template_kwargs={"a": 1})
    params = {"chat_template_kwargs": {"b": 2}}

    async def run(runnable):
        await runnable.ainvoke("hi", **params)
        await runnable.abatch(["hi"], **params)
        async for _ in runnable.abatch_as_completed(["hi"], **params):
            pass
        async for _ in runnable.astream("hi", **params):
            pass
        async for _ in runnable.astream_events("hi", version="v2", **params):
            pass

    for runnable in (bound, bound | StrOutputParser()):
        asyncio.run(run(runnable))
        runnable.invoke("hi", **params)
        runnable.batch(["hi"], **params)
        list(runnable.batch_as_completed(["hi"], **params))
        list(runnable.stream("hi", **params))
    assert bound.stream_events("hi", version="v3", **params).output.text == "hi"
    requests = fault_server.posts(CHAT)
    assert len(requests) == 19
    assert [request.json["chat_template_kwargs"] for request in requests] == [{"a": 1, "b": 2}] * 19


def test_binding_more_keeps_listeners(faulty_llm):
    runs = []
    faulty_llm.bind(top_k=1).with_listeners(on_end=lambda run: runs.append(run.id)).bind(seed=1).invoke("hi")
    assert len(runs) == 1


def test_bound_parameters_stay_with_bind_tools(faulty_llm, fault_server):
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("add", '{"a": 1, "b": 2}')]), CHAT)
    bound = faulty_llm.bind(top_k=1, stop=["x"], chat_template_kwargs={"a": 1}).bind_tools([add], tool_choice="any")
    bound.invoke("hi", chat_template_kwargs={"b": 2})
    body = fault_server.posts(CHAT)[0].json
    assert (body["top_k"], body["stop"], body["chat_template_kwargs"]) == (1, ["x"], {"a": 1, "b": 2})
    assert body["tools"][0]["function"]["name"] == "add"
    assert body["tool_choice"] == "required"


# Names


def test_older_server_gets_its_own_names(make_fault_server):
    server = make_fault_server(version="0.10.2")
    llm = ChatVLLM(base_url=server.url, max_retries=0)
    llm.invoke("yes", guided_choice=["yes", "no"])
    llm.invoke("yes", structured_outputs={"choice": ["yes", "no"]})
    for request in server.posts(CHAT):
        assert request.json["guided_choice"] == ["yes", "no"]
        assert "structured_outputs" not in request.json


# Stock ChatOpenAI: max_tokens wins silently.
def test_two_names_of_one_limit(fault_server, faulty_llm):
    ChatVLLM(base_url=fault_server.url, max_completion_tokens=7).invoke("x")
    ChatVLLM(base_url=fault_server.url, max_tokens=7).invoke("x", max_completion_tokens=5)
    assert [request.json["max_tokens"] for request in fault_server.posts(CHAT)] == [7, 5]
    assert all("max_completion_tokens" not in request.json for request in fault_server.posts(CHAT))
    with pytest.raises(lc.ModelInvalidRequestError, match="same parameter"):
        faulty_llm.invoke("x", max_tokens=5, max_completion_tokens=7)
    with pytest.raises(lc.ModelInvalidRequestError, match="same parameter"):
        ChatVLLM(max_tokens=5, max_completion_tokens=7)


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
def test_unknown_parameter_is_rejected_before_sending(faulty_llm, fault_server, call, way):
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`") as caught:
        call(way, faulty_llm, topk=1)
    assert isinstance(caught.value, lc.ModelInvalidRequestError)
    assert not fault_server.requests


def test_invalid_constructor_arguments_are_rejected(faulty_llm):
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
        ChatVLLM(topk=1)
    with pytest.raises(ValidationError):
        ChatVLLM(top_k="x")
    with pytest.raises(e.InvalidRequest, match=r"`messages` is not an argument of ChatVLLM\. Pass it per call"):
        ChatVLLM(messages=[])
    with pytest.raises(e.InvalidRequest, match="top_k"):
        faulty_llm.invoke("x", top_k="x")


def test_allow_unknown(faulty_llm, fault_server):
    with pytest.raises(e.UnknownParameter):
        faulty_llm.invoke("x", extra_body={"plugin": 1})
    assert not fault_server.requests
    faulty_llm.invoke("x", extra_body={"plugin": 1}, allow_unknown=True)
    ChatVLLM(base_url=fault_server.url, extra_body={"plugin": 1}, allow_unknown=True).invoke("hi")
    assert [request.json["plugin"] for request in fault_server.posts(CHAT)] == [1, 1]
    assert "allow_unknown" not in fault_server.posts(CHAT)[0].json


@pytest.mark.parametrize("name", ["reasoning", "include", "truncation", "context_management", "verbosity"])
def test_openai_only_parameter_is_rejected(fault_server, faulty_llm, name):
    value = {"reasoning": {"effort": "low"}, "include": ["x"], "context_management": [{}]}.get(name, "x")
    with pytest.raises(e.UnknownParameter, match=name):
        ChatVLLM(base_url=fault_server.url, max_retries=0, **{name: value}).invoke("x")
    with pytest.raises(e.UnknownParameter, match=name):
        faulty_llm.invoke("x", **{name: value})
    assert not fault_server.posts(CHAT)


# Parameters of single calls in the constructor


CONSTRUCTED = {
    "stop": ["x"],
    "user": "ann",
    "stream_options": {"continuous_usage_stats": True},
    "tool_choice": "any",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_object"},
    "tools": [add],
}


# Stock: all but one are moved to `model_kwargs` with a warning.
@pytest.mark.parametrize("name", CONSTRUCTED)
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_parameters_of_calls_in_the_constructor(fault_server, call, name, way):
    given = {name: CONSTRUCTED[name], **({"tools": [add]} if name in ("tool_choice", "parallel_tool_calls") else {})}
    tool_call = faults.chat(tool_calls=[payloads.tool_call("add", '{"a": 1, "b": 2}')])
    fault_server.reply(tool_call if "tools" in given else faults.chat("{}"), CHAT)
    llm = ChatVLLM(base_url=fault_server.url, model="stub", max_retries=0, **given)
    call(way, llm)
    body = fault_server.posts(CHAT)[0].json
    usage = {"include_usage": True, **CONSTRUCTED["stream_options"]} if way == "stream" else None
    expected = {"tool_choice": "required", "tools": convert_tools([add], None), "stream_options": usage}.get(
        name, CONSTRUCTED[name]
    )
    if name == "tools":
        assert [tool["function"]["name"] for tool in body["tools"]] == ["add"]
    else:
        assert body.get(name) == expected
    if name not in ("stop", "stream_options"):
        call(way, llm, **{name: None})
        assert name not in fault_server.posts(CHAT)[1].json


def test_parameters_of_calls_in_the_constructor_of_completions(fault_server):
    llm = VLLM(base_url=fault_server.url, model="stub", stop=["x"], user="ann", stream_options={"include_usage": False})
    llm.invoke("x")
    list(llm.stream("x", stop=["y"]))
    first, second = (request.json for request in fault_server.posts())
    assert (first["stop"], first["user"], "stream_options" in first) == (["x"], "ann", False)
    assert (second["stop"], second["stream_options"]) == (["y"], {"include_usage": False})


@pytest.mark.parametrize("name", ["tools", "tool_choice"])
def test_tools_of_single_calls_are_converted(faulty_llm, fault_server, name):
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("add", '{"a": 1, "b": 2}')]), CHAT)
    for choice in ("any", True, "add"):
        faulty_llm.invoke("x", tools=[add], tool_choice=choice)
    named = {"type": "function", "function": {"name": "add"}}
    assert [request.json["tool_choice"] for request in fault_server.posts(CHAT)] == ["required", "required", named]


# Options of streams


# Stock replaces them, and adds up counts that already are sums.
@pytest.mark.parametrize("way", ["stream", "astream", "invoke_streaming", "events_v3"])
@pytest.mark.parametrize("level", ["call", "bind", "constructor"])
def test_stream_options_are_merged_and_continuous_usage_counts_once(fault_server, call, way, level):
    chunks = payloads.chat_chunks("one two three", usage=True)
    for index, chunk in enumerate(chunks):
        details = {"prompt_tokens_details": {"cached_tokens": 4}}
        chunk["usage"] = {"prompt_tokens": 7, "completion_tokens": index, "total_tokens": 7 + index, **details}
    fault_server.reply(faults.sse(*chunks), CHAT)
    options = {"stream_options": {"continuous_usage_stats": True}}
    llm = ChatVLLM(base_url=fault_server.url, max_retries=0, **(options if level == "constructor" else {}))
    llm = llm.bind(**options) if level == "bind" and way in ("stream", "astream") else llm
    message = call(way, llm, **({} if level == "constructor" or isinstance(llm, BoundChatVLLM) else options))
    assert fault_server.posts(CHAT)[0].json["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    usage = message.usage_metadata
    assert (usage["input_tokens"], usage["output_tokens"]) == (7, len(chunks) - 1)
    assert usage["input_token_details"]["cache_read"] == 4


def test_stream_usage_of_a_call_wins(faulty_llm, fault_server):
    list(faulty_llm.stream("x", stream_usage=False))
    list(faulty_llm.stream("x", stream_options={"include_usage": False}))
    list(faulty_llm.stream("x"))
    faulty_llm.bind(stream_options={"include_usage": True}).invoke("x")
    sent = [request.json.get("stream_options") for request in fault_server.posts(CHAT)]
    assert sent[1:] == [{"include_usage": False}, {"include_usage": True}, None]
    assert not (sent[0] or {}).get("include_usage")


def test_openai_only_parameter_without_effect_is_dropped(fault_server):
    ChatVLLM(base_url=fault_server.url, model="stub", store=True, service_tier="auto").invoke(
        "x", extra_body={"metadata": {"a": "b"}}
    )
    assert not {"store", "service_tier", "metadata"} & fault_server.posts(CHAT)[0].json.keys()


# System messages that a template refuses


REFUSED = faults.error(400, "System message must be at the beginning.")
LATE = [("system", "Be brief."), ("user", "x"), ("system", "Be polite.")]


def roles(request):
    return [message["role"] for message in request.json["messages"]]


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
def test_system_messages_are_merged_after_the_first_refusal(faulty_llm, fault_server, call, way):
    fault_server.script(CHAT, [REFUSED, faults.chat("yes"), faults.chat("yes")])
    for _ in range(2):
        assert call(way, faulty_llm, LATE).text == "yes"
    first, *others = fault_server.posts(CHAT)
    assert roles(first) == ["system", "user", "system"]
    assert [roles(request) for request in others] == [["system", "user"]] * 2
    assert others[0].json["messages"][0]["content"] == "Be brief.\n\nBe polite."


def test_merging_of_system_messages_can_be_set(fault_server):
    llm = ChatVLLM(base_url=fault_server.url, model="stub", max_retries=0, merge_system_messages=True)
    llm.invoke(LATE)
    llm.invoke(LATE, merge_system_messages=False)
    llm.get_num_tokens_from_messages(LATE)
    assert [roles(request) for request in fault_server.posts(CHAT)] == [
        ["system", "user"],
        ["system", "user", "system"],
    ]
    assert roles(fault_server.posts("/tokenize")[-1]) == ["system", "user"]
    fault_server.reply(REFUSED, CHAT)
    with pytest.raises(lc.ModelInvalidRequestError, match="merge_system_messages=True"):
        llm.invoke(LATE, merge_system_messages=False)


def test_agent_with_a_late_system_message(fault_server):
    class Reminder(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            return handler(request.override(messages=[*request.messages, SystemMessage("Be polite.")]))

    fault_server.script(CHAT, [REFUSED, faults.chat("yes")])
    llm = ChatVLLM(base_url=fault_server.url, model="stub", max_retries=0)
    agent = create_agent(llm, [], system_prompt="Be brief.", middleware=[Reminder()])
    assert agent.invoke({"messages": ["x"]})["messages"][-1].text == "yes"


# Strict tools


def strict_tools(request):
    return [tool["function"].get("strict") for tool in request.json["tools"]]


def test_tools_of_an_agent_are_strict_on_request(fault_server):
    loose = {"type": "function", "function": {"name": "f", "strict": False, "parameters": {"type": "object"}}}
    for setting in (None, True, False):
        llm = ChatVLLM(base_url=fault_server.url, model="stub", max_retries=0, tools_strict=setting)
        create_agent(llm, [add]).invoke({"messages": ["x"]})
        llm.bind_tools([add, loose]).invoke("x")
        llm.bind_tools([add], strict=not setting).invoke("x")
        agent, bound, own = fault_server.posts(CHAT)[-3:]
        assert strict_tools(agent) == [setting]
        assert strict_tools(bound) == [setting, False]
        assert strict_tools(own) == [not setting]
        assert agent.json.get("tool_choice") is None
