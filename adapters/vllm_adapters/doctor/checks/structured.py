"""Structured output: is each kind enforced, or silently not?

What is asked for appears nowhere in the prompt, so no model can give it by being clever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from vllm_adapters.doctor.model import Check, Finding, broken, unclear, untried, works
from vllm_adapters.doctor.probe import CAPITAL, CHAT, UNFIT_REASONING, Visit, text_of
from vllm_adapters.errors import ConstraintNotEnforced

_SCHEMA = {
    "type": "object",
    "properties": {"zebra": {"enum": ["zebra-7", "zebra-8"]}},
    "required": ["zebra"],
    "additionalProperties": False,
}
_TAG = {
    "type": "structural_tag",
    "format": {
        "type": "tag",
        "begin": "<zebra>",
        "content": {"type": "regex", "pattern": "[0-9]{2}"},
        "end": "</zebra>",
    },
}
_OBJECT = r'\{\s*"zebra"\s*:\s*"zebra-[78]"\s*\}'
_PREFIXED = r"zebra-[0-9]+"
_FORMAT = {"type": "json_schema", "json_schema": {"name": "zebra", "schema": _SCHEMA}}


_WITHOUT_AN_END = "Likely its reasoning parser never sees the end of thinking"
_ITS_PRICE = "with the flag, thinking is bound by the constraint as well"


def _constrained(visit: Visit, *, whole: str, start: str, **constraint: Any) -> Finding:
    try:
        reply = visit.chat(CAPITAL, **constraint, **visit.quiet)
    except ConstraintNotEnforced as error:
        return _ignored(visit, error.reply, "enable_thinking=True may help")
    text, cut = text_of(reply).strip(), reply.choices[0].finish_reason == "length"
    if re.fullmatch(whole, text) or (cut and text and text.startswith(start)):
        return works(f"enforced: {visit.shown(text)}")
    if cut and not text:
        return unclear("cannot tell: the model was still thinking, or wrote white space only")
    return _ignored(visit, text, "enable_thinking=True may help")


def _ignored(visit: Visit, text: str, otherwise: str) -> Finding:
    flags = visit.enforcing_flags
    advice = f"{_WITHOUT_AN_END}: {otherwise}; {_ITS_PRICE}" if flags else ""
    if visit.misread:
        advice = UNFIT_REASONING
    return broken(f"silently not enforced: {visit.shown(text)}", *flags, advice=advice)


def _tag(visit: Visit) -> Finding:
    if visit.older_than("0.11.1"):
        return untried("before 0.11.1 a structural tag needs the model to begin it")
    asked = {"structural_tag": json.dumps(_TAG)}
    return _constrained(visit, whole=r"<zebra>[0-9]{2}</zebra>", start="<zebra>", structured_outputs=asked)


def _of_completions(visit: Visit) -> Finding:
    try:
        reply = visit.server.client.completions.create(
            model=visit.model,
            prompt=CAPITAL,
            max_tokens=16,
            temperature=0,
            extra_body={"structured_outputs": {"choice": ["zebra-7", "zebra-8"]}},
        )
    except ConstraintNotEnforced as error:
        return _ignored(visit, error.reply, "ask /v1/chat/completions")
    text = reply.choices[0].text.strip()
    if text.startswith("zebra-"):
        return works(f"enforced: {visit.shown(text)}")
    return _ignored(visit, text, "ask /v1/chat/completions")


def _kind(whole: str, start: str, **asked: Any) -> Callable[[Visit], Finding]:
    return partial(_constrained, whole=whole, start=start, structured_outputs=asked)


_json = _kind(_OBJECT, "{", json=_SCHEMA)
_regex = _kind(_PREFIXED, "zebra-", regex="zebra-[0-9]{2}")
_choice = _kind(_PREFIXED, "zebra-", choice=["zebra-7", "zebra-8"])
_grammar = _kind(_PREFIXED, "zebra-", grammar='root ::= "zebra-" [0-9] [0-9]')
_response_format = partial(_constrained, whole=_OBJECT, start="{", response_format=_FORMAT)

CHECKS = (
    Check("json", "structured output", "Is a JSON schema enforced?", _json, CHAT),
    Check("response-format", "structured output", "Is OpenAI's response_format enforced?", _response_format, CHAT),
    Check("regex", "structured output", "Is a regular expression enforced?", _regex, CHAT),
    Check("choice", "structured output", "Is a choice enforced?", _choice, CHAT),
    Check("grammar", "structured output", "Is a grammar enforced?", _grammar, CHAT),
    Check("structural-tag", "structured output", "Is a structural tag enforced?", _tag, CHAT),
    Check(
        "completions-choice",
        "structured output",
        "Is a choice enforced on /v1/completions, too?",
        _of_completions,
        "/v1/completions",
        counts=False,
    ),
)
