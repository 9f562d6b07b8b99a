"""The server's own request schema beside our table of parameters: is it a vLLM that we know in full?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from packaging.version import Version

from vllm_adapters._request import availability
from vllm_adapters.doctor.model import Check, Finding, Verdict, untried, works
from vllm_adapters.doctor.probe import Visit

_OBJECTS = ("repetition_detection", "stream_options", "structured_outputs")


def request_forms(document: Mapping[str, Any], path: str) -> Iterator[Mapping[str, Any]]:
    """The schema of every form of the request to a path.

    Args:
        document: An OpenAPI document.
        path: Such as ``/v1/chat/completions``.
    """
    content = document.get("paths", {}).get(path, {}).get("post", {}).get("requestBody", {}).get("content", {})
    for body in content.values():
        yield from members(document, body["schema"])


def members(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The forms a schema allows, with what it refers to in its place."""
    if "$ref" in schema:
        yield from members(document, document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]])
        return
    either = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if not either:
        yield schema
        return
    for one in either:
        yield from members(document, one)


def properties(form: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The fields of a form by name, with their schemas; those with an underscore are the server's own."""
    return {name: schema for name, schema in form.get("properties", {}).items() if not name.startswith("_")}


def _request_fields(document: Mapping[str, Any], path: str) -> dict[str, dict[str, Any]]:
    return {name: schema for form in request_forms(document, path) for name, schema in properties(form).items()}


def described(document: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The fields of each endpoint of our table, and of the parameters that are objects, as the server has them."""
    found: dict[str, set[str]] = {}
    for path in document.get("paths", {}):
        endpoint = availability.endpoint_of(path)
        fields = _request_fields(document, path) if endpoint and path in availability.paths(endpoint) else {}
        if endpoint and fields:
            found.setdefault(endpoint, set()).update(fields)
        for name in _OBJECTS:
            if endpoint == "chat" and name in fields:
                inner = {key for form in members(document, fields[name]) for key in properties(form)}
                found.setdefault(name, set()).update(inner)
    return {name: frozenset(names) for name, names in found.items()}


def differences(
    theirs: Mapping[str, frozenset[str]], version: Version
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What the server has and no version in our table, and what our table has for its version and it does not.

    Args:
        theirs: Fields by endpoint, as ``described`` gives them.
        version: The server's version; one newer than the table is compared with its newest.
    """
    version = min(version, availability.newest())
    unknown, gone = {}, {}
    for endpoint, names in sorted(theirs.items()):
        ours = {name for name in availability.names(endpoint) if _known(endpoint, name, version)}
        unknown[endpoint] = sorted(names - availability.names(endpoint))
        gone[endpoint] = sorted(ours - names)
    return {k: v for k, v in unknown.items() if v}, {k: v for k, v in gone.items() if v}


def _known(endpoint: str, name: str, version: Version) -> bool:
    found = availability.availability(endpoint, name)
    return found is not None and found.first <= version and (found.last is None or version <= found.last)


def _schema(visit: Visit) -> Finding:
    if not visit.document or visit.version is None:
        return untried("it tells no version, or does not list its routes")
    theirs = described(visit.document)
    if not theirs:
        return untried("it tells no request schema")
    unknown, gone = differences(theirs, visit.version)
    data = {"unknown": unknown, "gone": gone}
    if not unknown and not gone:
        return works(f"all {sum(map(len, theirs.values()))} parameters of {len(theirs)} requests are known", **data)
    parts = [f"it has {_told(unknown)}, which this package does not know"] if unknown else []
    parts += [f"it has no {_told(gone)}, which vLLM {min(visit.version, availability.newest())} has"] if gone else []
    advice = "pip install -U vllm-adapters; until then allow_unknown=True lets them pass" if unknown else ""
    return Finding(Verdict.LACKS, "; ".join(parts), advice=advice, data=data)


def _told(fields: Mapping[str, list[str]]) -> str:
    return ", ".join(f"{endpoint}.{name}" for endpoint, names in fields.items() for name in names)


CHECKS = (Check("schema", "server", "Are all its parameters known here?", _schema, counts=False),)
