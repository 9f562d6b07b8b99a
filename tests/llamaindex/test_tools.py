"""Tools through ``VLLM``: tool calls are complete and match their schema, or raise."""

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.tools import FunctionTool
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel, ConfigDict
from version_marks import forced_call_is_enforced, streamed_call_is_parsed

from vllm_adapters import errors as e
from vllm_adapters.llamaindex import VLLM
from vllm_adapters.testing import faults, payloads

recorded = pytest.mark.vllm("tiny")

CHAT = "/v1/chat/completions"


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def tool(function=get_weather):
    return FunctionTool.from_defaults(function)


@pytest.fixture
def llm():
    return VLLM(temperature=0, max_retries=0, max_tokens=120, system_prompt="You are a map.")


@recorded
def test_parallel_tool_calls(llm, sent):
    # Stock: appends to the caller's history.
    history = [ChatMessage(role="user", content="Hello")]
    response = llm.chat_with_tools(
        [tool()], "What is the weather in Rome and Oslo?", chat_history=history, allow_parallel_tool_calls=True
    )
    calls = llm.get_tool_calls_from_response(response)
    assert [(call.tool_name, call.tool_kwargs) for call in calls] == [
        ("get_weather", {"city": "Rome"}),
        ("get_weather", {"city": "Oslo"}),
    ]
    assert len(history) == 1
    body = sent.last.json
    assert body["tools"][0]["function"]["strict"] is True
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("auto", True)
    names = [call["function"]["name"] for call in response.message.additional_kwargs["tool_calls"]]
    assert names == ["get_weather"] * 2


@recorded
def test_single_tool_call(llm, sent):
    response = llm.chat_with_tools([tool()], "What is the weather in Rome and Oslo?")
    assert len(llm.get_tool_calls_from_response(response)) == 1
    assert sent.last.json["parallel_tool_calls"] is False


@recorded
def test_no_tools(llm, sent):
    assert llm.chat_with_tools([], "Hello").message.content
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & sent.last.json.keys()


@recorded
@streamed_call_is_parsed
def test_streamed_tool_calls(llm):
    responses = list(
        llm.stream_chat_with_tools([tool()], "What is the weather in Rome and Oslo?", allow_parallel_tool_calls=True)
    )
    counts = [len(llm.get_tool_calls_from_response(found, error_on_no_tool_call=False)) for found in responses]
    assert counts == sorted(counts)
    assert [call.tool_kwargs for call in llm.get_tool_calls_from_response(responses[-1])] == [
        {"city": "Rome"},
        {"city": "Oslo"},
    ]


@recorded
@pytest.mark.parametrize("choice", ["required", "add"])
@forced_call_is_enforced
def test_forced_tool_call_matches_its_schema(llm, sent, choice):
    # Stock: strict is always sent as false, and the arguments are junk.
    forced = {"tool_required": True} if choice == "required" else {"tool_choice": choice}
    response = llm.chat_with_tools([tool(add)], "Tell me a joke", **forced)
    arguments = llm.get_tool_calls_from_response(response)[0].tool_kwargs
    assert {type(value) for value in arguments.values()} == {int}
    assert arguments.keys() == {"a", "b"}


def test_strict_is_sent_as_the_user_sets_it(fault_server):
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("get_weather", '{"city": "Rome"}')]), CHAT)
    strict, lax = (VLLM(base_url=fault_server.url, strict=strict) for strict in (True, False))
    strict.chat_with_tools([tool()], "hi", tool_required=True)
    lax.chat_with_tools([tool()], "hi", tool_required=True)
    strict.chat_with_tools([tool()], "hi", strict=False)
    lax.chat_with_tools([tool()], "hi", strict=True)
    found = [request.json["tools"][0]["function"]["strict"] for request in fault_server.posts(CHAT)]
    assert found == [True, False, False, True]


@recorded
async def test_predict_and_call(llm):
    assert llm.predict_and_call([tool(add)], "Add 17 and 4").response == "21"
    assert (await llm.apredict_and_call([tool(add)], "Add 17 and 4")).response == "21"


