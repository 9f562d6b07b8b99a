"""Credentials among the parameters of a call: hidden wherever LangChain shows, traces, stores or caches parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

_MAPPINGS = frozenset({"extra_headers", "extra_query"})
SECRETS = _MAPPINGS | {"cache_salt", "extra_body", "default_headers", "default_query"}
"""Parameters that are, or may contain, a secret, such as a ``cache_salt`` in ``extra_body``. Others need no call."""

_SHOWN = "**********"


def hide(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with each secret as a ``SecretStr``, whose text and JSON do not show it.

    Args:
        parameters: Of a binding or a call.
    """
    return _changed(parameters, lambda value: SecretStr(value) if isinstance(value, str) else value)


def reveal(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters that are to be sent, from those that ``hide`` returned."""
    return _changed(parameters, lambda value: value.get_secret_value() if isinstance(value, SecretStr) else value)


def redact(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters for traces and callbacks, without the values of secrets."""
    return _changed(parameters, lambda value: value if value is None else _SHOWN)


def without_secrets(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters for a pickle, which contains no secret."""
    kept = {name: value for name, value in parameters.items() if name not in _MAPPINGS | {"cache_salt"}}
    if isinstance(extra := kept.get("extra_body"), Mapping):
        kept["extra_body"] = without_secrets(extra)
    return kept


def digest(*secrets: Any) -> str:
    """Return what tells credentials apart in the key of a cache, and does not tell what they are.

    Args:
        secrets: Keys, and headers or query values by name.
    """
    plain = [
        sorted((str(k), _plain(v)) for k, v in x.items()) if isinstance(x, Mapping) else _plain(x) for x in secrets
    ]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:32]


def _plain(value: Any) -> str:
    return str(value.get_secret_value() if isinstance(value, SecretStr) else value)


def _changed(parameters: Mapping[str, Any], change: Any) -> dict[str, Any]:
    if SECRETS.isdisjoint(parameters):
        return parameters if isinstance(parameters, dict) else dict(parameters)
    changed = dict(parameters)
    for name in SECRETS & changed.keys():
        value = changed[name]
        if name == "extra_body":
            changed[name] = _changed(value, change) if isinstance(value, Mapping) else value
        elif isinstance(value, Mapping):
            changed[name] = {key: change(item) for key, item in value.items()}
        else:
            changed[name] = change(value)
    return changed
