"""A finished reply has what its request requires, or it is an error: whole or streamed, as SDK objects or as dicts."""

import time

import pytest

from vllm_adapters import VLLMClient
from vllm_adapters import errors as e
from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters._response.message import StreamedMessage
from vllm_adapters._response.requirements import holds_tool_markup
from vllm_adapters._response.tool_calls import ToolCallAccumulator, parse_tool_calls
from vllm_adapters.testing import FaultServer, faults, payloads

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NOTHING = {"type": "object", "properties": {}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
ALL = {"get_weather": CITY, "now": NOTHING}
MARKUP = '<tool_call>\n{"name": "get_weather", "argu'

whole_or_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def tools(**schemas):
    return [{"type": "function", "function": {"name": name, "parameters": s}} for name, s in schemas.items()]


def ask_raw(url, *, stream, path="/chat/completions", **body):
    """Send a request as the frameworks do, and return the reply or the list of its chunks."""
    if path == "/chat/completions":
        body = {"messages": [{"role": "user", "content": "x"}], **body}
    with VLLMClient(url, max_retries=0) as client:
        reply = RawCompletions(client, path=path).create(model="stub", stream=stream, **body)
        return list(reply) if stream else reply


def complete(url, *, stream, **request):
    """Return a completion of the SDK, or the list of its chunks."""
    with VLLMClient(url) as client:
        reply = client.completions.create(model="stub", prompt="x", stream=stream, **request)
        return list(reply) if stream else reply


def calls_of(reply):
    """Return the tool calls of a reply of dicts or SDK objects, whole or as chunks, and its finish reason."""
    chunks = reply if isinstance(reply, list) else [reply]
    calls, finish = ToolCallAccumulator(), None
    for chunk in chunks:
        fields = chunk if isinstance(chunk, dict) else chunk.model_dump(warnings=False)
        for choice in fields["choices"]:
            finish = choice["finish_reason"] or finish
            if "message" in choice:
                return parse_tool_calls(choice["message"]["tool_calls"], finish), finish
            calls.add(choice["delta"].get("tool_calls"))
    return calls.parse(finish), finish


def call_reply(*calls, finish="tool_calls", tokens=None, stream=True):
    """Return a reply of tool calls, (name, arguments) each, with this many completion tokens."""
    made = [payloads.tool_call(*call) for call in calls]
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + (tokens or 0)}
    if not stream:
        body = payloads.chat(None, tool_calls=made, finish_reason=finish)
        return faults.json_reply({**body, "usage": usage if tokens else None})
    chunks = payloads.chat_chunks(None, tool_calls=made, finish_reason=finish)
    return faults.sse(*chunks, *([payloads.chunk(None, usage=usage)] if tokens else []))


# Requested forms that are truncated

FORMS = {
    "json_object": {"response_format": {"type": "json_object"}},
    "json_schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}},
    "json": {"structured_outputs": {"json": CITY}},
    "regex": {"structured_outputs": {"regex": r"\w+"}},
    "choice": {"structured_outputs": {"choice": ["positive", "negative"]}},
    "echo": {"structured_outputs": {"regex": r"\w+"}, "continue_final_message": True, "add_generation_prompt": False},
}


@whole_or_streamed
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    ("reason", "error"),
    [("length", e.TruncatedOutput), ("repetition", e.TruncatedOutput), ("content_filter", e.FilteredOutput)],
)
def test_truncated_form_raises(ask, fault_server, form, reason, error, stream):
    fault_server.reply(faults.chat("posi", finish_reason=reason), CHAT)
    for send, body in ((ask, {"extra_body": form}), (ask_raw, form)):
        with pytest.raises(error) as caught:
            send(fault_server.url, stream=stream, **body)
        assert (caught.value.partial, caught.value.finish_reason) == ("posi", reason)
        assert (caught.value.address, caught.value.model) == (fault_server.url, "stub")


@whole_or_streamed
def test_truncated_completion_raises(fault_server, stream):
    fault_server.reply(faults.completion("posi", finish_reason="length"), COMPLETIONS)
    body = {"prompt": "x", "structured_outputs": {"choice": ["positive", "negative"]}}
    with pytest.raises(e.TruncatedOutput) as caught:
        ask_raw(fault_server.url, stream=stream, path="/completions", **body)
    assert caught.value.partial == "posi"
    with pytest.raises(e.TruncatedOutput):
        complete(fault_server.url, stream=stream, extra_body={"structured_outputs": body["structured_outputs"]})


