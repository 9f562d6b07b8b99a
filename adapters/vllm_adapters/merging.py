"""Call beats bind beats constructor; dict-valued parameters merge deeply. The same rule in every framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WHOLE = frozenset({"structured_outputs", "response_format", "repetition_detection", "tool_choice"})
"""Dicts that state one thing: mixing two constraints would state neither."""


class _Instead(dict[str, Any]):
    """A dict that takes the place of what a weaker level has, because a level in between took that back.

    It makes merging associative: frameworks merge what was bound with the call, and that with the constructor.
    """


def merged(*levels: Mapping[str, Any] | None) -> dict[str, Any]:
    """Parameters of several levels as one; later levels win, ``None`` in a later level takes back.

    >>> from vllm_adapters.merging import merged
    >>> merged({"top_k": 5, "chat_template_kwargs": {"a": 1}}, {"top_k": 1, "chat_template_kwargs": {"b": 2}})
    {'top_k': 1, 'chat_template_kwargs': {'a': 1, 'b': 2}}

    Args:
        levels: From the weakest, the constructor, to the strongest, the call.
    """
    result: dict[str, Any] = {}
    for level in levels:
        for name, value in (level or {}).items():
            result[name] = _over(result[name], value) if name in result and name not in _WHOLE else value
    return result


def _over(below: Any, value: Any) -> Any:
    if not isinstance(value, Mapping) or isinstance(value, _Instead):
        return value
    if not isinstance(below, Mapping):
        return _Instead(value)
    both = merged(below, value)
    return _Instead(both) if isinstance(below, _Instead) else both


def settled(*levels: Mapping[str, Any] | None) -> dict[str, Any]:
    """What ``merged`` makes of the levels, without what was taken back: ready to be sent."""
    return {name: value for name, value in merged(*levels).items() if value is not None}
