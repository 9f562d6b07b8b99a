"""Check that a reply has the form that was requested: a constraint, or a forced tool call.

Real servers ignore both with a 200: 0.14.1 constraints with a reasoning parser that never sees the end of
reasoning, 0.32 constraints on ``/v1/completions`` of such a server, 0.14 to 0.29 forced tool calls.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from packaging.version import Version

from vllm_adapters._request.compat import ALLOW_UNKNOWN
from vllm_adapters._request.constraints import requested
from vllm_adapters._response.grammar import grammar_matcher, tag_matcher
from vllm_adapters.errors import (
    ConstraintNotEnforced,
    FilteredOutput,
    ModelRefusal,
    TruncatedOutput,
    UnsupportedParameter,
    VLLMError,
)
from vllm_adapters.params import CONSTRAINTS

_MATCHERS = {"grammar": grammar_matcher, "structural_tag": tag_matcher}
_IGNORED, _NEW_TAGS, _ENFORCED = Version("0.11"), Version("0.11.1"), Version("0.30")

log = logging.getLogger(__name__)

_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structural_tag")
FORM_NAMES = frozenset({"response_format", "structured_outputs", *_GUIDED, "guided_json_object"})
"""The parameters that a constraint may be in."""


@dataclass(frozen=True)
class Constraint:
    """A constraint on the text of a reply.

    Args:
        kind: ``"json"``, ``"json_object"``, ``"regex"``, ``"choice"``, ``"grammar"`` or ``"structural_tag"``.
        value: The JSON schema (mapping), nothing, the pattern (str), the choices (list of str), the grammar (str), or
            the tag as JSON (str).
    """

    kind: str
    value: Any = None

    def violation(self, reply: str) -> str | None:
        """Return how ``reply`` violates the constraint, or ``None`` if it does not."""
        if self.kind == "choice":
            # Whitespace around the reply is the chat template's, not the model's choice.
            return None if {reply, reply.strip()} & {str(c) for c in self.value} else "it is none of the choices"
        if self.kind == "regex":
            return self._regex_violation(reply)
        if self.kind in _MATCHERS:
            matches = _MATCHERS[self.kind](self.value)
            fits = matches is None or matches(reply) or matches(reply.strip())
            return None if fits else "it does not match"
        try:
            found = json.loads(reply)
        except (ValueError, RecursionError) as error:  # models that repeat themselves open brackets without end
            return f"it is not JSON ({error})"
        return self._schema_violation(found) if self.kind == "json" else None

    @property
    def checkable(self) -> bool:
        """Whether a reply can be checked: a grammar needs llguidance, and some structural tags cannot be."""
        return self.kind not in _MATCHERS or _MATCHERS[self.kind](self.value) is not None

    def is_whole_choice(self, reply: str) -> bool:
        """Return whether ``reply`` is a choice that no other choice begins with: it is complete, however it ended."""
        if self.kind != "choice":
            return False
        choices = {str(choice) for choice in self.value}
        return any(
            text in choices and not any(other != text and other.startswith(text) for other in choices)
            for text in (reply, reply.strip())
        )

    def _regex_violation(self, reply: str) -> str | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # what Python's sets may come to mean
                pattern = re.compile(self.value)
        except re.error as error:
            # vLLM's engines have syntax that Python does not have, such as \p{L}.
            log.warning("The regex cannot be checked here (%s); the reply is passed on unchecked", error)
            return None
        return None if any(pattern.fullmatch(text) for text in (reply, reply.strip())) else "it does not match"

    def _schema_violation(self, found: Any) -> str | None:
        error = self._schema_error(found)
        return f"{error.json_path}: {error.message}" if error else None

    def _schema_error(self, found: Any) -> Any:
        from jsonschema.exceptions import best_match  # takes a tenth of a second, and few programs need it
        from jsonschema.validators import validator_for

        schema = json.loads(self.value) if isinstance(self.value, str) else self.value
        validator = validator_for(schema)(schema)
        return best_match(validator.iter_errors(found))

    def violated_keyword(self, reply: str) -> str:
        """Return the keyword of the JSON schema that ``reply``, which is JSON, violates."""
        error = self._schema_error(json.loads(reply))
        return str(error.validator) if error else ""


def requested_constraint(body: Mapping[str, Any]) -> Constraint | None:
    """Return the constraint in a request body, under any version's names; ``None`` if it cannot be checked."""
    if body.get("echo") or body.get("continue_final_message"):
        return None  # the reply contains or continues text that the constraint does not govern
    form = body.get("response_format")
    if isinstance(form, Mapping):
        if form.get("type") == "json_object":
            return Constraint("json_object")
        schema = (form.get("json_schema") or {}).get("schema")
        if form.get("type") == "json_schema" and schema is not None:
            return Constraint("json", schema)
    outputs = body.get("structured_outputs") or {}
    for kind in ("json", "regex", "choice", "json_object"):
        value = outputs.get(kind) if isinstance(outputs, Mapping) else None
        value = value if value is not None else body.get(f"guided_{kind}")
        if value:
            return Constraint(kind, value)
    constraint = _matched_constraint(body)
    return constraint if constraint is not None and constraint.checkable else None