@whole_or_streamed
def test_reply_that_ends_in_its_reasoning_has_no_object(ask, fault_server, stream):
    fault_server.reply(faults.chat("", reasoning="Let me see", finish_reason="length"))
    with pytest.raises(e.TruncatedOutput):
        ask(fault_server.url, stream=stream, response_format={"type": "json_object"})


@whole_or_streamed
def test_one_truncated_choice_of_several_raises(ask, fault_server, stream):
    body = payloads.chat("{}")
    choices = [{**body["choices"][0], "index": 0}, {**body["choices"][0], "index": 1, "finish_reason": "length"}]
    chunks = [payloads.chunk({"content": "{}"}, finish_reason=reason) for reason in ("stop", "length")]
    chunks[1]["choices"][0]["index"] = 1
    fault_server.reply(faults.sse(*chunks) if stream else faults.json_reply({**body, "choices": choices}))
    with pytest.raises(e.TruncatedOutput):
        ask(fault_server.url, stream=stream, n=2, response_format={"type": "json_object"})


@whole_or_streamed
@pytest.mark.parametrize(("text", "complete"), [("yes", False), ("no", True), ("\n\nno", True), ("n", False)])
def test_choice_that_nothing_can_follow_is_complete(ask, fault_server, text, complete, stream):
    fault_server.reply(faults.chat(text, finish_reason="length"))
    body = {"structured_outputs": {"choice": ["yes", "yes, please", "no"]}}
    if complete:
        assert ask(fault_server.url, stream=stream, extra_body=body)
        return
    with pytest.raises(e.TruncatedOutput):
        ask(fault_server.url, stream=stream, extra_body=body)


@whole_or_streamed
def test_plain_text_may_be_truncated(ask, fault_server, stream):
    fault_server.reply(faults.chat("one two", finish_reason="length"))
    assert ask(fault_server.url, stream=stream, response_format={"type": "text"})


@whole_or_streamed
def test_truncated_tool_call_beside_a_form_is_invalid(ask, fault_server, stream):
    fault_server.reply(call_reply(("get_weather", '{"city": "Ro'), finish="length", stream=stream))
    form = {"type": "json_object"}
    (call,), _ = calls_of(ask(fault_server.url, stream=stream, tools=tools(**ALL), response_format=form))
    assert "truncated" in call.error


# Tool calls that come as text


@whole_or_streamed
@pytest.mark.parametrize("choice", ["auto", "required", NAMED], ids=["auto", "required", "named"])
def test_truncated_tool_call_as_text_raises(ask, fault_server, choice, stream):
    fault_server.reply(faults.chat(MARKUP, finish_reason="length"))
    with pytest.raises(e.TruncatedOutput, match=r"truncated (a|the) tool call.*Raise max_tokens") as caught:
        ask(fault_server.url, stream=stream, tools=tools(**ALL), tool_choice=choice)
    assert caught.value.partial == MARKUP


@whole_or_streamed
@pytest.mark.parametrize("text", [MARKUP + "}}\n</tool_call>", "\n<function=get_weather>\n</function>"])
def test_tool_call_that_was_not_parsed_raises(ask, fault_server, text, stream):
    fault_server.reply(faults.chat(text))
    with pytest.raises(e.ConstraintNotEnforced, match=r"did not parse.*--tool-call-parser") as caught:
        ask(fault_server.url, stream=stream, tools=tools(**ALL))
    assert caught.value.reply == text


@whole_or_streamed
def test_text_about_tool_calls_is_text(ask, fault_server, stream):
    fault_server.reply(faults.chat("A call looks so: <tool_call>{}</tool_call>"))
    assert ask(fault_server.url, stream=stream, tools=tools(**ALL))


@whole_or_streamed
@pytest.mark.parametrize("finish", ["length", "stop"])
@pytest.mark.parametrize(
    "request_",
    [{}, {"tools": tools(**ALL), "tool_choice": "none"}],
    ids=["no-tools", "none"],
)
def test_markup_is_text_where_no_tool_is_offered(ask, fault_server, request_, finish, stream):
    fault_server.reply(faults.chat(MARKUP, finish_reason=finish))
    assert ask(fault_server.url, stream=stream, **request_)


@whole_or_streamed
def test_text_beside_offered_tools_may_be_truncated(ask, fault_server, stream):
    fault_server.reply(faults.chat("The weather in Rome is", finish_reason="length"))
    assert ask(fault_server.url, stream=stream, tools=tools(**ALL))


