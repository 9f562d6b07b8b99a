"""Parameter compatibility: translate a request body for the server's vLLM version, or refuse it.

Every vLLM version accepts unknown body fields and ignores them with a 200, so only the client can tell that a
parameter is misspelt, was removed (``guided_choice`` in 0.12.0) or does not exist yet:
https://github.com/vllm-project/vllm/issues/53975
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from functools import cache
from typing import Any

from packaging.version import InvalidVersion, Version
from pydantic import ValidationError

from vllm_adapters import params
from vllm_adapters._request import availability
from vllm_adapters._request.encode import contains_non_finite, encoding_error
from vllm_adapters._request.system_messages import MERGE_SYSTEM_MESSAGES, merge_system_messages, needs_merging
from vllm_adapters.errors import InvalidRequest, UnknownParameter, UnsupportedParameter, WrongAddress

log = logging.getLogger(__name__)

ALLOW_UNKNOWN = "allow_unknown"
"""Key of a request body that lets unknown fields pass (for servers with plugins). It is never sent."""

_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_whitespace_pattern": "whitespace_pattern",
    "structural_tag": "structural_tag",
}
CONSTRAINT_NAMES = frozenset({"structured_outputs", *_GUIDED})
"""The parameters with vLLM's own constraints, of all versions."""
_ACTIVATION = ("use_activation", "normalize", "activation", "softmax")
_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
_SYNONYMS: tuple[Set[str], ...] = (_LIMITS, CONSTRAINT_NAMES, frozenset(_ACTIVATION))
_ONLY_NAMES = ("transcriptions", "translations")
"""Endpoints whose parameters are known by their names alone."""
_NESTED = ("structured_outputs", "stream_options")
_HINTS = {
    "guided_decoding_backend": "Set it on the server: --structured-outputs-config '{\"backend\": ...}'",
    "best_of": "Use `n`",
    "logits_processors": "Load it into the server: vllm serve --logits-processors",
    "functions": "Use `tools`",
    "function_call": "Use `tool_choice`",
}
_OPENAI_ONLY = frozenset(["audio", "modalities", "moderation", "verbosity", "web_search_options"])
_WITHOUT_EFFECT = frozenset(
    [
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
    ]
)
"""OpenAI's parameters that do not change the reply: how it is stored, billed, cached. They are not sent."""
_REASONING_RENAMED = Version("0.11.1")


STRICT_COMPLETION = "strict_completion"
"""Name in a body: a stream must prove that the server, not a gateway, ended it."""
SESSION_ID = "session_id"


class StrictStreamOptions(dict[str, Any]):
    """Stream options of a request with ``strict_completion``, which itself is not sent."""


def parse_version(text: str) -> Version | None:
    """Return a server's release, or ``None`` if ``text`` is not one (a gateway's, or a build without a tag).

    Args:
        text: Such as ``"0.11.0"``, ``"0.11.1rc2.dev3+gabc"`` or ``"vllm-0.32.0-44994631"``.
    """
    try:
        version = Version(text.removeprefix("vllm-").split("-")[0].strip())
    except InvalidVersion:
        return None
    released = Version(version.base_version)
    return released if released >= Version("0.2") else None


def reject_unknown(endpoint: str, body: Mapping[str, Any]) -> None:
    """Raise for a field that no vLLM version has on this endpoint, under this or a synonymous name.

    Args:
        endpoint: A name of the availability table, e.g. ``"chat"``.
        body: The request's JSON body. A true ``allow_unknown`` in it lets all names pass.

    Raises:
        UnknownParameter: There is one.
    """
    unknown = body.keys() - _accepted_names(endpoint)
    if unknown and not body.get(ALLOW_UNKNOWN):
        raise unknown_parameter(endpoint, next(name for name in body if name in unknown))


@cache
def _accepted_names(endpoint: str) -> frozenset[str]:
    known = availability.names(endpoint)
    return known.union(
        {ALLOW_UNKNOWN, MERGE_SYSTEM_MESSAGES, STRICT_COMPLETION},
        _WITHOUT_EFFECT,
        *(group for group in _SYNONYMS if known & group),
    )


