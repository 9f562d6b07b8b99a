"""Errors for values that cannot be encoded as JSON, with their place in the body.

The JSON encoder itself names neither the value nor its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from vllm_adapters.errors import InvalidRequest

_ENCODED = (bool, int, type(None), datetime, BaseModel)  # by the SDK


def encoding_error(body: object, error: Exception) -> InvalidRequest:
    """Return the error for a body that cannot be encoded as JSON.

    Args:
        body: The request's body.
        error: What the encoder raised.
    """
    place, (problem, hint) = next(_unencodable(body, ""), ("The request", (f"cannot be encoded: {error}", None)))
    param = place.partition("[")[0].partition(".")[0] if hint else None
    return InvalidRequest(f"`{place}` {problem}" if hint else f"{place} {problem}", hint=hint, param=param)


def contains_non_finite(value: object) -> bool:
    """Return whether a JSON value contains NaN or infinity."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(map(contains_non_finite, value.values()))
    return isinstance(value, list | tuple) and any(map(contains_non_finite, value))


def _unencodable(value: object, place: str, parents: tuple[object, ...] = ()) -> Iterator[tuple[str, tuple[str, str]]]:
    if any(value is parent for parent in parents):
        yield place, ("contains a circular reference", "Remove the reference to itself")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _unencodable(item, f"{place}.{key}" if place else str(key), (*parents, value))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _unencodable(item, f"{place}[{number}]", (*parents, value))
    elif problem := _problem(value):
        yield place, problem


def _problem(value: Any) -> tuple[str, str] | None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return (
                f"contains a lone surrogate ({value[error.start]!r} at index {error.start}), "
                "which cannot be encoded as UTF-8",
                "Decode the text without errors='surrogateescape' and do not split it inside a character, "
                "or replace it: text.encode(errors='replace').decode()",
            )
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else (f"is {value}, which JSON cannot encode", "Pass a finite number")
    if isinstance(value, _ENCODED):
        return None
    return (
        f"is of type {type(value).__name__}, which JSON cannot encode",
        "Pass str, numbers, bool, None, lists and dicts",
    )
