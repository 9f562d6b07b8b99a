"""Tool calls: chosen by the model, forced, with strict arguments, streamed."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionNamedToolChoiceParam
from openai.types.shared_params import FunctionDefinition

from vllm_adapters.doctor.model import Check, Finding, broken, missing, unknown, works
from vllm_adapters.doctor.parsers import TOOL_CALL_MARKS
from vllm_adapters.doctor.probe import CHAT_ROUTE, Probe, text_of
from vllm_adapters.errors import ConstraintNotEnforced, TruncatedOutput

__all__ = ["CHECKS"]

_QUESTION = "What is the weather in Rome?"
_OTHER_CITIES = ("Oslo", "Lima")  # not the city in the question: only an enforced schema produces them


def _tool(city: dict[str, Any], *, strict: bool | None = None) -> ChatCompletionFunctionToolParam:
    parameters = {
        "type": "object",
        "properties": {"city": city},
        "required": ["city"],
        "additionalProperties": False,
    }
    function = FunctionDefinition(name="get_weather", description="The weather in a city.", parameters=parameters)
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


_WEATHER = _tool({"type": "string"})
_STRICT_WEATHER = _tool({"type": "string", "enum": list(_OTHER_CITIES)}, strict=True)
_PARSER_MISMATCH = "The --tool-call-parser does not fit the model"
_TRUNCATED = "inconclusive: the reply was truncated"
_CALL_IN_TEXT = re.compile(r"""["']get_weather["']|get_weather\(""")
_FORCED: ChatCompletionNamedToolChoiceParam = {"type": "function", "function": {"name": "get_weather"}}


class _Call(NamedTuple):
    name: str
    arguments: str


class _Reply(NamedTuple):
    calls: list[_Call]
    text: str
    finish_reason: str


def _ask(probe: Probe, tool: ChatCompletionFunctionToolParam, choice: Any) -> _Reply:
    try:
        reply = probe.chat(_QUESTION, tools=[tool], tool_choice=choice, **probe.without_thinking)
    except TruncatedOutput as error:
        return _Reply([], error.partial, error.finish_reason)
    except ConstraintNotEnforced as error:
        return _Reply([], error.reply, "stop")
    functions = [call.function for call in reply.choices[0].message.tool_calls or [] if call.type == "function"]
    calls = [_Call(function.name, function.arguments) for function in functions]
    return _Reply(calls, text_of(reply), reply.choices[0].finish_reason)


def _auto(probe: Probe) -> Finding:
    reply = _ask(probe, _WEATHER, "auto")
    text = probe.excerpt(reply.text)
    if reply.calls:
        return _check_call(probe, reply)
    if reply.finish_reason == "length":
        return unknown(f"{_TRUNCATED}: {text}")
    if any(mark in reply.text for mark in TOOL_CALL_MARKS) or _CALL_IN_TEXT.search(reply.text):
        return missing(
            f"tool calls stay in the content: {text}",
            *probe.add_parser_names(("--tool-call-parser",)),
            advice=_PARSER_MISMATCH,
        )
    return unknown(f"inconclusive: the model called no tool, and replied {text}")


def _required(probe: Probe) -> Finding:
    reply = _ask(probe, _WEATHER, "required")
    return _check_call(probe, reply) if reply.calls else _no_call(probe, reply)


def _strict(probe: Probe) -> Finding:
    reply = _ask(probe, _STRICT_WEATHER, _FORCED)
    if not reply.calls:
        return _no_call(probe, reply)
    call = reply.calls[0]
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return broken(f"the arguments are not JSON: {probe.excerpt(call.arguments)}", *probe.enforcement_flags)
    if list(arguments) == ["city"] and arguments["city"] in _OTHER_CITIES:
        return works(f"{_format_call(probe, call)}, as required by the schema and not by the question")
    return broken(
        f"the arguments violate the tool's schema: {probe.excerpt(call.arguments)}",
        *probe.enforcement_flags,
        advice="Validate arguments before you use them",
    )


def _check_call(probe: Probe, reply: _Reply) -> Finding:
    call = reply.calls[0]
    try:
        valid = isinstance(json.loads(call.arguments), dict)
    except ValueError:
        valid = False
    if valid:
        return works(_format_call(probe, call))
    if reply.finish_reason == "length":
        return unknown(_TRUNCATED)
    return broken(f"the arguments are not a JSON object: {probe.excerpt(call.arguments)}", *probe.enforcement_flags)


def _no_call(probe: Probe, reply: _Reply) -> Finding:
    text = probe.excerpt(reply.text)
    if reply.finish_reason == "length" and (not reply.text or any(mark in reply.text for mark in TOOL_CALL_MARKS)):
        return unknown(f"{_TRUNCATED}: {text}" if reply.text else _TRUNCATED)
    return broken(
        f"no tool call, although it was forced: {text}",
        *probe.enforcement_flags,
        advice="Or the --tool-call-parser does not fit the model" if probe.enforcement_flags else _PARSER_MISMATCH,
    )


def _stream(probe: Probe) -> Finding:
    stream = probe.server.client.chat.completions.create(
        model=probe.model,
        messages=[{"role": "user", "content": _QUESTION}],
        max_tokens=probe.max_tokens,
        temperature=0,
        stream=True,
        tools=[_WEATHER],
        tool_choice=_FORCED,
        extra_body=probe.without_thinking,
    )
    name, arguments, finish_reason = "", "", ""
    try:
        for choice in (choice for chunk in stream for choice in chunk.choices):
            finish_reason = choice.finish_reason or finish_reason
            for call in choice.delta.tool_calls or []:
                if call.function is not None:
                    name, arguments = name or call.function.name or "", arguments + (call.function.arguments or "")
    except TruncatedOutput as error:
        finish_reason = error.finish_reason
    except ConstraintNotEnforced:
        name = ""
    if finish_reason == "length":
        return unknown(_TRUNCATED)
    if not name:
        return broken("no tool call in the stream, although it was forced", *probe.enforcement_flags)
    try:
        json.loads(arguments)
    except ValueError:
        return broken(f"the streamed arguments are not JSON: {probe.excerpt(arguments)}", *probe.enforcement_flags)
    return works(_format_call(probe, _Call(name, arguments)))


def _format_call(probe: Probe, call: _Call) -> str:
    return f"{call.name} {probe.excerpt(call.arguments)}"


CHECKS = (
    Check("tools-auto", "tools", "Can the model decide to call a tool?", _auto, CHAT_ROUTE),
    Check("tools-required", "tools", "Can a tool call be forced?", _required, CHAT_ROUTE),
    Check("tools-strict", "tools", "Is the schema of a strict tool enforced?", _strict, CHAT_ROUTE),
    Check("tools-stream", "tools", "Is a streamed tool call complete?", _stream, CHAT_ROUTE),
)
