"""One request, any vLLM: translate it for the connected server's version, or refuse it.

Every vLLM version accepts unknown body fields and ignores them with a 200, so nothing but the client can
tell that a parameter was misspelt, was removed (``guided_choice`` in 0.12.0) or has not been born yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ValidationError

from vllm_adapters import params
from vllm_adapters._request import availability
from vllm_adapters._response.error_mapping import RequestContext
from vllm_adapters.errors import InvalidRequest, UnknownParameter, UnsupportedParameter

ALLOW_UNKNOWN = "allow_unknown"
"""Key of a request body that lets unknown fields pass (for servers with plugins); it is never sent itself."""

_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_whitespace_pattern": "whitespace_pattern",
    "structural_tag": "structural_tag",
}
_POOLED = ("use_activation", "normalize", "activation", "softmax")
_SAME_THING = ({"max_tokens", "max_completion_tokens"}, {"structured_outputs", *_GUIDED}, set(_POOLED))
_HINTS = {
    "guided_decoding_backend": "The server chooses it now: --structured-outputs-config '{\"backend\": ...}'",
    "best_of": "Use n",
    "logits_processors": "Load it into the server: vllm serve --logits-processors",
    "functions": "Use tools",
    "function_call": "Use tool_choice",
}
_OPENAI_ONLY = frozenset(
    [
        "audio",
        "metadata",
        "modalities",
        "moderation",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
        "web_search_options",
    ]
)
_REASONING_RENAMED = Version("0.11.1")


def parse_version(text: str) -> Version | None:
    """A server's version, or ``None`` for one that says nothing (a gateway's, or a build without a tag).

    Args:
        text: Such as ``"0.11.0"``, ``"0.11.1rc2.dev3+gabc"`` or ``"vllm-0.32.0-44994631"``.
    """
    try:
        version = Version(text.removeprefix("vllm-").split("-")[0].strip())
    except InvalidVersion:
        return None
    released = Version(version.base_version)
    return released if released >= Version("0.2") else None


def needs_version(endpoint: str, body: Mapping[str, Any]) -> bool:
    """Whether the server's version decides how ``body`` has to be said."""
    oldest = availability.oldest()
    for name, value in body.items():
        known = availability.availability(endpoint, name)
        if value is not None and known is not None and (known.first > oldest or known.last is not None):
            return True
        if known is None and name in (*_GUIDED, *_POOLED, "structured_outputs"):
            return True
    return any(True for _ in _thoughts(body))


def translate(
    endpoint: str,
    body: Mapping[str, Any],
    *,
    version: Version | None,
    call: RequestContext,
    allow_unknown: bool = False,
) -> dict[str, Any]:
    """``body`` as the server's version understands it.

    Args:
        endpoint: A name of the parameter table, e.g. ``"chat"``.
        body: The request's JSON body; it is not changed.
        version: The server's version; ``None`` is taken for the newest known.
        call: What is asked, for the texts of errors.
        allow_unknown: Let fields pass that no vLLM version has.

    Raises:
        UnknownParameter: No vLLM version has a field of that name here.
        UnsupportedParameter: The server's version does not have it, and it cannot be said otherwise.
        InvalidRequest: Two names of the same thing with different values.
    """
    version = version or availability.newest()
    said = dict(body)
    allow_unknown = bool(said.pop(ALLOW_UNKNOWN, False)) or allow_unknown
    if not allow_unknown:
        reject_unknown(endpoint, said, call)
    _rename_limits(endpoint, said, call)
    _translate_constraints(endpoint, said, version, call)
    _translate_activation(endpoint, said, version, call)
    _drop_empty_tools(said)
    _make_tools_strict(said)
    _name_thoughts(said, version)
    for name in list(said):
        known = availability.availability(endpoint, name)
        if known is None or _has(version, known):
            continue
        if said[name] is not None:
            raise _unsupported(name, known, version, call)
        del said[name]
    _check_nested(said, version, call, allow_unknown)
    return said


def reject_unknown(endpoint: str, body: Mapping[str, Any], call: RequestContext) -> None:
    """Raise for a field that no vLLM version has on this endpoint, under this or another name.

    Raises:
        UnknownParameter: There is one.
    """
    if body.get(ALLOW_UNKNOWN):
        return
    known = availability.names(endpoint)
    for name in body:
        others = next((group for group in _SAME_THING if name in group), ())
        if name not in known and name != ALLOW_UNKNOWN and not known.intersection(others):
            raise unknown_parameter(endpoint, name, call)


