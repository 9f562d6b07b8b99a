"""What goes into the headers of requests: clean, or refused without being shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from vllm_adapters._compat import http
from vllm_adapters.errors import AuthenticationFailed, InvalidRequest, WrongAddress

PLACEHOLDER_KEY = "EMPTY"
"""Sent when no key is given, as vLLM's own documentation does; servers without --api-key ignore it."""


class RedactedStr(str):
    """A text that is not shown by ``repr``, nor by the ``repr`` of what holds it; the SDK logs such of headers."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


_HINT = "Is it the right file, in full, and nothing else?"


def normalize_api_key(api_key: str | SecretStr | None) -> RedactedStr:
    """The key to send: the one given, else ``VLLM_API_KEY``, else a placeholder. ``OPENAI_API_KEY`` is not read.

    Raises:
        AuthenticationFailed: It has white space in it, or characters that no HTTP header can carry; not shown.
    """
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    key = (key or os.environ.get("VLLM_API_KEY") or PLACEHOLDER_KEY).strip()  # keys read from files end in a newline
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AuthenticationFailed(
            "The API key has white space in it, or characters that no HTTP header can carry", hint=_HINT
        )
    return RedactedStr(key)


def normalize_headers(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The headers to send, without white space around their values, which the transport's error would show.

    Raises:
        InvalidRequest: A value has characters that no HTTP header can carry; not shown.
        TypeError: They are no mapping; not shown.
    """
    if not isinstance(headers, Mapping | None):
        raise TypeError(f"headers map names to texts, and are no {type(headers).__name__}")
    clean = {
        name: RedactedStr(value.strip()) if isinstance(value, str) else value for name, value in (headers or {}).items()
    }
    for name, value in clean.items():
        if isinstance(value, str) and not (value.isascii() and value.isprintable()):
            raise InvalidRequest(
                f"The value of the header {name!r} has characters that no HTTP header can carry", hint=_HINT
            )
    return clean


DEFAULT_BASE_URL = "http://localhost:8000/v1"


def normalize_base_url(base_url: object | None) -> str:
    """The server's base URL, ending in ``/v1``, from any of the forms people write.

    Args:
        base_url: ``http://host:8000``, ``http://host:8000/v1``, with or without a slash; ``None`` reads
            ``VLLM_BASE_URL`` and falls back to ``http://localhost:8000/v1``.

    Raises:
        WrongAddress: It has no scheme or host, or holds a user name or password.
    """
    text = str(base_url or os.environ.get("VLLM_BASE_URL") or DEFAULT_BASE_URL).strip()
    try:
        url = http.URL(text)
    except http.InvalidURL:
        url = http.URL()
    if url.userinfo:
        raise WrongAddress(
            "base_url holds a user name or password, which URLs in logs would show",
            hint="Give the key as api_key, or a header in default_headers",
            address=f"{url.scheme}://{url.host}",
        )
    if url.scheme not in ("http", "https") or not url.host:
        shown = text.rpartition("@")[2]  # before it there may be a password
        raise WrongAddress(f"{shown!r} is not a server's address", hint="It looks like http://host:8000/v1")
    path = url.path.rstrip("/")
    while path.endswith("/v1/v1"):
        path = path.removesuffix("/v1")
    return str(url.copy_with(path=path if path.endswith("/v1") else f"{path}/v1", query=None))