def _matched_constraint(body: Mapping[str, Any]) -> Constraint | None:
    """Return the grammar or structural tag in a request body."""
    for each in requested(body):
        if each.kind in _MATCHERS:
            value = each.value if isinstance(each.value, str) else json.dumps(each.value)
            return Constraint(each.kind, value)
    return None


def unenforced_constraint(endpoint: str, body: Mapping[str, Any], version: Version | None) -> VLLMError | None:
    """Return the error for a constraint that the server may ignore without anyone noticing, ``None`` for others.

    vLLM 0.11 to 0.29 ignores grammars and structural tags if it has a reasoning parser and the model does not think,
    and so does every version on ``/v1/completions``. Whether a server has a parser cannot be known, but what was
    requested can be compared with the reply. So a request is refused only if that is impossible.

    Args:
        endpoint: A name of the availability table.
        body: The request's JSON body. A true ``allow_unknown`` in it lets every constraint pass.
        version: The server's version; ``None`` means the newest known.
    """
    constraint = _matched_constraint(body)
    if constraint is None or body.get(ALLOW_UNKNOWN):
        return None
    name = constraint.kind
    old = version is not None and version < _NEW_TAGS
    if old and name == "structural_tag" and _has_new_form(constraint.value):
        return UnsupportedParameter(
            f"The server is vLLM {version}, which fails on a structural tag with `format`",
            hint=f"Update the server to {_NEW_TAGS} or newer, or use `structures` and `triggers`",
            param=name,
            since=str(_NEW_TAGS),
        )
    ignoring = endpoint == "completions" or (version is not None and version < _ENFORCED)
    if not ignoring or (version is not None and version < _IGNORED) or constraint.checkable:
        return None
    where = "on /v1/completions" if endpoint == "completions" else "when the model does not think"
    check = (
        "Install vllm-adapters[grammar], with which replies are checked"
        if name == "grammar" and find_spec("llguidance") is None
        else "Request a JSON schema, regex or choice, which are checked"
    )
    other = "use chat" if endpoint == "completions" else f"update the server to {_ENFORCED} or newer"
    return UnsupportedParameter(
        f"vLLM{f' {version}' if version else ''} ignores a {name} {where} if the server has a reasoning parser, "
        "and the reply cannot be checked",
        hint=f"{check}, or {other}. On the server, --structured-outputs-config '{{\"enable_in_reasoning\": true}}' "
        "enforces it on 0.14 and newer; if it has no reasoning parser, pass allow_unknown=True with the request",
        param=name,
    )


def _has_new_form(tag: str) -> bool:
    try:
        parsed = json.loads(tag)
    except ValueError:
        return False
    return isinstance(parsed, Mapping) and "format" in parsed


def requested_form(body: Mapping[str, Any]) -> bool:
    """Return whether a request body has a constraint of any kind, also one that cannot be checked."""
    form = body.get("response_format")
    if isinstance(form, Mapping) and form.get("type") not in (None, "text"):
        return True
    outputs = body.get("structured_outputs")
    if isinstance(outputs, Mapping) and any(outputs.get(kind) not in (None, False) for kind in CONSTRAINTS):
        return True
    return any(body.get(name) is not None for name in _GUIDED)


