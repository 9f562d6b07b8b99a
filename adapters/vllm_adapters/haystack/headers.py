"""What in ``http_client_kwargs`` may be secret, headers above all: how it is sent, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from haystack.utils import Secret
from haystack.utils.auth import TokenSecret

Headers: TypeAlias = Mapping[str, Any]
"""Names to texts or Secrets."""

_PASSWORDS = ("auth", "cookies", "proxy")


def change_headers(kwargs: Mapping[str, Any] | None, change: Callable[[Headers], Headers]) -> dict[str, Any] | None:
    """``http_client_kwargs`` with its headers changed, and whatever else in it holds a password."""
    if kwargs is None:
        return None
    private = {name: kwargs[name] for name in _PASSWORDS if _is_private(kwargs.get(name))}
    headers = {"headers": change(kwargs["headers"])} if kwargs.get("headers") else {}
    others = {name: value for name, value in kwargs.items() if name not in private}
    return {**others, **headers, **(change(private) if private else {})}


def _is_private(value: object) -> bool:
    return "@" in value if isinstance(value, str) else value is not None  # a proxy's address may hold no password


def resolve(headers: Headers) -> Headers:
    """As they are sent."""
    return {name: value.resolve_value() if isinstance(value, Secret) else value for name, value in headers.items()}


def leave_texts_out(headers: Headers) -> Headers:
    """Those that a pickle may hold: secrets by the name of their variable."""
    named = {name: value for name, value in headers.items() if isinstance(value, Secret)}
    return {name: value for name, value in named.items() if not isinstance(value, TokenSecret)}


def save(headers: Headers) -> Headers:
    """As basic types.

    Raises:
        ValueError: One is not a Secret, or one of a token.
    """
    if not all(isinstance(value, Secret) for value in headers.values()):
        raise ValueError(
            f"Cannot serialize {', '.join(headers)} in http_client_kwargs, which may be secret. "
            "Give headers and proxies as Secret.from_env_var(...)."
        )
    return {name: value.to_dict() for name, value in headers.items()}


def load(headers: Headers) -> Headers:
    """What ``save`` made."""
    return {name: Secret.from_dict(value) if isinstance(value, dict) else value for name, value in headers.items()}
