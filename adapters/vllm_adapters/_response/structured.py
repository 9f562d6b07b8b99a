"""Did the reply keep to the JSON schema, regex or choice that was asked for?

Real servers ignore constraints with a 200: 0.14.1 with a reasoning parser whose end of thinking never comes,
0.32 on ``/v1/completions`` of such a server, any version for a field it does not know.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for

from vllm_adapters._response.error_mapping import RequestContext
from vllm_adapters.errors import ConstraintNotEnforced

log = logging.getLogger("vllm_adapters")


@dataclass(frozen=True)
class Constraint:
    """One thing a request asked of the reply's form.

    Args:
        kind: ``"json"``, ``"json_object"``, ``"regex"`` or ``"choice"``.
        value: The JSON schema (mapping), nothing, the pattern (str) or the choices (list of str).
    """

    kind: str
    value: Any = None

    def broken_by(self, reply: str) -> str | None:
        """Why ``reply`` breaks this, in a few words; ``None`` when it keeps to it."""
        if self.kind == "choice":
            # Whitespace around the reply is the chat template's, not the model's choice.
            return None if {reply, reply.strip()} & {str(c) for c in self.value} else "it is none of the choices"
        if self.kind == "regex":
            return self._regex_broken_by(reply)
        try:
            found = json.loads(reply)
        except (ValueError, RecursionError) as error:  # models that go in circles open brackets without end
            return f"it is not JSON ({error})"
        return self._schema_broken_by(found) if self.kind == "json" else None

    def _regex_broken_by(self, reply: str) -> str | None:
        try:
            pattern = re.compile(self.value)
        except re.error as error:
            # vLLM's engines know syntax that Python does not, such as \p{L}.
            log.warning("The regex cannot be checked here (%s): the reply is passed on unchecked", error)
            return None
        return None if any(pattern.fullmatch(text) for text in (reply, reply.strip())) else "it does not match"

    def _schema_broken_by(self, found: Any) -> str | None:
        schema = json.loads(self.value) if isinstance(self.value, str) else self.value
        validator = validator_for(schema)(schema)
        error = best_match(validator.iter_errors(found))
        return f"{error.json_path}: {error.message}" if error else None


def requested_constraint(body: Mapping[str, Any]) -> Constraint | None:
    """The constraint a request body carries, in any of vLLM's dialects; ``None`` if it cannot be checked."""
    if body.get("echo") or body.get("continue_final_message"):
        return None  # the reply holds or continues text that the constraint did not govern
    shape = body.get("response_format")
    if isinstance(shape, Mapping):
        if shape.get("type") == "json_object":
            return Constraint("json_object")
        schema = (shape.get("json_schema") or {}).get("schema")
        if shape.get("type") == "json_schema" and schema is not None:
            return Constraint("json", schema)
    asked = body.get("structured_outputs") or {}
    for kind in ("json", "regex", "choice", "json_object"):
        value = asked.get(kind) if isinstance(asked, Mapping) else None
        value = value if value is not None else body.get(f"guided_{kind}")
        if value:
            return Constraint(kind, value)
    return None


def check_constraint(
    constraint: Constraint | None, reply: str, *, finish_reason: str | None, stop_reason: Any, call: RequestContext
) -> None:
    """Raise if a finished reply breaks ``constraint``.

    Args:
        constraint: What was asked for; nothing to check if ``None``.
        reply: The reply's text.
        finish_reason: Only replies that ended by themselves (``"stop"``) are judged.
        stop_reason: The stop string or token that ended it, if one did.
        call: What was asked, for the text of the error.

    Raises:
        ConstraintNotEnforced: The reply breaks it.
    """
    if constraint is None or finish_reason != "stop":
        return
    broken = constraint.broken_by(reply)
    if broken is None:
        return
    if stop_reason is not None:
        cause = f"The stop {stop_reason!r} cut it"
    elif constraint.kind == "json" and not broken.startswith("it is not JSON"):
        cause = "The server's structured-output backend may not enforce this keyword of the schema"
    else:
        cause = (
            "The server ignored the constraint. vLLM does so when its reasoning parser never sees the end of "
            "thinking: on /v1/completions (use chat), with enable_thinking=False in some versions, or with a "
            "--reasoning-parser that does not fit the model"
        )
    shown = reply if len(reply) <= 200 else reply[:200] + "..."
    raise ConstraintNotEnforced(
        f"The reply breaks the {constraint.kind} constraint that was asked for: {broken}; reply: {shown!r}",
        hint=cause,
        address=call.address,
        model=call.model,
        reply=reply,
        constraint=constraint.kind,
    )