@recorded
def test_tool_loop(llm, sent):
    messages = [ChatMessage(role="user", content="What is the weather in Tokyo?")]
    messages.append(llm.chat_with_tools([tool()], chat_history=messages).message)
    call = llm.get_tool_calls_from_response(llm.chat_with_tools([tool()], chat_history=messages[:1]))[0]
    messages.append(ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": call.tool_id}))
    messages[1].blocks[-1].tool_call_id = call.tool_id
    assert "sunny" in llm.chat_with_tools([tool()], chat_history=messages).message.content
    assistant, result = sent.last.json["messages"][1:]
    assert assistant["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "Tokyo"}'}
    assert assistant["content"] is None
    assert result == {"role": "tool", "content": "sunny", "tool_call_id": call.tool_id}


@recorded
def test_missing_tool_call_raises(llm):
    with pytest.raises(ValueError, match="does not contain a tool call"):
        llm.predict_and_call([tool()], "Hello")


@recorded
def test_truncated_tool_call_raises(llm):
    # Stock: `Expected at least one tool call`.
    with pytest.raises(e.TruncatedOutput):
        llm.predict_and_call([tool()], "What is the weather in Rome?", max_tokens=8)


@pytest.mark.parametrize("method", ["chat", "astream_chat"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "reason", "error"),
    [
        ('{"a": 1, "b": 2}', "length", e.TruncatedOutput),
        ('{"a": 1, "b": 1', "length", e.TruncatedOutput),
        ('{"a": 1, "b": }', "tool_calls", e.InvalidResponse),
        ("[1, 2]", "tool_calls", e.InvalidResponse),
    ],
)
def test_invalid_tool_calls_are_reported_and_never_returned(fault_llm, fault_server, method, arguments, reason, error):
    # Stock: the tool is called with {}, or with what closing brackets makes of it.
    fault_server.reply(faults.chat(tool_calls=[payloads.tool_call("add", arguments)], finish_reason=reason))
    response = method(fault_llm)
    assert not [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
    (invalid,) = response.message.additional_kwargs["invalid_tool_calls"]
    assert (invalid["name"], invalid["arguments"]) == ("add", arguments)
    assert invalid["error"]
    with pytest.raises(error):
        fault_llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)


@pytest.mark.parametrize("method", ["complete", "astream_complete"], indirect=True)
def test_tool_calls_of_complete(fault_llm, fault_server, method):
    calls = [payloads.tool_call("add", '{"a": 1}'), payloads.tool_call("add", '{"a": ')]
    fault_server.reply(faults.chat(tool_calls=calls, finish_reason="length"))
    details = method(fault_llm).additional_kwargs
    assert [call["function"]["arguments"] for call in details["tool_calls"]] == ['{"a": 1}']
    assert [call["arguments"] for call in details["invalid_tool_calls"]] == ['{"a": ']


def test_tool_call_of_a_reply_without_finish_reason(fault_llm, fault_server):
    body = payloads.chat(None, tool_calls=[payloads.tool_call("add", '{"a": 1}')])
    body["choices"][0]["finish_reason"] = None
    fault_server.reply(faults.json_reply(body))
    response = fault_llm.chat([ChatMessage(content="hi")])
    assert [call.tool_kwargs for call in fault_llm.get_tool_calls_from_response(response)] == [{"a": 1}]


def test_tool_is_not_called_with_truncated_arguments(fault_llm, fault_server):
    removed = []
    remove = FunctionTool.from_defaults(lambda path="/": removed.append(path), name="remove", description="Remove.")
    call = payloads.tool_call("remove", '{"path": "/home/ada')
    fault_server.reply(faults.chat(tool_calls=[call], finish_reason="length"))
    with pytest.raises(e.TruncatedOutput):
        fault_llm.predict_and_call([remove], "clean up")
    assert removed == []


# Tools and tool calls of other kinds


@pytest.mark.parametrize("kind", ["dict", "object"])
def test_tool_calls_that_other_classes_leave(kind):
    # LlamaIndex's other LLM classes put them into `additional_kwargs`.
    call = {"id": "call-1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    if kind == "object":
        call = ChatCompletionMessageFunctionToolCall(**call)
    message = ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [call]})
    response = ChatResponse(message=message, additional_kwargs={"finish_reason": "tool_calls"})
    (selection,) = VLLM().get_tool_calls_from_response(response)
    assert (selection.tool_id, selection.tool_name, selection.tool_kwargs) == ("call-1", "add", {"a": 1, "b": 2})


def test_schemas_of_tools_are_sent_as_they_are(fault_llm, fault_server):
    # Stock: additionalProperties is false, so such a tool gets no arguments.
    class Anything(BaseModel):
        model_config = ConfigDict(extra="allow")
        counts: dict[str, int]

    def count(**values: int) -> int:
        """Count."""
        return len(values)

    fault_llm.chat_with_tools([FunctionTool.from_defaults(count, fn_schema=Anything), tool()], "hi")
    free, fixed = (sent["function"]["parameters"] for sent in fault_server.posts(CHAT)[0].json["tools"])
    assert free["additionalProperties"] is True
    assert free["properties"]["counts"]["additionalProperties"] == {"type": "integer"}
    assert fixed["additionalProperties"] is False


def test_tools_as_a_text(fault_llm, fault_server):
    with pytest.raises(TypeError, match="must be a sequence of tools, not str"):
        fault_llm.chat_with_tools("add", "hi")
    assert not fault_server.requests


# Strict tools

OFFERED = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("settings", "of_llamaindex", "of_a_dict"),
    [
        ({}, True, None),
        ({"strict": False}, False, None),
        ({"tools_strict": True}, True, True),
        ({"tools_strict": True, "strict": False}, True, True),
        ({"tools_strict": False}, False, False),
    ],
    ids=str,
)
async def test_strict_tools_in_auto_mode(fault_server, settings, of_llamaindex, of_a_dict):
    llm = VLLM(base_url=fault_server.url, **settings)
    await FunctionAgent(tools=[tool(), tool(add)], llm=llm).run("hi")
    llm.chat([ChatMessage(content="hi")], tools=[OFFERED])
    llm.chat([ChatMessage(content="hi")], tools=[{**OFFERED, "function": {**OFFERED["function"], "strict": False}}])
    agent, offered, own = (
        [sent["function"].get("strict") for sent in request.json["tools"]] for request in fault_server.posts(CHAT)
    )
    assert (agent, offered, own) == ([of_llamaindex] * 2, [of_a_dict], [False])
    assert "strict" not in OFFERED["function"]


@recorded
@streamed_call_is_parsed
async def test_agent_offers_strict_tools(sent):
    agent = FunctionAgent(tools=[tool()], llm=VLLM(temperature=0, max_tokens=100, tools_strict=True))
    assert "sunny in Rome" in str(await agent.run("What is the weather in Rome?"))
    assert [body["tools"][0]["function"]["strict"] for body in sent.bodies(CHAT)] == [True, True]
    assert sent.bodies(CHAT)[0]["tool_choice"] == "auto"