@pytest.mark.parametrize(
    "text",
    [
        MARKUP,
        "Let me look.\n<tool_call>",
        "<tool_ca",
        "I will.\n[TOOL_CAL",
        "<tool_call>get_weather\n<arg_key>city</arg_key>",
        '[TOOL_CALLS][{"name": "get_wea',
        '[TOOL_CALLS]get_weather{"ci',
        '<|python_tag|>{"name": "get_weather"',
        '{"name": "get_weather", "parameters": {"ci',
        '\n[{"name": "get_weather", "arguments": {"ci',
        '[get_weather(city="Ro',
        "<function=get_weather>\n<parameter=city>",
        '<function=get_weather>{"ci',
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather",
        '<|tool_call|>[{"name": "get_wea',
        '<tool_calls>[{"name": "get_wea',
        '<minimax:tool_call>\n<invoke name="get_weather">',
        "<seed:tool_call>\n<function=get_weather>",
        '<function_call> {"name": "get_wea',
        'functools[{"name": "get_wea',
        "<|tool_call_start|>[get_weather(ci",
    ],
)
def test_markup_of_tool_parsers_is_recognized(text):
    assert holds_tool_markup(text, frozenset(ALL))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The weather in Rome is sunny",
        "Qwen wraps its calls in `<tool_call>` tags, and Llama begins them with `<|python_tag|>`, so",
        "A <tool_call> tag begins a call and",
        '{"city": "Ro',
        '{"name": "Ada", "age": 3',
        "[1, 2, 3",
        "[get_help(",
        "x < tool",
        "def function(x):",
        "<",
        "a list [TO",
    ],
)
def test_ordinary_text_is_not_taken_for_markup(text):
    assert not holds_tool_markup(text, frozenset(ALL))


# Calls that end with finish reason tool_calls and are truncated: vLLM 0.11 to 0.30


@whole_or_streamed
@pytest.mark.parametrize("arguments", ["", "{}", '{"city": ""}'])
@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_call_at_the_token_limit_is_truncated(ask, fault_server, arguments, limit, stream):
    fault_server.reply(call_reply(("get_weather", arguments), tokens=24, stream=stream), CHAT)
    request = {"tools": tools(**ALL), limit: 24}
    for reply in (
        ask(fault_server.url, stream=stream, **request),
        ask_raw(fault_server.url, stream=stream, tools=tools(**ALL), max_tokens=24),
    ):
        (call,), finish = calls_of(reply)
        assert (call.name, call.arguments, finish) == ("get_weather", None, "length")


@whole_or_streamed
def test_only_the_last_call_at_the_token_limit_is_truncated(ask, fault_server, stream):
    two = [("get_weather", '{"city": "Rome"}'), ("get_weather", '{"city": ""}')]
    fault_server.reply(call_reply(*two, tokens=24, stream=stream))
    calls, _ = calls_of(ask(fault_server.url, stream=stream, tools=tools(**ALL), max_tokens=24))
    assert [call.arguments for call in calls] == [{"city": "Rome"}, None]


@whole_or_streamed
@pytest.mark.parametrize(("name", "arguments"), [("now", "{}"), ("now", ""), ("get_weather", '{"city": ""}')])
@pytest.mark.parametrize("tokens", [23, None], ids=["below", "unknown"])
def test_call_below_the_token_limit_is_valid(ask, fault_server, name, arguments, tokens, stream):
    fault_server.reply(call_reply((name, arguments), tokens=tokens, stream=stream))
    (call,), finish = calls_of(ask(fault_server.url, stream=stream, tools=tools(**ALL), max_tokens=24))
    assert (call.error, finish) == (None, "tool_calls")


@whole_or_streamed
@pytest.mark.parametrize("tokens", [23, None], ids=["below", "unknown"])
def test_call_without_a_byte_of_required_arguments_is_truncated(ask, fault_server, tokens, stream):
    fault_server.reply(call_reply(("get_weather", ""), tokens=tokens, stream=stream))
    (call,), finish = calls_of(ask(fault_server.url, stream=stream, tools=tools(**ALL)))
    assert (call.arguments, finish) == (None, "length")


