"""Structured output: is each kind of constraint enforced?

The required output does not appear in the prompt, so a reply that matches proves that the server enforces it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from vllm_adapters.doctor.model import Check, Finding, broken, skipped, unknown, works
from vllm_adapters.doctor.probe import CHAT_ROUTE, QUESTION, REASONING_PARSER_MISMATCH, Probe, text_of
from vllm_adapters.errors import ConstraintNotEnforced, TruncatedOutput

__all__ = ["CHECKS"]

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
_RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "zebra", "schema": _SCHEMA}}

_UNDETECTED_END = "The reasoning parser probably does not detect the end of thinking"
_FLAG_COST = "With it, the constraint applies to thinking as well"
_ENABLE_THINKING = "enable_thinking=True may help"
_USE_CHAT = "use /v1/chat/completions"


def _constrained(probe: Probe, *, pattern: str, start: str, **constraint: Any) -> Finding:
    """Ask a question under a constraint.

    Args:
        probe: Connection to the server.
        pattern: Regular expression that a complete reply matches.
        start: Prefix that a truncated reply has.
        constraint: Request parameters with the constraint.
    """
    try:
        text, truncated = (
            text_of(probe.chat(QUESTION, **constraint, **probe.without_thinking, allow_unknown=True)).strip(),
            False,
        )
    except TruncatedOutput as error:
        text, truncated = error.partial.strip(), True
    except ConstraintNotEnforced as error:
        return _ignored(probe, error.reply, _ENABLE_THINKING)
    if re.fullmatch(pattern, text) or (truncated and text and text.startswith(start)):
        return works(f"enforced: {probe.excerpt(text)}")
    if truncated and not text:
        return unknown("inconclusive: the reply was truncated while the model was thinking or wrote white space")
    return _ignored(probe, text, _ENABLE_THINKING)


def _ignored(probe: Probe, text: str, workaround: str) -> Finding:
    flags = probe.enforcement_flags
    advice = f"{_UNDETECTED_END}. Without the flag, {workaround}. {_FLAG_COST}" if flags else ""
    if probe.reasoning_parser_mismatch:
        advice = REASONING_PARSER_MISMATCH
    return broken(f"silently ignored: {probe.excerpt(text)}", *flags, advice=advice)


def _structural_tag(probe: Probe) -> Finding:
    if probe.older_than("0.11.1"):
        return skipped("before 0.11.1 a structural tag applies only after the model has begun it")
    outputs = {"structural_tag": json.dumps(_TAG)}
    return _constrained(probe, pattern=r"<zebra>[0-9]{2}</zebra>", start="<zebra>", structured_outputs=outputs)


def _completions_choice(probe: Probe) -> Finding:
    try:
        reply = probe.server.client.completions.create(
            model=probe.model,
            prompt=QUESTION,
            max_tokens=16,
            temperature=0,
            extra_body={"structured_outputs": {"choice": ["zebra-7", "zebra-8"]}},
        )
        text = reply.choices[0].text.strip()
    except TruncatedOutput as error:
        text = error.partial.strip()
    except ConstraintNotEnforced as error:
        return _ignored(probe, error.reply, _USE_CHAT)
    if text.startswith("zebra-"):
        return works(f"enforced: {probe.excerpt(text)}")
    return _ignored(probe, text, _USE_CHAT)


def _structured_output(pattern: str, start: str, **outputs: Any) -> Callable[[Probe], Finding]:
    return partial(_constrained, pattern=pattern, start=start, structured_outputs=outputs)


_json = _structured_output(_OBJECT, "{", json=_SCHEMA)
_regex = _structured_output(_PREFIXED, "zebra-", regex="zebra-[0-9]{2}")
_choice = _structured_output(_PREFIXED, "zebra-", choice=["zebra-7", "zebra-8"])
_grammar = _structured_output(_PREFIXED, "zebra-", grammar='root ::= "zebra-" [0-9] [0-9]')
_response_format = partial(_constrained, pattern=_OBJECT, start="{", response_format=_RESPONSE_FORMAT)

_GROUP = "structured output"
CHECKS = (
    Check("json", _GROUP, "Is a JSON schema enforced?", _json, CHAT_ROUTE),
    Check("response-format", _GROUP, "Is OpenAI's response_format enforced?", _response_format, CHAT_ROUTE),
    Check("regex", _GROUP, "Is a regular expression enforced?", _regex, CHAT_ROUTE),
    Check("choice", _GROUP, "Is a choice enforced?", _choice, CHAT_ROUTE),
    Check("grammar", _GROUP, "Is a grammar enforced?", _grammar, CHAT_ROUTE),
    Check("structural-tag", _GROUP, "Is a structural tag enforced?", _structural_tag, CHAT_ROUTE),
    Check(
        "completions-choice",
        _GROUP,
        "Is a choice enforced on /v1/completions?",
        _completions_choice,
        "/v1/completions",
        counts=False,
    ),
)
