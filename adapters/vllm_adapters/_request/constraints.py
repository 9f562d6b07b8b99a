"""The constraints in a request: which there are, and which requests harm the server or cannot be fulfilled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from vllm_adapters.errors import InvalidRequest
from vllm_adapters.params import CONSTRAINTS

_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "structural_tag": "structural_tag",
}
_OF_RESPONSE_FORMAT = {"json_object": "json_object", "json_schema": "json", "structural_tag": "structural_tag"}

_UNSUPPORTED = re.compile(
    r"\\\\|\[(?:\\[^pP]|[^\]\\])*\]"  # an escaped backslash, a set: skipped, with what they contain
    r"|(?P<found>"
    r"\\[pP](?:\{[^}]*\}|.)"  # Unicode classes
    r"|\(\?P?<\w+>|\(\?P=\w+\)"  # named groups
    r"|\(\?<?[=!]|\(\?>"  # look-around, atomic groups
    r"|\(\?[a-zA-Z-]+[:)]"  # inline flags
    r"|\\[1-9]|\\[bBAZzG]"  # back-references, anchors
    r"|(?:[*+?]|\{\d+(?:,\d*)?\})\+"  # possessive quantifiers
    r")"
    r"|\\."  # another escape: skipped
)


class Requested(NamedTuple):
    """One constraint of a request.

    Args:
        route: The parameter that has it, such as ``"response_format"``.
        kind: A name of ``params.CONSTRAINTS``.
        value: The schema, pattern, choices, grammar or tag.
    """

    route: str
    kind: str
    value: Any


def requested(body: Mapping[str, Any]) -> list[Requested]:
    """Return every constraint of a request body, under any version's names."""
    found = []
    form = body.get("response_format")
    if isinstance(form, Mapping) and (kind := _OF_RESPONSE_FORMAT.get(str(form.get("type")))):
        schema = form.get("json_schema")
        value = schema.get("schema") if isinstance(schema, Mapping) else True
        found.append(Requested("response_format", kind, form if kind == "structural_tag" else value))
    outputs = body.get("structured_outputs")
    if isinstance(outputs, Mapping):
        given = (Requested("structured_outputs", kind, outputs.get(kind)) for kind in sorted(CONSTRAINTS))
        found += [each for each in given if each.value not in (None, False)]
    given = (Requested(name, kind, body.get(name)) for name, kind in _GUIDED.items())
    return found + [each for each in given if each.value is not None]


def reject_harmful(body: Mapping[str, Any]) -> None:
    """Raise for constraints that stop a vLLM 0.11 server for all its callers, and do nothing good on any other.

    Raises:
        InvalidRequest: ``structured_outputs`` has no constraint, a pattern of white space has none to belong to, or
            there are several.
    """
    found = requested(body)
    routes = {each.route for each in found}
    for name, missing in (
        ("structured_outputs", "structured_outputs" not in routes),
        ("guided_whitespace_pattern", not found),
    ):
        if missing and body.get(name) is not None:
            raise InvalidRequest(
                f"`{name}` is given without a constraint, which stops a vLLM 0.11 server",
                hint=f"Add one of {', '.join(sorted(CONSTRAINTS))}, or remove it",
                param=name,
            )
    for other in found[1:]:
        if (other.kind, _parsed(other.value)) != (found[0].kind, _parsed(found[0].value)):
            first = found[0]
            raise InvalidRequest(
                f"The request has two constraints, {_place(first)} and {_place(other)}, which stops a vLLM 0.11 server",
                hint="Pass one of them",
                param=other.route,
            )


def _place(constraint: Requested) -> str:
    nested = constraint.route in ("structured_outputs", "response_format")
    return f"`{constraint.route}`" + (f" ({constraint.kind})" if nested else "")


def _parsed(value: Any) -> Any:
    """Return a schema that is given as text as data, and any other value unchanged."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def unsupported_construct(body: Mapping[str, Any]) -> str | None:
    """Return what vLLM's structured-output backends cannot compile in the regexes of a request, ``None`` if nothing."""
    for constraint in requested(body):
        patterns = [constraint.value] if constraint.kind == "regex" else _patterns(_parsed(constraint.value))
        for pattern in patterns:
            for match in _UNSUPPORTED.finditer(pattern) if isinstance(pattern, str) else ():
                if match["found"]:
                    return match["found"]
    return None


def _patterns(schema: Any) -> Iterator[Any]:
    """Yield the regexes in a JSON schema."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "pattern":
                yield value
            elif key == "patternProperties" and isinstance(value, Mapping):
                yield from value
            yield from _patterns(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _patterns(item)
