"""What no request can carry, and where in a body it is: the JSON encoder says neither."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from vllm_adapters._response.error_mapping import RequestContext
from vllm_adapters.errors import InvalidRequest

_WRITTEN = (bool, int, type(None), datetime, BaseModel)  # by the SDK


def encoding_error(body: object, error: Exception, *, call: RequestContext) -> InvalidRequest:
    """The error for a body that cannot be written as JSON.

    Args:
        body: The request's body.
        error: What the encoder said.
        call: What was asked.
    """
    place, (what, hint) = next(_culprits(body, ""), ("The request", (f"cannot be written: {error}", None)))
    return InvalidRequest(
        f"{place} {what}",
        hint=hint,
        address=call.address,
        model=call.model,
        param=place.partition("[")[0].partition(".")[0] if hint else None,
    )


def _culprits(value: object, place: str, around: tuple[object, ...] = ()) -> Iterator[tuple[str, tuple[str, str]]]:
    if any(value is outer for outer in around):
        yield place, ("holds itself", "Give what has an end")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _culprits(item, f"{place}.{key}" if place else str(key), (*around, value))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _culprits(item, f"{place}[{number}]", (*around, value))
    elif fault := _fault(value):
        yield place, fault


def _fault(value: Any) -> tuple[str, str] | None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return (
                f"holds {value[error.start]!r} at {error.start}, half of a character, which no request can carry",
                "A text was cut in the middle of it, or read with errors='surrogateescape': "
                "text.encode(errors='replace').decode() puts a question mark in its place",
            )
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else (f"is {value}, which JSON does not have", "Give a finite number")
    if isinstance(value, _WRITTEN):
        return None
    return (
        f"is of the type {type(value).__name__}, which JSON does not have",
        "Give text, numbers, booleans, None, lists and dicts",
    )