def test_end_of_a_call_waits_for_the_usage_and_nothing_else_does(fault_server):
    usage = {"prompt_tokens": 1, "completion_tokens": 24, "total_tokens": 25}
    chunks = payloads.chat_chunks(None, tool_calls=[payloads.tool_call("now", "{}")], finish_reason="tool_calls")
    fault_server.reply(faults.sse(*chunks, payloads.chunk(None, usage=usage), pause=0.2), CHAT)
    began, times = time.monotonic(), []
    with VLLMClient(fault_server.url) as client:
        messages = [{"role": "user", "content": "x"}]
        for chunk in RawCompletions(client).create(
            model="stub", messages=messages, tools=tools(**ALL), max_tokens=24, stream=True
        ):
            times.append((time.monotonic() - began, [choice["finish_reason"] for choice in chunk["choices"]]))
    assert [reasons for _, reasons in times] == [[None], [None], [None], ["length"], []]
    assert times[2][0] < times[3][0] - 0.15
    assert times[4][0] - times[3][0] < 0.15


# Forced calls that do not come


@whole_or_streamed
@pytest.mark.parametrize("content", ["I would rather not.", "", None])
@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_missing_forced_call_raises(ask, fault_server, content, reason, choice, stream):
    fault_server.reply(faults.chat(content or "", finish_reason=reason), CHAT)
    for send in (ask, lambda url, **request: ask_raw(url, **request)):
        with pytest.raises(e.ConstraintNotEnforced) as caught:
            send(fault_server.url, stream=stream, tools=tools(get_weather=CITY), tool_choice=choice)
        assert "does not call the forced tool `get_weather`" in str(caught.value)
        assert (caught.value.reply, caught.value.constraint) == (content or "", "tool_choice")


@whole_or_streamed
def test_call_of_another_tool_than_the_forced_one_raises(ask, fault_server, stream):
    fault_server.reply(call_reply(("now", "{}"), stream=stream))
    with pytest.raises(e.ConstraintNotEnforced, match="`get_weather`"):
        ask(fault_server.url, stream=stream, tools=tools(**ALL), tool_choice=NAMED)


@whole_or_streamed
def test_finish_reason_tool_calls_without_a_call_raises(ask, fault_server, stream):
    fault_server.reply(faults.chat("", finish_reason="tool_calls"))
    with pytest.raises(e.ConstraintNotEnforced, match="finish reason `tool_calls` and no tool call"):
        ask(fault_server.url, stream=stream, tools=tools(**ALL))


@whole_or_streamed
@pytest.mark.parametrize(("reason", "error"), [("length", e.TruncatedOutput), ("content_filter", e.FilteredOutput)])
def test_truncated_reply_without_the_forced_call_is_truncated(ask, fault_server, reason, error, stream):
    fault_server.reply(faults.chat("", reasoning="Hm", finish_reason=reason))
    with pytest.raises(error):
        ask(fault_server.url, stream=stream, tools=tools(**ALL), tool_choice="required")


# Completions in chat's shape, and the other way round


@whole_or_streamed
def test_completion_in_the_shape_of_chat_raises(fault_server, stream):
    fault_server.reply(faults.chat("hello"), COMPLETIONS)
    for send, body in ((ask_raw, {"path": "/completions", "prompt": "x"}), (complete, {})):
        with pytest.raises(e.InvalidResponse, match="chat message instead of a text"):
            send(fault_server.url, stream=stream, **body)


@whole_or_streamed
def test_chat_completion_in_the_shape_of_a_completion_raises(ask, fault_server, stream):
    body = payloads.completion("hello")
    fault_server.reply(faults.sse(*payloads.completion_chunks("hello")) if stream else faults.json_reply(body), CHAT)
    with pytest.raises(e.InvalidResponse):
        ask(fault_server.url, stream=stream)


# Answers streamed as reasoning, though the request disables thinking: vLLM 0.18 to 0.23

OFF = [{"enable_thinking": False}, {"thinking": False}]


def streamed_message(url, **request):
    message = StreamedMessage()
    for chunk in ask_raw(url, stream=True, **request):
        message.add(chunk)
    return message


@pytest.mark.parametrize("options", OFF)
@pytest.mark.parametrize("version", ["0.18.1", "0.23.0", None])
@pytest.mark.parametrize("last", [{}, {"reasoning": "!"}], ids=["", "with-text"])
def test_answer_in_the_reasoning_is_content_where_thinking_is_disabled(make_fault_server, version, options, last):
    server = make_fault_server()
    deltas = [{"role": "assistant", "content": ""}, {"reasoning": "one"}, {"reasoning": " two"}]
    server.reply(faults.sse(*map(payloads.chunk, deltas), payloads.chunk(last, finish_reason="stop")), CHAT)
    with VLLMClient(server.url, server_version=version) as client:
        chunks = list(
            client.chat.completions.create(
                model="stub",
                messages=[{"role": "user", "content": "x"}],
                stream=True,
                extra_body={"chat_template_kwargs": options},
            )
        )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two" + last.get("reasoning", "")
    assert not any(getattr(chunk.choices[0].delta, "reasoning", None) for chunk in chunks)


