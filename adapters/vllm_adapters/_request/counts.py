"""Checks of arguments that are counts."""

from __future__ import annotations


def check_count(name: str, value: object, *, least: int = 1) -> int:
    """Return a count.

    Args:
        name: The argument's name, for errors.
        value: The argument.
        least: The least that it may be.

    Raises:
        TypeError: It is not an int.
        ValueError: It is less than ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an int, not {type(value).__name__}.")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, not {value}.")
    return value