def unknown_parameter(endpoint: str, name: str) -> UnknownParameter:
    """Return the error for a misspelt or foreign parameter, with suggestions.

    Args:
        endpoint: A name of the availability table, or a parameter that is an object.
        name: The parameter, or the key of the object.
    """
    suggestions = tuple(availability.suggest(endpoint, name))
    hint = _HINTS.get(name) or (
        "Remove it: vLLM does not have this parameter of OpenAI. For a gateway that has it, pass allow_unknown=True"
        if name in _OPENAI_ONLY
        else f"Did you mean {' or '.join(f'`{s}`' for s in suggestions)}?"
        if suggestions
        else "If a plugin of the server adds it, pass extra_body with allow_unknown=True"
    )
    place = f"{endpoint}.{name}" if endpoint in _NESTED else name
    where = "any vLLM version" if endpoint in _NESTED else f"vLLM's {endpoint} requests"
    return UnknownParameter(
        f"`{place}` is not a parameter of {where}, which would ignore it silently",
        hint=hint,
        param=place,
        suggestions=suggestions,
    )


def validate_params(endpoint: str, body: Mapping[str, Any], *, skip: Set[str] = frozenset()) -> dict[str, Any]:
    """Validate the parameters that vLLM adds to OpenAI's API and convert them to JSON data.

    Args:
        endpoint: A name of the availability table.
        body: Parameters by name; ``None`` means not given and is dropped.
        skip: Names whose values pass as they are.

    Raises:
        InvalidRequest: A value is of the wrong type or out of bounds.
    """
    given = {name: value for name, value in body.items() if value is not None}
    if endpoint in _ONLY_NAMES:
        return given
    model = params.MODELS[endpoint]
    added = (given.keys() & model.model_fields.keys()) - skip
    if not added:
        return given
    adapter = params.adapter(model)
    try:
        found = adapter.validate_python({name: given[name] for name in added})
        for name in added:
            if isinstance(given[name], dict | list) and contains_non_finite(given[name]):
                raise encoding_error({name: given[name]}, ValueError("NaN or infinity"))  # Pydantic would send null
        given.update(adapter.dump_python(found, mode="json", fallback=params.schema_or_error))
        return given
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = _place(given, first["loc"])
        raise InvalidRequest(f"`{name}` is invalid: {first['msg']}", param=name) from None
    except TypeError as error:
        raise encoding_error(given, error) from None


def _place(body: Any, location: tuple[int | str, ...]) -> str:
    """Return the place of an invalid value; Pydantic's location also names the branch of a union."""
    steps = []
    for step in location:
        try:
            body = body[step]
        except (LookupError, TypeError):
            continue
        steps.append(str(step))
    return ".".join(steps)


