"""What goes into the headers of requests: clean, or refused without being shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from vllm_adapters.errors import AuthenticationFailed, InvalidRequest

NO_KEY = "EMPTY"
"""Sent when no key is given, as vLLM's own documentation does; servers without --api-key ignore it."""


class Hidden(str):
    """A text that is not shown by ``repr``, nor by the ``repr`` of what holds it; the SDK logs such of headers."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


_HINT = "Is it the right file, in full, and nothing else?"


def clean_key(api_key: str | SecretStr | None) -> Hidden:
    """The key to send: the one given, else ``VLLM_API_KEY``, else a placeholder. ``OPENAI_API_KEY`` is not read.

    Raises:
        AuthenticationFailed: It has white space in it, or characters that no HTTP header can carry; not shown.
    """
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    key = (key or os.environ.get("VLLM_API_KEY") or NO_KEY).strip()  # keys read from files end in a newline
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AuthenticationFailed(
            "The API key has white space in it, or characters that no HTTP header can carry", hint=_HINT
        )
    return Hidden(key)


def clean_headers(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The headers to send, without white space around their values, which the transport's error would show.

    Raises:
        InvalidRequest: A value has characters that no HTTP header can carry; not shown.
        TypeError: They are no mapping; not shown.
    """
    if not isinstance(headers, Mapping | None):
        raise TypeError(f"headers map names to texts, and are no {type(headers).__name__}")
    clean = {
        name: Hidden(value.strip()) if isinstance(value, str) else value for name, value in (headers or {}).items()
    }
    for name, value in clean.items():
        if isinstance(value, str) and not (value.isascii() and value.isprintable()):
            raise InvalidRequest(
                f"The value of the header {name!r} has characters that no HTTP header can carry", hint=_HINT
            )
    return clean
