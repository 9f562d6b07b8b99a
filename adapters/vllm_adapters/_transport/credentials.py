"""Base URL, API key and headers: normalized, redacted in every representation, or rejected without being shown."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import isawaitable
from typing import Any, TypeAlias

from pydantic import SecretStr

from vllm_adapters._compat import http
from vllm_adapters.errors import AuthenticationFailed, InvalidRequest, VLLMError, WrongAddress, redact_query

DEFAULT_BASE_URL = "http://localhost:8000/v1"

PLACEHOLDER_KEY = "EMPTY"
"""Sent when no key is given, as in vLLM's own documentation; servers without --api-key ignore it."""

_ENDPOINT = re.compile(r"/v1/(?:chat/completions|completions|embeddings|models|responses|rerank|score)$")
_HINT = "Check that it is the right file, in full, and nothing else"


class RedactedStr(str):
    """A str whose ``repr`` is redacted, so that credentials stay secret in logs and in the ``repr`` of containers."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


class RedactedURL(http.URL):
    """A URL whose text shows the names of its query parameters, not their values: gateways take keys there.

    Requests are sent, logged and kept on errors with it; logs of httpx and of the SDK show the URL of each request.
    """

    def __str__(self) -> str:
        return str(redact_query(self))

    def __repr__(self) -> str:
        return f"URL({str(self)!r})"


def redact_values(value: Any) -> Any:
    """Return JSON-like data with every str redacted in representations."""
    if isinstance(value, str):
        return RedactedStr(value)
    if isinstance(value, Mapping):
        return {name: redact_values(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redact_values(item) for item in value) if type(value) in (list, tuple) else value
    return value


APIKey: TypeAlias = str | SecretStr | Callable[[], str] | Callable[[], Awaitable[str]]
"""A key, or a function that returns the current one, such as a token of short life."""


def normalize_api_key(api_key: str | SecretStr | None) -> RedactedStr:
    """Return the API key to send: the one given, else ``VLLM_API_KEY``, else a placeholder.

    ``OPENAI_API_KEY`` is not read.

    Raises:
        AuthenticationFailed: It contains whitespace, or characters that an HTTP header cannot contain.
        TypeError: It is not a key.
    """
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    if not isinstance(key, str | None):
        raise TypeError(f"`api_key` must be a str, a SecretStr or a function, not {type(key).__name__}.")
    key = (key or os.environ.get("VLLM_API_KEY") or PLACEHOLDER_KEY).strip()  # keys read from files end in a newline
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AuthenticationFailed(
            "The API key contains whitespace, or characters that an HTTP header cannot contain", hint=_HINT
        )
    return RedactedStr(key)


def normalize_headers(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the headers to send, without whitespace around their values, which the transport's error would show.

    Raises:
        InvalidRequest: A value contains characters that an HTTP header cannot contain.
        TypeError: They are not a mapping.
    """
    if not isinstance(headers, Mapping | None):
        raise TypeError(f"headers must be a mapping of str to str, not {type(headers).__name__}")
    normalized = {
        name: RedactedStr(value.strip()) if isinstance(value, str) else value for name, value in (headers or {}).items()
    }
    for name, value in normalized.items():
        if isinstance(value, str) and not (value.isascii() and value.isprintable()):
            raise InvalidRequest(
                f"The value of header {name!r} contains characters that an HTTP header cannot contain", hint=_HINT
            )
    return normalized


def request_key(key: object) -> RedactedStr:
    """Return the key that a user's function returned.

    Raises:
        TypeError: It is not a key.
        AuthenticationFailed: An HTTP header cannot contain it.
    """
    if isawaitable(key):
        if (close := getattr(key, "close", None)) is not None:
            close()  # it would warn that it was never awaited
        raise TypeError("`api_key` is an async function, which a sync client cannot call. Pass a function.")
    if not isinstance(key, str | SecretStr):
        raise TypeError(f"`api_key` must return a str, not {type(key).__name__}.")
    return normalize_api_key(key)


@contextmanager
def key_errors() -> Iterator[None]:
    """Map what a user's function fails with, which may not be taken for an error of the server.

    Raises:
        AuthenticationFailed: The function failed.
    """
    try:
        yield
    except VLLMError:
        raise
    except Exception as error:
        raise AuthenticationFailed(
            f"The function `api_key` failed: {type(error).__name__}", hint="Its error is the cause of this one"
        ) from error


def normalize_query(base_url: object | None, query: Mapping[str, object] | None) -> dict[str, object]:
    """Return the query parameters of every request: those of the base URL, and others, which take precedence.

    Raises:
        TypeError: They are not a mapping.
    """
    if not isinstance(query, Mapping | None):
        raise TypeError(f"default_query must be a mapping, not {type(query).__name__}")
    try:
        own: Mapping[str, object] = http.URL(str(base_url or os.environ.get("VLLM_BASE_URL") or "")).params
    except http.InvalidURL:
        own = {}
    found = {**own, **(query or {})}
    return {name: redact_values(value) for name, value in found.items()}


def normalize_base_url(base_url: object | None) -> str:
    """Return the server's base URL, ending in ``/v1`` and without a query, from any form of it.

    Args:
        base_url: ``http://host:8000``, ``http://host:8000/v1``, with or without a slash; ``None`` reads
            ``VLLM_BASE_URL`` and falls back to ``http://localhost:8000/v1``.

    Raises:
        WrongAddress: It has no scheme or host, contains a user name or password, or is the URL of an endpoint.
    """
    text = str(base_url or os.environ.get("VLLM_BASE_URL") or DEFAULT_BASE_URL).strip()
    try:
        url = http.URL(text)
    except http.InvalidURL:
        url = http.URL()
    if url.userinfo:
        raise WrongAddress(
            "base_url contains a user name or password, which URLs in logs would show",
            hint="Pass the key as api_key, or a header in default_headers",
            address=f"{url.scheme}://{url.host}",
        )
    if url.scheme not in ("http", "https") or not url.host:
        shown = text.rpartition("@")[2]  # before it there may be a password
        raise WrongAddress(f"{shown!r} is not a valid server address", hint="Pass a URL like http://host:8000/v1")
    path = url.path.rstrip("/")
    if endpoint := _ENDPOINT.search(path):
        raise WrongAddress(
            f"base_url is the URL of an endpoint: {url.copy_with(query=None, fragment=None)}",
            hint=f"Remove {endpoint[0].removeprefix('/v1')}",
        )
    while path.endswith("/v1/v1"):
        path = path.removesuffix("/v1")
    return str(url.copy_with(path=path if path.endswith("/v1") else f"{path}/v1", query=None, fragment=None))