def normalize_max_tokens(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Rename ``max_completion_tokens`` to ``max_tokens``, vLLM's first name for the same limit.

    Raises:
        InvalidRequest: Both are given and differ.
    """
    normalized = dict(parameters)
    if "max_completion_tokens" in normalized:
        limit = normalized.pop("max_completion_tokens")
        if limit is not None:
            _set_synonym(normalized, "max_completion_tokens", "max_tokens", limit)
        normalized.setdefault("max_tokens", None)
    return normalized


def response_format(value: Any) -> Any:
    """Return a response format in OpenAI's form, from one or from a Pydantic class, a dataclass or a TypedDict."""
    if params.is_schema_class(value):
        schema = {"name": value.__name__, "schema": params.class_schema(value), "strict": True}
        return {"type": "json_schema", "json_schema": schema}
    return value


def replace_classes(value: Any) -> Any:
    """Replace classes, alone or anywhere in a dict, by their JSON schema; as ``response_format`` by that form of it."""
    if params.is_schema_class(value):
        return params.class_schema(value)
    if isinstance(value, Mapping):
        return {
            key: response_format(item) if key == "response_format" and isinstance(item, type) else replace_classes(item)
            for key, item in value.items()
        }
    return value


def needs_version(endpoint: str, body: Mapping[str, Any]) -> bool:
    """Return whether the translation of ``body`` depends on the server's version."""
    depends = body.keys() & _version_dependent(endpoint)
    if depends and any(body[name] is not None for name in depends):
        return True
    form = body.get("response_format")
    if isinstance(form, Mapping) and form.get("type") == "structural_tag":
        return True
    if body.get(STRICT_COMPLETION) and body.get("stream"):  # how streams end depends on it
        return True
    return bool(_reasoning_messages(body))


@cache
def _version_dependent(endpoint: str) -> frozenset[str]:
    """The parameters of an endpoint that not every known version has, and their former names."""
    oldest, known = availability.oldest(), availability.names(endpoint)
    found = {(name, availability.lookup(endpoint, name)) for name in known}
    partial = {name for name, span in found if span is not None and (span.first > oldest or span.last is not None)}
    return frozenset(partial | ({*CONSTRAINT_NAMES, *_ACTIVATION} - known))


def translate(
    endpoint: str,
    body: Mapping[str, Any],
    *,
    version: Version | None,
    allow_unknown: bool = False,
    merge_system: bool = False,
) -> dict[str, Any]:
    """Return ``body`` as the server's version understands it.

    Args:
        endpoint: A name of the availability table, e.g. ``"chat"``.
        body: The request's JSON body, whose names are known. It is not changed.
        version: The server's version; ``None`` means the newest known.
        allow_unknown: Let fields of nested objects pass that no vLLM version has.
        merge_system: Merge system messages, unless the body says otherwise.

    Raises:
        UnsupportedParameter: The server's version does not have a parameter, and there is no translation.
        WrongAddress: The server's version does not have the endpoint.
        UnknownParameter: No vLLM version has a field of a nested object.
        InvalidRequest: Two names of the same parameter have different values.
    """
    version = version or availability.newest()
    sent = dict(body)
    allow_unknown = bool(sent.pop(ALLOW_UNKNOWN, False)) or allow_unknown
    if MERGE_SYSTEM_MESSAGES in sent:
        given = sent.pop(MERGE_SYSTEM_MESSAGES)
        merge_system = merge_system if given is None else given
    if sent.pop(STRICT_COMPLETION, None) and sent.get("stream"):
        sent["stream_options"] = StrictStreamOptions({**(sent.get("stream_options") or {}), "include_usage": True})
    if merge_system and needs_merging(sent.get("messages")):
        sent["messages"] = merge_system_messages(sent["messages"])
    if not allow_unknown and not _WITHOUT_EFFECT.isdisjoint(sent):
        _drop_without_effect(endpoint, sent)
    if not _LIMITS.isdisjoint(sent):
        _rename_limits(endpoint, sent)
    if not CONSTRAINT_NAMES.isdisjoint(sent):
        _translate_constraints(endpoint, sent, version)
    if not _SYNONYMS[2].isdisjoint(sent):
        _translate_activation(endpoint, sent, version)
    if "tools" in sent:
        _drop_empty_tools(sent)
        _make_tools_strict(sent)
    if found := _reasoning_messages(sent):
        _rename_reasoning(sent, found, version)
    missing = _missing_names(endpoint, version)
    if len(missing) == len(availability.names(endpoint)):
        raise _missing_route(endpoint, version)
    for name in sent.keys() & missing:
        if sent[name] is not None and name != SESSION_ID:  # routers read it from the header
            raise _unsupported(name, availability.lookup(endpoint, name), version)
        del sent[name]
    for outer in _NESTED:
        if outer in sent:
            _check_nested(outer, sent[outer], version, allow_unknown)
    return sent


def _drop_without_effect(endpoint: str, body: dict[str, Any]) -> None:
    for name in _WITHOUT_EFFECT.intersection(body) - availability.names(endpoint):
        log.debug("`%s` is not sent: vLLM does not have it, and it would not change the reply", name)
        del body[name]


@cache
def _missing_names(endpoint: str, version: Version) -> frozenset[str]:
    """The parameters of an endpoint that some other version has."""
    return frozenset(name for name in availability.names(endpoint) if not _has(endpoint, name, version))


@cache
def _has(endpoint: str, name: str, version: Version) -> bool:
    known = availability.lookup(endpoint, name)
    if known is None:
        return False
    # "0.8.5" in the table means 0.8.5 or earlier.
    exists = known.first <= max(version, availability.oldest())
    return exists and (known.last is None or version <= known.last)


def _missing_route(endpoint: str, version: Version) -> WrongAddress:
    path, since = availability.route(endpoint), availability.since(endpoint)
    return WrongAddress(
        f"The server is vLLM {version}, which does not have the route {path}; vLLM has it from {since}",
        hint=f"Update the server to {since} or newer",
    )


def _unsupported(name: str, known: availability.Availability | None, version: Version) -> UnsupportedParameter:
    assert known is not None, name  # noqa: S101  # names of the table only
    since, until = str(known.first), str(known.last) if known.last else None
    span = f"vLLM has it from {since}" + (f" to {until}" if until else "")
    return UnsupportedParameter(
        f"The server is vLLM {version}, which does not have `{name}` and would ignore it silently; {span}",
        hint=_HINTS.get(name) or ("Remove it" if until else f"Update the server to {since} or newer"),
        param=name,
        since=since,
        until=until,
    )


def _set_synonym(body: dict[str, Any], old: str, new: str, value: Any) -> None:
    if body.get(new) is not None and body[new] != value:
        raise InvalidRequest(
            f"`{old}` and `{new}` are the same parameter and were given different values",
            hint="Pass one of them",
            param=old,
        )
    body[new] = value


def _rename_limits(endpoint: str, body: dict[str, Any]) -> None:
    known = availability.names(endpoint)
    for old, new in (("max_completion_tokens", "max_tokens"), ("max_tokens", "max_completion_tokens")):
        if old in body and old not in known and new in known:
            _set_synonym(body, old, new, body.pop(old))


def _translate_constraints(endpoint: str, body: dict[str, Any], version: Version) -> None:
    for name in ("structured_outputs", "guided_json"):
        if name in body:
            body[name] = replace_classes(body[name])
    if _has(endpoint, "structured_outputs", version):
        for old, kind in _GUIDED.items():
            if body.get(old) is not None and not _has(endpoint, old, version):
                outputs = dict(body.get("structured_outputs") or {})
                _set_synonym(outputs, old, kind, body.pop(old))
                body["structured_outputs"] = outputs
        return
    requested = body.get("structured_outputs")
    if not isinstance(requested, Mapping) or not _has(endpoint, "guided_json", version):
        return
    del body["structured_outputs"]
    for kind, value in requested.items():
        guided = next((old for old, new in _GUIDED.items() if new == kind), None)
        if kind == "json_object":
            if value:
                _set_synonym(body, "structured_outputs", "response_format", {"type": "json_object"})
        elif guided is not None and _has(endpoint, guided, version):
            _set_synonym(body, "structured_outputs", guided, value)
        elif value:
            known = availability.lookup("structured_outputs", kind)
            if known is None:
                raise unknown_parameter("structured_outputs", kind)
            raise _unsupported(f"structured_outputs.{kind}", known, version)


def _translate_activation(endpoint: str, body: dict[str, Any], version: Version) -> None:
    for old in _ACTIVATION:
        if body.get(old) is None or _has(endpoint, old, version):
            continue
        new = next((name for name in _ACTIVATION if _has(endpoint, name, version)), None)
        if new is not None:
            _set_synonym(body, old, new, body.pop(old))


def _drop_empty_tools(body: dict[str, Any]) -> None:
    # An empty list means "no tools" to every framework, and is a 400 since 0.20.0.
    if not body["tools"]:
        del body["tools"]
        body.pop("parallel_tool_calls", None)
        if body.get("tool_choice") in (None, "auto", "none"):
            body.pop("tool_choice", None)


def _make_tools_strict(body: dict[str, Any]) -> None:
    """Mark tools as strict where the model is forced to call one, or the reply is bound to a form as well.

    vLLM enforces the arguments of a forced call only for tools that say strict. Where replies are bound to a form
    too, it lets the model call strict tools only: https://github.com/vllm-project/vllm/issues/49661
    """
    tools, choice = body.get("tools"), body.get("tool_choice")
    if choice in (None, "auto"):
        form = body.get("response_format")
        needed = bool(body.get("structured_outputs") or (isinstance(form, Mapping) and form.get("type") != "text"))
    else:
        needed = choice != "none"
    if needed and isinstance(tools, list):
        body["tools"] = [
            {**tool, "function": {"strict": True, **tool["function"]}}
            if isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping)
            else tool
            for tool in tools
        ]