def unknown_parameter(endpoint: str, name: str, call: RequestContext | None = None) -> UnknownParameter:
    """The refusal of a misspelt or foreign parameter, with what may have been meant."""
    suggestions = tuple(availability.suggest(endpoint, name))
    hint = _HINTS.get(name) or (
        "It is OpenAI's own: leave it out"
        if name in _OPENAI_ONLY
        else f"Did you mean {' or '.join(f'`{s}`' for s in suggestions)}?"
        if suggestions
        else "If a plugin of the server adds it, pass extra_body with allow_unknown=True"
    )
    return UnknownParameter(
        f"`{name}` is not a parameter of vLLM's {endpoint} requests, which would ignore it silently",
        hint=hint,
        address=call.address if call else None,
        model=call.model if call else None,
        param=name,
        suggestions=suggestions,
    )


def validate_params(model: type[BaseModel], values: Mapping[str, Any], *, endpoint: str) -> dict[str, Any]:
    """Parameters of one call, checked before anything is sent: names, types and bounds.

    Args:
        model: The parameters vLLM adds to these requests, e.g. ``params.RerankParams``.
        values: Parameters by vLLM's own names; ``None`` means not given.
        endpoint: A name of the parameter table.

    Raises:
        UnknownParameter: No vLLM version has a parameter of that name here.
        InvalidRequest: A value is of the wrong type or out of bounds.
    """
    given = {name: value for name, value in values.items() if value is not None}
    for name in given:
        if availability.availability(endpoint, name) is None:
            raise unknown_parameter(endpoint, name)
    added = {name: value for name, value in given.items() if name in model.model_fields}
    if not added:
        return given
    try:
        return given | params.validated(model, added)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"`{name}`: {first['msg']}", param=name) from None