def check_constraint(
    constraint: Constraint | None, reply: str, *, finish_reason: str | None, stop_reason: Any = None
) -> None:
    """Raise if a finished reply violates ``constraint``.

    Args:
        constraint: The requested constraint; ``None`` for none.
        reply: The reply's text.
        finish_reason: Only replies that ended by themselves (``"stop"``) are checked.
        stop_reason: The stop string or token that ended it, if one did.

    Raises:
        ConstraintNotEnforced: It does.
    """
    if constraint is None or finish_reason != "stop":
        return
    violation = constraint.violation(reply)
    if violation is None:
        return
    if stop_reason is not None:
        cause = f"The stop {stop_reason!r} ended it early: remove it"
    elif constraint.kind == "json" and not violation.startswith("it is not JSON"):
        keyword = constraint.violated_keyword(reply)
        cause = (
            "vLLM enforces `oneOf` as `anyOf`: make the alternatives exclusive, or request `anyOf`"
            if keyword == "oneOf"
            else f"The server's structured-output backend may not enforce this keyword of the schema: `{keyword}`"
        )
    else:
        cause = (
            "The server ignored the constraint. vLLM does so when its reasoning parser never sees the end of "
            "reasoning: on /v1/completions (use chat), with enable_thinking=False in some versions, or with a "
            "--reasoning-parser that does not fit the model"
        )
    raise ConstraintNotEnforced(
        f"The reply violates the requested {constraint.kind} constraint: {violation}; reply: {_shortened(reply)!r}",
        hint=cause,
        reply=reply,
        constraint=constraint.kind,
    )


def missing_tool_call(name: str | None, reply: str) -> ConstraintNotEnforced:
    """Return the error for a reply without the tool call that was forced, or that its finish reason names.

    Args:
        name: The tool's name; empty if any tool would do, ``None`` if none was forced.
        reply: The reply's text, or its arguments.
    """
    problem = (
        "The reply has finish reason `tool_calls` and no tool call"
        if name is None
        else f"The reply does not call the forced tool `{name}`"
        if name
        else "The reply calls no tool, although a call was forced"
    )
    return ConstraintNotEnforced(
        f"{problem}: {_shortened(reply)!r}",
        hint="Check --tool-call-parser, or request a JSON schema, which needs no tool parser",
        reply=reply,
        constraint="tool_choice",
    )


def unparsed_tool_call(reply: str) -> ConstraintNotEnforced:
    """Return the error for a reply that is a tool call as text: an agent would take it for the answer.

    vLLM 0.14 to 0.18 leave some streamed calls in the text, and so does every parser of another model's format.
    """
    return ConstraintNotEnforced(
        f"The reply is a tool call that the server did not parse: {_shortened(reply)!r}",
        hint="Check --tool-call-parser, force the call with tool_choice, or send the request without `stream`",
        reply=reply,
        constraint="tool_choice",
    )


def model_refusal(refusal: str) -> ModelRefusal:
    """Return the error for a refusal in place of what was requested."""
    return ModelRefusal(f"The model refused: {_shortened(refusal)}", refusal=refusal)


_TRUNCATIONS: dict[str, tuple[type[TruncatedOutput | FilteredOutput], str, str]] = {
    "length": (TruncatedOutput, "The token limit", "Raise max_tokens, or leave it out"),
    "repetition": (TruncatedOutput, "repetition_detection", "The model repeated itself: set a repetition_penalty"),
    "content_filter": (FilteredOutput, "A content filter", "vLLM has none: configure the gateway in front of it"),
}


def truncation_error(
    finish_reason: object, partial: str, *, what: str = "the requested object", completion: Any = None
) -> TruncatedOutput | FilteredOutput | None:
    """Return the error for a requested object whose end is missing, or ``None`` if it ended by itself.

    A truncated object may parse as a complete one, with a shorter path or a smaller number than the model was
    about to write.

    Args:
        finish_reason: The choice's.
        partial: The text, as far as it was generated.
        what: What was truncated.
        completion: The SDK's object, for its own error class.
    """
    if finish_reason not in _TRUNCATIONS:
        return None
    error, cause, hint = _TRUNCATIONS[str(finish_reason)]
    return error(
        f"{cause} truncated {what}", hint=hint, partial=partial, finish_reason=finish_reason, completion=completion
    )


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