def test_answer_in_the_reasoning_of_a_known_version_is_streamed(fault_server):
    fault_server.reply(faults.sse(*map(payloads.chunk, [{"reasoning": "one"}, {"reasoning": " two"}]), end="hang"))
    with VLLMClient(fault_server.url, server_version="0.23.0") as client:
        stream = RawCompletions(client).create(
            model="stub", messages=[], stream=True, chat_template_kwargs={"enable_thinking": False}
        )
        assert next(stream)["choices"][0]["delta"] == {"content": "one"}
        stream.close()


def test_reasoning_before_content_stays_reasoning(fault_server):
    fault_server.reply(faults.chat("Rome", reasoning="Let me see"))
    message = streamed_message(fault_server.url, chat_template_kwargs={"enable_thinking": False})
    assert (message.text, message.reasoning) == ("Rome", "Let me see")


def test_reasoning_before_a_tool_call_stays_reasoning(fault_server):
    calls = [payloads.tool_call("now", "{}")]
    fault_server.reply(faults.chat(None, reasoning="Let me see", tool_calls=calls, finish_reason="tool_calls"))
    message = streamed_message(fault_server.url, tools=tools(**ALL), chat_template_kwargs={"enable_thinking": False})
    assert (message.reasoning, [call.name for call in message.tool_calls()]) == ("Let me see", ["now"])


def test_reasoning_that_was_not_disabled_stays_reasoning(fault_server):
    fault_server.reply(faults.chat("", reasoning="Let me see"))
    assert streamed_message(fault_server.url).reasoning == "Let me see"


def test_stream_that_breaks_in_such_an_answer_has_it_as_partial(fault_server):
    fault_server.reply(faults.sse(payloads.chunk({"reasoning": "one two"}), end="clean"))
    with pytest.raises(e.IncompleteStream) as caught:
        ask_raw(fault_server.url, stream=True, chat_template_kwargs={"enable_thinking": False})
    assert caught.value.partial == "one two"


# Refusals of gateways

REFUSAL = "I cannot help with that."


def refusal(stream):
    if stream:
        return faults.deltas({"role": "assistant"}, {"refusal": "I cannot"}, {"refusal": " help with that."})
    body = payloads.chat(None)
    body["choices"][0]["message"]["refusal"] = REFUSAL
    return faults.json_reply(body)


ANSWERS = [
    {"response_format": {"type": "json_object"}},
    {"structured_outputs": {"choice": ["a"]}},
    {"tools": tools(**ALL), "tool_choice": "required"},
]


@whole_or_streamed
@pytest.mark.parametrize("request_", ANSWERS, ids=["json", "choice", "forced"])
def test_refusal_in_place_of_what_was_requested_raises_in_frameworks(fault_server, request_, stream):
    fault_server.reply(refusal(stream))
    with pytest.raises(e.ModelRefusal, match=REFUSAL) as caught:
        ask_raw(fault_server.url, stream=stream, **request_)
    assert caught.value.refusal == REFUSAL


@whole_or_streamed
@pytest.mark.parametrize("request_", [{}, *ANSWERS], ids=["plain", "json", "choice", "forced"])
def test_refusal_is_in_the_field_of_the_sdk(ask, fault_server, request_, stream):
    fault_server.reply(refusal(stream))
    reply = ask(fault_server.url, stream=stream, extra_body=request_)
    if stream:
        assert "".join(chunk.choices[0].delta.refusal or "" for chunk in reply) == REFUSAL
    else:
        assert reply.choices[0].message.refusal == REFUSAL


def test_refusal_of_a_plain_request_is_the_text_in_frameworks(fault_server):
    fault_server.reply(refusal(stream=True))
    message = streamed_message(fault_server.url)
    assert (message.refusal, message.text) == (REFUSAL, REFUSAL)
    fault_server.reply(refusal(stream=False))
    message = ask_raw(fault_server.url, stream=False)["choices"][0]["message"]
    assert (message["refusal"], message["content"]) == (REFUSAL, REFUSAL)


def test_whole_refusal_of_parse_has_no_object():
    with FaultServer() as server, VLLMClient(server.url) as client:
        server.reply(refusal(stream=False))
        reply = client.chat.completions.parse(model="stub", messages=[], response_format={"type": "json_object"})
    assert reply.choices[0].message.refusal == REFUSAL
