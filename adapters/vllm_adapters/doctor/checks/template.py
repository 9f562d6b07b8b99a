"""What the model's chat template allows: system messages, tool results, an answer that was begun."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vllm_adapters._request.system_messages import MERGE_SYSTEM_MESSAGES
from vllm_adapters.doctor.model import Check, Finding, Verdict, works
from vllm_adapters.doctor.probe import CHAT_ROUTE, QUESTION, Probe
from vllm_adapters.errors import InvalidRequest

__all__ = ["CHECKS"]

_TEXT = "Be brief. " * 20
_TOKENS = 20  # of the text, at least: a prompt that has fewer more than the question alone is without it

_USER = {"role": "user", "content": QUESTION}
_SYSTEM = {"role": "system", "content": _TEXT}
_CALL = {"id": "call_0", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}

_MERGE = (
    "Set merge_system_messages=True, which sends all system messages as the first one: agents and middleware add more, "
    "and later ones"
)
_INSTRUCT = "Put instructions in the user's message, or choose another --chat-template"
_TOOLS = "Agents send tool results: choose a --chat-template that has them"
_CONTINUE = "Do not use continue_final_message with this model"


def _try(probe: Probe, messages: list[dict[str, Any]], advice: str, **parameters: Any) -> Finding:
    """Send messages, one of which has a long text, and find out whether the text is in the prompt."""
    try:
        reply = probe.send(messages, max_tokens=1, **{MERGE_SYSTEM_MESSAGES: False}, **parameters)
    except InvalidRequest as error:
        if type(error) is not InvalidRequest:
            raise
        return Finding(Verdict.ABSENT, f"the chat template refuses it: {probe.excerpt(error.message)}", advice=advice)
    alone, usage = probe.default_reply.usage, reply.usage
    if alone is not None and usage is not None and usage.prompt_tokens < alone.prompt_tokens + _TOKENS:
        return Finding(Verdict.ABSENT, "the chat template drops it silently", advice=advice)
    return works("in the prompt")


def _system(probe: Probe) -> Finding:
    return _try(probe, [_SYSTEM, _USER], _INSTRUCT)


def _system_twice(probe: Probe) -> Finding:
    return _merged(probe, [{"role": "system", "content": "Be polite."}, _SYSTEM, _USER])


def _system_last(probe: Probe) -> Finding:
    return _merged(probe, [_USER, _SYSTEM])


def _merged(probe: Probe, messages: list[dict[str, Any]]) -> Finding:
    finding = _try(probe, messages, _MERGE)
    if finding.verdict is Verdict.WORKS or _system(probe).verdict is Verdict.WORKS:
        return finding
    return replace(finding, advice=_INSTRUCT)  # merging does not help


def _tool_results(probe: Probe) -> Finding:
    call = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
    return _try(probe, [_USER, call, {"role": "tool", "content": _TEXT, "tool_call_id": _CALL["id"]}], _TOOLS)


def _prefill(probe: Probe) -> Finding:
    begun = {"role": "assistant", "content": _TEXT.strip()}
    return _try(probe, [_USER, begun], _CONTINUE, continue_final_message=True, add_generation_prompt=False)


CHECKS = (
    Check("system", "template", "Is a system message in the prompt?", _system, CHAT_ROUTE, counts=False),
    Check("system-twice", "template", "May there be two system messages?", _system_twice, CHAT_ROUTE, counts=False),
    Check("system-last", "template", "May a system message be the last?", _system_last, CHAT_ROUTE, counts=False),
    Check("tool-results", "template", "Are tool results in the prompt?", _tool_results, CHAT_ROUTE, counts=False),
    Check("prefill", "template", "Can it continue an answer?", _prefill, CHAT_ROUTE, counts=False),
)