def normalize_max_tokens(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that name the limit of the reply ``max_tokens``, whichever of its two names was used.

    Raises:
        InvalidRequest: Both were given, and differ.
    """
    said = dict(given)
    if "max_completion_tokens" in said:
        limit = said.pop("max_completion_tokens")
        if limit is not None:
            _same(said, "max_completion_tokens", "max_tokens", limit)
        said.setdefault("max_tokens", None)
    return said


def _has(version: Version, known: availability.Availability) -> bool:
    # "0.8.5" in the table means 0.8.5 or earlier.
    born = known.first <= max(version, availability.oldest())
    return born and (known.last is None or version <= known.last)


def _knows(endpoint: str, name: str, version: Version) -> bool:
    known = availability.availability(endpoint, name)
    return known is not None and _has(version, known)


def _unsupported(
    name: str, known: availability.Availability, version: Version, call: RequestContext
) -> UnsupportedParameter:
    since, until = str(known.first), str(known.last) if known.last else None
    span = f"vLLM has it from {since}" + (f" to {until}" if until else "")
    return UnsupportedParameter(
        f"The server is vLLM {version}, which does not have `{name}` and would ignore it silently; {span}",
        hint=_HINTS.get(name) or ("Leave it out" if until else f"Update the server to {since} or newer"),
        address=call.address,
        model=call.model,
        param=name,
        since=since,
        until=until,
    )


def _same(said: dict[str, Any], old: str, new: str, value: Any, call: RequestContext | None = None) -> None:
    if said.get(new) is not None and said[new] != value:
        raise InvalidRequest(
            f"`{old}` and `{new}` are the same parameter and were given different values",
            hint="Give one of them",
            address=call.address if call else None,
            model=call.model if call else None,
            param=old,
        )
    said[new] = value


def _rename_limits(endpoint: str, said: dict[str, Any], call: RequestContext) -> None:
    for old, new in (("max_completion_tokens", "max_tokens"), ("max_tokens", "max_completion_tokens")):
        here = availability.availability(endpoint, old), availability.availability(endpoint, new)
        if old in said and here[0] is None and here[1] is not None:
            _same(said, old, new, said.pop(old), call)


def _translate_constraints(endpoint: str, said: dict[str, Any], version: Version, call: RequestContext) -> None:
    for name in ("structured_outputs", "guided_json"):
        if name in said:
            said[name] = replace_classes(said[name])
    if _knows(endpoint, "structured_outputs", version):
        for old, kind in _GUIDED.items():
            if said.get(old) is not None and not _knows(endpoint, old, version):
                constraints = dict(said.get("structured_outputs") or {})
                _same(constraints, old, kind, said.pop(old), call)
                said["structured_outputs"] = constraints
        return
    asked = said.get("structured_outputs")
    if not isinstance(asked, Mapping) or not _knows(endpoint, "guided_json", version):
        return
    del said["structured_outputs"]
    for kind, value in asked.items():
        guided = next((old for old, new in _GUIDED.items() if new == kind), None)
        if kind == "json_object":
            if value:
                _same(said, "structured_outputs", "response_format", {"type": "json_object"}, call)
        elif guided is not None and _knows(endpoint, guided, version):
            _same(said, "structured_outputs", guided, value, call)
        elif value:
            known = availability.availability("structured_outputs", kind)
            if known is None:
                raise unknown_parameter("structured_outputs", kind, call)
            raise _unsupported(f"structured_outputs.{kind}", known, version, call)


def replace_classes(value: Any) -> Any:
    """``value`` with Pydantic classes, alone or somewhere in a dict, replaced by their JSON schema."""
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    if isinstance(value, Mapping):
        return {key: replace_classes(item) for key, item in value.items()}
    return value


def response_format(asked: Any) -> Any:
    """A response format in OpenAI's form, from one or from a Pydantic class."""
    if isinstance(asked, type) and issubclass(asked, BaseModel):
        schema = {"name": asked.__name__, "schema": asked.model_json_schema(), "strict": True}
        return {"type": "json_schema", "json_schema": schema}
    return asked


def _translate_activation(endpoint: str, said: dict[str, Any], version: Version, call: RequestContext) -> None:
    for old in _POOLED:
        if said.get(old) is None or _knows(endpoint, old, version):
            continue
        known_to_some = any(availability.availability(endpoint, name) for name in _POOLED)
        new = next((name for name in _POOLED if _knows(endpoint, name, version)), None)
        if new is not None and known_to_some:
            _same(said, old, new, said.pop(old), call)


def _drop_empty_tools(said: dict[str, Any]) -> None:
    # An empty list means "no tools" to every framework, and is a 400 since 0.20.0.
    if "tools" in said and not said["tools"]:
        del said["tools"]
        said.pop("parallel_tool_calls", None)
        if said.get("tool_choice") in (None, "auto", "none"):
            said.pop("tool_choice", None)


def _make_tools_strict(said: dict[str, Any]) -> None:
    # vLLM enforces the arguments of a forced call only for tools that say strict, and where replies are bound to
    # a form as well, it lets the model call strict tools only: others are offered, and never called.
    if said.get("tool_choice") in (None, "auto"):
        form = said.get("response_format")
        needed = bool(said.get("structured_outputs") or (isinstance(form, Mapping) and form.get("type") != "text"))
    else:
        needed = said["tool_choice"] != "none"
    if not needed or not isinstance(said.get("tools"), list):
        return
    said["tools"] = [
        {**tool, "function": {"strict": True, **tool["function"]}}
        if isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping)
        else tool
        for tool in said["tools"]
    ]


def _thoughts(body: Mapping[str, Any]) -> Iterable[tuple[int, Mapping[str, Any]]]:
    messages = body.get("messages")
    if isinstance(messages, list):
        for place, message in enumerate(messages):
            if isinstance(message, Mapping) and ("reasoning" in message or "reasoning_content" in message):
                yield place, message


def _name_thoughts(said: dict[str, Any], version: Version) -> None:
    new = "reasoning" if version >= _REASONING_RENAMED else "reasoning_content"
    thoughts = list(_thoughts(said))
    if thoughts:
        said["messages"] = list(said["messages"])
    for place, message in thoughts:
        renamed = {k: v for k, v in message.items() if k not in ("reasoning", "reasoning_content")}
        said["messages"][place] = renamed | {new: message.get("reasoning") or message.get("reasoning_content")}


def _check_nested(said: Mapping[str, Any], version: Version, call: RequestContext, allow_unknown: bool) -> None:
    # These objects drop unknown keys as silently as the request itself does.
    for outer in ("structured_outputs", "stream_options"):
        inner = said.get(outer)
        if not isinstance(inner, Mapping) or not availability.names(outer):
            continue
        for name, value in inner.items():
            known = availability.availability(outer, name)
            if known is None and not allow_unknown:
                raise unknown_parameter(outer, name, call)
            if known is not None and value is not None and not _has(version, known):
                raise _unsupported(f"{outer}.{name}", known, version, call)
