"""Credentials in the settings and parameters of components: resolved, redacted, or refused where they are saved.

They are str or Haystack's ``Secret``. A ``Secret`` is saved by the name of its variable. A str is sent, and redacted in
every representation, but it is neither saved nor pickled, unless it was loaded from a saved pipeline, in which it is
already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from haystack.utils import Secret
from haystack.utils.auth import TokenSecret

from vllm_adapters._transport.credentials import RedactedStr, normalize_headers

Credentials: TypeAlias = Mapping[str, Any]
"""Values by name."""

_HEADERS = frozenset({"headers", "default_headers", "extra_headers"})
_QUERIES = frozenset({"params", "default_query", "extra_query"})
_VALUES = frozenset({"auth", "cert", "cookies", "proxy", "cache_salt"})
_NESTED = frozenset({"extra_body", "extra_parameters", "generation_kwargs", "http_client_kwargs"})
PLACES = _HEADERS | _QUERIES | _VALUES | _NESTED
"""Settings and parameters that are, or may contain, credentials."""

_LOOKS_SECRET = re.compile(r"key|token|secret|passw|pwd|auth|cookie|sig|code|cred|session|salt", re.IGNORECASE)
"""Names of query parameters that contain credentials; others, such as ``api-version``, do not."""


class LoadedStr(RedactedStr):
    """A credential that a saved pipeline contains as text, and that is saved again as it was."""

    __slots__ = ()


def change(values: Mapping[str, Any], convert: Callable[[Credentials], Credentials]) -> dict[str, Any]:
    """Return settings or parameters with their credentials converted.

    Args:
        values: By name, such as ``default_headers`` or ``extra_body``; the parameters in ``generation_kwargs``, too.
        convert: Returns credentials by name, from credentials by name; those it leaves out are dropped.
    """
    changed = dict(values)
    for name in PLACES & changed.keys():
        value = changed[name]
        if name in _VALUES:
            if _is_secret(name, value):
                del changed[name]
                changed |= convert({name: value})
        elif not isinstance(value, Mapping):
            continue
        elif name in _NESTED:
            changed[name] = change(value, convert)
        elif name in _HEADERS:
            changed[name] = dict(convert(value))
        else:
            secret = {key: item for key, item in value.items() if _is_secret_query(key, item)}
            changed[name] = {key: item for key, item in value.items() if key not in secret} | dict(convert(secret))
    return changed


def secret_texts(values: Mapping[str, Any]) -> list[str]:
    """Return the names of the credentials among parameters that are texts instead of Secrets."""
    found: list[str] = []

    def note(credentials: Credentials) -> Credentials:
        found.extend(
            name for name, value in credentials.items() if isinstance(value, str) and _LOOKS_SECRET.search(name)
        )
        return credentials

    change(values, note)
    return found


def _is_secret_query(name: str, value: object) -> bool:
    if isinstance(value, str):
        return _LOOKS_SECRET.search(name) is not None
    return isinstance(value, Secret) or _is_saved_secret(value)


def _is_saved_secret(value: object) -> bool:
    return isinstance(value, dict) and value.get("type") == "env_var"


def _is_secret(name: str, value: object) -> bool:
    if name == "proxy" and isinstance(value, str):
        return "@" in value  # without, it is the URL of a proxy that wants no password
    if name == "cert":
        return isinstance(value, tuple | list) and len(value) > 2  # the third is a password, the others are files
    return value is not None


def redact(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings or parameters whose credentials are redacted in every representation.

    Raises:
        InvalidRequest: A header contains characters that an HTTP header cannot contain.
        TypeError: Headers are not a mapping.
    """
    headers = {name: _redact_headers(values[name]) for name in _HEADERS & values.keys() if values[name] is not None}
    return change(
        {**values, **headers},
        lambda credentials: {name: _mark(value, RedactedStr) for name, value in credentials.items()},
    )


def _redact_headers(headers: Any) -> dict[str, Any]:
    return {
        name: LoadedStr(value) if isinstance(headers[name], LoadedStr) else value
        for name, value in normalize_headers(headers).items()
    }


def _mark(value: Any, kind: type[RedactedStr]) -> Any:
    if isinstance(value, str):
        return value if isinstance(value, LoadedStr) else kind(value)
    if isinstance(value, Mapping):
        return {name: _mark(item, kind) for name, item in value.items()}
    return type(value)(_mark(item, kind) for item in value) if type(value) in (tuple, list) else value


def resolve(credentials: Credentials) -> Credentials:
    """Return the values to send, redacted in every representation; without Secrets whose variable is not set."""
    values = {
        name: value.resolve_value() if isinstance(value, Secret) else value for name, value in credentials.items()
    }
    return {name: _mark(value, RedactedStr) for name, value in values.items() if value is not None}


def stand_in(credentials: Credentials) -> Credentials:
    """Return credentials with a text for each Secret, to validate parameters before the Secrets are resolved."""
    return {name: "secret" if isinstance(value, Secret) else value for name, value in credentials.items()}


def pickled(credentials: Credentials) -> Credentials:
    """Return what a pickle may contain: Secrets that name an environment variable."""
    return {
        name: value
        for name, value in credentials.items()
        if isinstance(value, Secret) and not isinstance(value, TokenSecret)
    }


def serialize(credentials: Credentials) -> Credentials:
    """Return credentials as basic types: Secrets by the names of their variables.

    Raises:
        ValueError: A value is neither a Secret nor was loaded, or is a Secret with a token.
    """
    return {name: _serialize(name, value) for name, value in credentials.items()}


def _serialize(name: str, value: Any) -> Any:
    if isinstance(value, Secret):
        return value.to_dict()
    if not _is_loaded(value):
        raise ValueError(
            f"Cannot serialize `{name}`, which may contain credentials. Pass its value as Secret.from_env_var(...)."
        )
    return _plain(value)


def _is_loaded(value: Any) -> bool:
    if isinstance(value, Mapping | tuple | list):
        return all(map(_is_loaded, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, LoadedStr | bool | int | None)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def deserialize(credentials: Credentials) -> Credentials:
    """Return the credentials that ``serialize`` made basic types of, and texts of other origin as loaded."""
    return {
        name: Secret.from_dict(value) if _is_saved_secret(value) else _mark(value, LoadedStr)
        for name, value in credentials.items()
    }