def _reasoning_messages(body: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
    """Return the messages that contain reasoning, each with its position."""
    found = []
    messages = body.get("messages")
    if isinstance(messages, list):
        for index, message in enumerate(messages):
            if isinstance(message, Mapping) and ("reasoning" in message or "reasoning_content" in message):
                found.append((index, message))
    return found


def _rename_reasoning(body: dict[str, Any], found: list[tuple[int, Mapping[str, Any]]], version: Version) -> None:
    new = "reasoning" if version >= _REASONING_RENAMED else "reasoning_content"
    body["messages"] = list(body["messages"])
    for index, message in found:
        rest = {k: v for k, v in message.items() if k not in ("reasoning", "reasoning_content")}
        body["messages"][index] = rest | {new: message.get("reasoning") or message.get("reasoning_content")}


def _check_nested(outer: str, inner: Any, version: Version, allow_unknown: bool) -> None:
    # These objects drop unknown keys as silently as the request itself does.
    if not isinstance(inner, Mapping) or not availability.names(outer):
        return
    for name, value in inner.items():
        known = availability.lookup(outer, name)
        if known is None and not allow_unknown:
            raise unknown_parameter(outer, name)
        if known is not None and value is not None and not _has(outer, name, version):
            raise _unsupported(f"{outer}.{name}", known, version)
