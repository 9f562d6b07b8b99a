"""Tool calls: chosen by the model, forced, with strict arguments, streamed."""

from __future__ import annotations

import json
import re
from typing import Any

from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionNamedToolChoiceParam
from openai.types.shared_params import FunctionDefinition

from vllm_adapters.doctor.model import Check, Finding, broken, lacks, unclear, works
from vllm_adapters.doctor.parsers import CALL_MARKS
from vllm_adapters.doctor.probe import CHAT, Visit, text_of

_QUESTION = "What is the weather in Rome?"
_ELSEWHERE = ("Oslo", "Lima")  # not what the question asks for: keeping to it takes a constraint


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
_WEATHER_ELSEWHERE = _tool({"type": "string", "enum": list(_ELSEWHERE)}, strict=True)
_UNFIT = "The --tool-call-parser it has does not fit the model"
_CUT = "cannot tell: the model did not come to an end"
_CALL_IN_TEXT = re.compile(r"""["']get_weather["']|get_weather\(""")
_NAMED: ChatCompletionNamedToolChoiceParam = {"type": "function", "function": {"name": "get_weather"}}


def _calls(visit: Visit, tool: ChatCompletionFunctionToolParam, choice: Any) -> tuple[list[tuple[str, str]], str, str]:
    """Name and arguments of each call, the text beside them, and the finish reason."""
    reply = visit.chat(_QUESTION, tools=[tool], tool_choice=choice, **visit.quiet)
    calls = [call.function for call in reply.choices[0].message.tool_calls or [] if call.type == "function"]
    return [(call.name, call.arguments) for call in calls], text_of(reply), reply.choices[0].finish_reason


def _auto(visit: Visit) -> Finding:
    calls, text, finish = _calls(visit, _WEATHER, "auto")
    if calls:
        return _called(visit, calls[0], finish)
    if finish == "length":
        return unclear(f"{_CUT}: {visit.shown(text)}")
    if any(mark in text for mark in CALL_MARKS) or _CALL_IN_TEXT.search(text):
        return lacks(
            f"calls stay in the text: {visit.shown(text)}",
            *visit.with_parser_names(("--tool-call-parser",)),
            advice=_UNFIT,
        )
    return unclear(f"cannot tell: the model called none, and its text is {visit.shown(text)}")


def _required(visit: Visit) -> Finding:
    return _forced(visit, _WEATHER, "required")


def _strict(visit: Visit) -> Finding:
    calls, text, finish = _calls(visit, _WEATHER_ELSEWHERE, _NAMED)
    if not calls:
        return _no_call(visit, text, finish)
    try:
        arguments = json.loads(calls[0][1])
    except ValueError:
        return broken(f"arguments that are not JSON: {visit.shown(calls[0][1])}", *visit.enforcing_flags)
    if list(arguments) == ["city"] and arguments["city"] in _ELSEWHERE:
        return works(f"{_told(visit, calls[0])}, as the schema says and not the question")
    return broken(
        f"arguments that break the tool's schema: {visit.shown(calls[0][1])}",
        *visit.enforcing_flags,
        advice="Check arguments before you use them",
    )


def _forced(visit: Visit, tool: ChatCompletionFunctionToolParam, choice: Any) -> Finding:
    calls, text, finish = _calls(visit, tool, choice)
    return _called(visit, calls[0], finish) if calls else _no_call(visit, text, finish)


def _called(visit: Visit, call: tuple[str, str], finish: str) -> Finding:
    try:
        whole = isinstance(json.loads(call[1]), dict)
    except ValueError:
        whole = False
    if whole:
        return works(_told(visit, call))
    if finish == "length":
        return unclear(_CUT)
    return broken(f"a call whose arguments are no JSON object: {visit.shown(call[1])}", *visit.enforcing_flags)


def _no_call(visit: Visit, text: str, finish: str) -> Finding:
    if finish == "length" and (not text or any(mark in text for mark in CALL_MARKS)):
        return unclear(f"{_CUT}: {visit.shown(text)}" if text else _CUT)
    return broken(
        f"no call, although it was forced: {visit.shown(text)}",
        *visit.enforcing_flags,
        advice="Or its --tool-call-parser does not fit the model" if visit.enforcing_flags else _UNFIT,
    )


def _streamed(visit: Visit) -> Finding:
    stream = visit.server.client.chat.completions.create(
        model=visit.model,
        messages=[{"role": "user", "content": _QUESTION}],
        max_tokens=visit.room,
        temperature=0,
        stream=True,
        tools=[_WEATHER],
        tool_choice=_NAMED,
        extra_body=visit.quiet,
    )
    name, arguments, finish = "", "", ""
    for choice in (choice for chunk in stream for choice in chunk.choices):
        finish = choice.finish_reason or finish
        for call in choice.delta.tool_calls or []:
            if call.function is not None:
                name, arguments = name or call.function.name or "", arguments + (call.function.arguments or "")
    if finish == "length":
        return unclear(_CUT)
    if not name:
        return broken("no call in the stream, although it was forced", *visit.enforcing_flags)
    try:
        json.loads(arguments)
    except ValueError:
        return broken(f"the pieces of the arguments make no JSON: {visit.shown(arguments)}", *visit.enforcing_flags)
    return works(_told(visit, (name, arguments)))


def _told(visit: Visit, call: tuple[str, str]) -> str:
    return f"{call[0]} {visit.shown(call[1])}"


CHECKS = (
    Check("tools-auto", "tools", "May the model call a tool when it wants to?", _auto, CHAT),
    Check("tools-required", "tools", "Can it be made to call a tool?", _required, CHAT),
    Check("tools-strict", "tools", "Do the arguments of a strict tool keep to its schema?", _strict, CHAT),
    Check("tools-stream", "tools", "Does a streamed call come whole?", _streamed, CHAT),
)
