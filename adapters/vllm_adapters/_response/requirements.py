"""What a request requires of each of its replies, and whether a finished reply has it.

One rule for every path: the client and the frameworks, whole and streamed. A requested form (object, choice, regex,
grammar) that was truncated is an error, as is a forced tool call that did not come, or a tool call that comes as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from packaging.version import Version

from vllm_adapters._response.error_mapping import raise_if_aborted
from vllm_adapters._response.structured import (
    FORM_NAMES,
    Constraint,
    check_constraint,
    missing_tool_call,
    model_refusal,
    requested_constraint,
    requested_form,
    truncation_error,
    unparsed_tool_call,
)
from vllm_adapters._response.tool_calls import Called

CALLED = frozenset({"tool_calls", "function_call"})
"""Finish reasons of replies that end with tool calls."""

_ANSWERS_IN_REASONING = (Version("0.18"), Version("0.24"))  # of 0.14.1 and 0.28 it is known that they do not
_MAYBE_IN_REASONING = (Version("0.15"), Version("0.28"))

# How the formats of vLLM's tool parsers begin. What follows the mark tells a call from a text about the mark.
_PAYLOAD = r"(?:\s*(?:[{\[<]|$)|\n?[\w.:-]+(?:\s*[\n\[{(<]|$))"
_MARKS = (
    *("<tool_call>", "<tool_calls>", "<|tool_call|>", "<|tool_call>", "<|tool_call_start|>", "<|tool_call_begin|>"),
    *("<|tool_calls_section_begin|>", "<longcat_tool_call>", "<minimax:tool_call>", "<seed:tool_call>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"),
    *("<ifm|tool_calls>", "<ifm|tool_call>", "<dots_function_call>", "<function_call>", "<start_function_call>"),
    *("[TOOL_CALLS]", "<|python_tag|>", "<|action_start|>", "<|tools_prefix|>", "<|START_ACTION|>", "<TOOLCALL>"),
    *("<steptml:invoke", "<function=", "<function name="),
)
_OPEN_ENDED = ("<steptml:invoke", "<function=", "<function name=")  # what follows is an attribute
_MARKUP = re.compile(
    rf"(?:{'|'.join(re.escape(mark) for mark in _MARKS if mark not in _OPEN_ENDED)}){_PAYLOAD}"
    rf"|(?:{'|'.join(map(re.escape, _OPEN_ENDED))})[\"'\w]"
    r"|<\|channel\|>commentary to=|functools\["
)
_LINE_START = re.compile(r"(?:^|\n)[ \t]*(\S[^\n]*)\Z")


class Requirements:
    """What one request requires of each of its choices.

    Args:
        body: The request's JSON body, as it was sent.
        choices: The number of choices that its usage is of.
        version: The server's version, if known.
        sdk: Whether the reply goes to a caller of the SDK, who finds a refusal in the SDK's own field.
    """

    def __init__(
        self, body: Mapping[str, Any], *, choices: int = 1, version: Version | None = None, sdk: bool = False
    ) -> None:
        self.constraint: Constraint | None = None
        self._form = False
        if not FORM_NAMES.isdisjoint(body):
            self.constraint = requested_constraint(body)
            self._form = self.constraint is not None or requested_form(body)
        choice, tools = body.get("tool_choice"), body.get("tools")
        self._tools: Any = tools if isinstance(tools, list) and choice != "none" else ()
        self._forced = _forced_tool(choice) if self._tools and choice not in (None, "auto") else None
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        self._limit = limit * choices if isinstance(limit, int) else None
        self._sdk = sdk
        self.reasoning_is_content = False
        """Whether the server streams answers as reasoning: 0.18 and 0.23 do where the request disables thinking."""
        self.reasoning_may_be_content = False
        """Whether it may do so."""
        options = body.get("chat_template_kwargs")
        if isinstance(options, Mapping) and (
            options.get("enable_thinking") is False or options.get("thinking") is False
        ):
            self.reasoning_is_content = version is not None and _within(version, _ANSWERS_IN_REASONING)
            self.reasoning_may_be_content = version is None or _within(version, _MAYBE_IN_REASONING)

    def awaits_usage(self, reason: object) -> bool:
        """Return whether the usage tells if tool calls that end with this finish reason are complete."""
        return reason in CALLED and self._limit is not None

    def finish_reason(self, reason: Any, calls: Sequence[Called], usage: Any, *, streamed: bool = False) -> Any:
        """Return the finish reason of tool calls as it should be: ``"length"`` if the last call was truncated.

        vLLM 0.11 to 0.30 say ``tool_calls`` of calls that the token limit truncated, with no arguments or with
        brackets closed for them.

        Args:
            reason: The choice's.
            calls: Its tool calls.
            usage: The reply's usage, a mapping or the SDK's object; ``None`` if unknown.
            streamed: Whether the reply was streamed.
        """
        if not calls or reason not in CALLED:
            return reason
        used = _completion_tokens(usage)
        if used is not None and self._limit is not None and used >= self._limit:
            return "length"
        if calls[-1].has_arguments:
            return reason
        return "length" if self._needs_arguments(calls[-1].name, streamed and used is None) else reason

    def _needs_arguments(self, name: str, default: bool) -> bool:
        """Return whether a call without a byte of arguments is incomplete; ``default`` if all are optional."""
        for tool in self._tools:
            function = tool.get("function") if isinstance(tool, Mapping) else None
            if isinstance(function, Mapping) and function.get("name") == name:
                schema = function.get("parameters")
                if not isinstance(schema, Mapping) or not schema.get("properties"):
                    return False
                return bool(schema.get("required")) or default
        return False

    def check(
        self,
        text: str,
        *,
        finish_reason: Any,
        stop_reason: Any = None,
        calls: Sequence[Called] = (),
        refusal: str | None = None,
        completion: Any = None,
    ) -> None:
        """Raise if a finished reply does not have what was requested.

        Args:
            text: The reply's text.
            finish_reason: The choice's.
            stop_reason: The stop string or token that ended it, if one did.
            calls: Its tool calls.
            refusal: A gateway's refusal in place of an answer.
            completion: The SDK's object, for its own error class.

        Raises:
            ServerFailed: The server aborted it.
            ModelRefusal: A refusal came in place of a requested form or a forced tool call.
            TruncatedOutput: A requested form, a forced tool call, or a tool call that comes as text was truncated.
            FilteredOutput: A content filter truncated it.
            ConstraintNotEnforced: It violates the constraint, does not call the forced tool, or is a tool call that the
                server did not parse.
        """
        if finish_reason not in ("stop", "tool_calls"):
            raise_if_aborted(finish_reason, text)
        if refusal:
            if not self._sdk and (self._form or self._forced is not None):
                raise model_refusal(refusal)
            return
        names = [call.name for call in calls]
        if names:
            if self._forced and self._forced not in names:
                raise missing_tool_call(self._forced, text)
            return
        if finish_reason != "stop":
            self._check_truncation(text, finish_reason, completion)
        if self._forced is not None or (finish_reason == "tool_calls" and self._tools):
            names = sorted(self._tool_names())
            raise missing_tool_call(names[0] if self._forced == "" and len(names) == 1 else self._forced, text)
        if self._tools and finish_reason == "stop" and _MARKUP.match(text.lstrip()):
            raise unparsed_tool_call(text)
        if self.constraint is not None:
            check_constraint(self.constraint, text, finish_reason=finish_reason, stop_reason=stop_reason)

    def _check_truncation(self, text: str, finish_reason: Any, completion: Any) -> None:
        if self._form or self._forced is not None:
            if finish_reason == "length" and self.constraint is not None and self.constraint.is_whole_choice(text):
                return
            what = "the requested object" if self._forced is None else "the tool call"
        elif self._tools and holds_tool_markup(text, self._tool_names()):
            what = "a tool call"
        else:
            return
        if error := truncation_error(finish_reason, text, what=what, completion=completion):
            raise error

    def _tool_names(self) -> frozenset[str]:
        functions = [tool.get("function") for tool in self._tools if isinstance(tool, Mapping)]
        names = (function.get("name") for function in functions if isinstance(function, Mapping))
        return frozenset(name for name in names if isinstance(name, str))


def _forced_tool(choice: Any) -> str | None:
    """Return the name of the tool that is forced; empty if it is any of them, ``None`` if none is."""
    if choice == "required":
        return ""
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str):
            return name
        allowed = choice.get("allowed_tools")
        if isinstance(allowed, Mapping) and allowed.get("mode") == "required":
            return ""
    return None


def _within(version: Version, span: tuple[Version, Version]) -> bool:
    return span[0] <= version < span[1]


def _completion_tokens(usage: Any) -> int | None:
    value = usage.get("completion_tokens") if isinstance(usage, Mapping) else getattr(usage, "completion_tokens", None)
    return value if isinstance(value, int) else None


def holds_tool_markup(text: str, names: frozenset[str]) -> bool:
    """Return whether a truncated text holds a tool call, in the format of any of vLLM's tool parsers.

    Args:
        text: The text of the reply.
        names: The names of the offered tools: some formats are plain JSON, or look like Python.
    """
    if _MARKUP.search(text) or _starts_with_call(text, names):
        return True
    line = _LINE_START.search(text)  # the mark itself may be truncated
    return line is not None and len(line[1]) > 3 and any(mark.startswith(line[1]) for mark in _MARKS)


def _starts_with_call(text: str, names: frozenset[str]) -> bool:
    start = text.lstrip()[:1]
    return bool(names) and start in ("{", "[") and _call_pattern(names).match(text) is not None


@lru_cache(maxsize=64)
def _call_pattern(names: frozenset[str]) -> re.Pattern[str]:
    tool = f"(?:{'|'.join(map(re.escape, sorted(names)))})"
    return re.compile(rf'\s*(?:\[?\s*\{{\s*"(?:name|function)"\s*:\s*"{tool}"|\[\s*{tool}\()')
