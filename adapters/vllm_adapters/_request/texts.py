"""Lists of texts, messages or token ids in arguments: checked, so that a ``str`` is not taken for its characters."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel

_NO_LISTS = (str, bytes, bytearray, Mapping, set, frozenset)  # the results for a set could not be told apart


def texts_of(values: object, name: str) -> list[str]:
    """Return texts as a list; one text is a list of one.

    Args:
        values: One text or several.
        name: The argument, for errors.

    Raises:
        TypeError: They are not texts.
    """
    return [values] if isinstance(values, str) else list_of(values, name, "str", text)


def list_of(values: object, name: str, kind: str, check: Callable[[Any], Any]) -> list[Any]:
    """Return the items of an argument that must be a list.

    Args:
        values: The argument.
        name: Its name, for errors.
        kind: What its items must be, for errors.
        check: Returns an item, converted if necessary, or raises ``TypeError``.

    Raises:
        TypeError: It is a text, a mapping or no list, or an item is of another kind.
    """
    if isinstance(values, _NO_LISTS) or not isinstance(values, Iterable):
        raise TypeError(f"`{name}` must be a sequence of {kind}, not {type(values).__name__}.")
    found = []
    for position, value in enumerate(values):
        try:
            found.append(check(value))
        except TypeError:
            problem = f"`{name}[{position}]` must be a {kind}, not {type(value).__name__}."
            raise TypeError(problem) from None
    return found


def text(value: Any) -> Any:
    """Return a text; other items of ``list_of`` raise ``TypeError``."""
    if not isinstance(value, str):
        raise TypeError
    return value


def token_id(value: Any) -> int:
    """Return a token id; other items of ``list_of`` raise ``TypeError``."""
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def text_or_ids(value: Any) -> Any:
    """Return a text or a list of token ids; other items of ``list_of`` raise ``TypeError``."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | Mapping):
        raise TypeError
    return [token_id(token) for token in value]


def json_object(value: Any) -> Any:
    """Return a dict or one of the SDK's objects; other items of ``list_of`` raise ``TypeError``."""
    if not isinstance(value, Mapping | BaseModel):
        raise TypeError
    return value
