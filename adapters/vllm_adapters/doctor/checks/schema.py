"""Does the server's request schema match this package's table of parameters?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from packaging.version import Version

from vllm_adapters._request import availability
from vllm_adapters.doctor.model import Check, Finding, Verdict, skipped, works
from vllm_adapters.doctor.probe import Probe

__all__ = ["CHECKS", "alternatives", "compare_fields", "properties", "request_schemas", "server_fields"]

_OBJECTS = ("repetition_detection", "stream_options", "structured_outputs")


def request_schemas(document: Mapping[str, Any], path: str) -> Iterator[Mapping[str, Any]]:
    """Yield the schema of each alternative of a route's request body.

    Args:
        document: OpenAPI document.
        path: Route, such as ``"/v1/chat/completions"``.
    """
    content = document.get("paths", {}).get(path, {}).get("post", {}).get("requestBody", {}).get("content", {})
    for body in content.values():
        yield from alternatives(document, body["schema"])


def alternatives(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the alternatives of a schema, with references resolved."""
    if "$ref" in schema:
        yield from alternatives(document, document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]])
        return
    parts = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if not parts:
        yield schema
        return
    for part in parts:
        yield from alternatives(document, part)


def properties(schema: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the schema of each public field.

    Names that start with an underscore are internal to the server; those of a form's lists end in ``[]``.
    """
    fields = schema.get("properties", {})
    return {name.removesuffix("[]"): field for name, field in fields.items() if not name.startswith("_")}


def _request_fields(document: Mapping[str, Any], path: str) -> dict[str, dict[str, Any]]:
    return {name: field for schema in request_schemas(document, path) for name, field in properties(schema).items()}


def server_fields(document: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Return the server's field names per endpoint of our table, and per parameter that is an object."""
    result: dict[str, set[str]] = {}
    for path in document.get("paths", {}):
        endpoint = availability.endpoint_of(path)
        fields = _request_fields(document, path) if endpoint and path in availability.paths(endpoint) else {}
        if endpoint and fields:
            result.setdefault(endpoint, set()).update(fields)
        for name in _OBJECTS:
            if endpoint == "chat" and name in fields:
                inner = {key for schema in alternatives(document, fields[name]) for key in properties(schema)}
                result.setdefault(name, set()).update(inner)
    return {name: frozenset(names) for name, names in result.items()}


def compare_fields(
    theirs: Mapping[str, frozenset[str]], version: Version
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Compare the server's fields with our table.

    Args:
        theirs: Field names per endpoint, as ``server_fields`` returns them.
        version: Version of the server. A version newer than the table is compared with the table's newest.

    Returns:
        Fields that are in no version of our table, and fields of this version that the server does not have.
    """
    version = min(version, availability.newest())
    unknown, gone = {}, {}
    for endpoint, names in sorted(theirs.items()):
        ours = {name for name in availability.names(endpoint) if _is_available(endpoint, name, version)}
        unknown[endpoint] = sorted(names - availability.names(endpoint))
        gone[endpoint] = sorted(ours - names)
    return {k: v for k, v in unknown.items() if v}, {k: v for k, v in gone.items() if v}


def _is_available(endpoint: str, name: str, version: Version) -> bool:
    versions = availability.lookup(endpoint, name)
    return versions is not None and versions.first <= version and (versions.last is None or version <= versions.last)


def _schema(probe: Probe) -> Finding:
    if not probe.openapi or probe.version is None:
        return skipped("the server does not report its version or its routes")
    theirs = server_fields(probe.openapi)
    if not theirs:
        return skipped("the server publishes no request schema")
    unknown, gone = compare_fields(theirs, probe.version)
    data = {"unknown": unknown, "gone": gone}
    if not unknown and not gone:
        return works(f"all {sum(map(len, theirs.values()))} parameters of {len(theirs)} requests are known", **data)
    known_version = min(probe.version, availability.newest())
    parts = [f"the server has {_join(unknown)}, which this package does not know"] if unknown else []
    parts += [f"the server does not have {_join(gone)}, which vLLM {known_version} has"] if gone else []
    advice = "Run pip install -U vllm-adapters. Until then, allow_unknown=True sends them" if unknown else ""
    return Finding(Verdict.LACKS, "; ".join(parts), advice=advice, data=data)


def _join(fields: Mapping[str, list[str]]) -> str:
    return ", ".join(f"{endpoint}.{name}" for endpoint, names in fields.items() for name in names)


CHECKS = (Check("schema", "server", "Does this package know all parameters of the server?", _schema, counts=False),)
