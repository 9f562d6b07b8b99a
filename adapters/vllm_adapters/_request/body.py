"""Call beats bind beats constructor; dict-valued parameters merge deeply. The same rule in every framework."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from vllm_adapters import params
from vllm_adapters._request import compat
from vllm_adapters.errors import InvalidRequest

_WHOLE = frozenset({"structured_outputs", "response_format", "repetition_detection", "tool_choice"})
"""Dicts that state one thing: mixing two constraints would state neither."""


class _Instead(dict[str, Any]):
    """A dict that takes the place of what a weaker level has, because a level in between took that back.

    It makes merging associative: frameworks merge what was bound with the call, and that with the constructor.
    """


def deep_merge(*levels: Mapping[str, Any] | None) -> dict[str, Any]:
    """Parameters of several levels as one; later levels win, ``None`` in a later level takes back.

    >>> from vllm_adapters._request.body import deep_merge
    >>> deep_merge({"top_k": 5, "chat_template_kwargs": {"a": 1}}, {"top_k": 1, "chat_template_kwargs": {"b": 2}})
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
    both = deep_merge(below, value)
    return _Instead(both) if isinstance(below, _Instead) else both


def merge_and_drop_none(*levels: Mapping[str, Any] | None) -> dict[str, Any]:
    """What ``merged`` makes of the levels, without what was taken back: ready to be sent."""
    return {name: value for name, value in deep_merge(*levels).items() if value is not None}


def sdk_and_body(
    *levels: Mapping[str, Any], model: type[BaseModel] = params.ChatParams, endpoint: str = "chat"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flat parameters in two: the arguments of the SDK's method, and what goes into ``extra_body``.

    Args:
        levels: Parameters by vLLM's own names, from the weakest level to the strongest; flat or in an ``extra_body``,
            which wins over its own level. None takes back what a weaker level said, and stays.
        model: The parameters that vLLM adds to these requests.
        endpoint: ``"chat"`` or ``"completions"``.

    Raises:
        UnknownParameter: No vLLM version has a parameter of that name here.
        InvalidRequest: A value is of the wrong type or out of bounds, or one limit has two values.
    """
    known = _sdk_arguments(endpoint)
    sdk: dict[str, Any] = {}
    body: dict[str, Any] = {}
    for given in map(compat.normalize_max_tokens, levels):
        said = {name: value for name, value in given.items() if name in known and name != "extra_body"}
        added = {name: value for name, value in given.items() if name not in known}
        allowed = {compat.ALLOW_UNKNOWN: added.pop(compat.ALLOW_UNKNOWN)} if compat.ALLOW_UNKNOWN in added else {}
        taken_back = {name: None for name, value in added.items() if value is None}
        weaker = {name: value for name, value in body.items() if name not in said}  # the SDK lets the body win
        checked = compat.validate_params(model, added, endpoint=endpoint)
        extra = compat.normalize_max_tokens(given.get("extra_body") or {})
        sdk, body = deep_merge(sdk, said), deep_merge(weaker, taken_back, checked, extra, allowed)
    return sdk, body


def reject_streamed_n(request: Mapping[str, Any]) -> None:
    """Raise for a stream of several choices, which a framework would mix into one.

    Args:
        request: The arguments of the SDK's method.

    Raises:
        InvalidRequest: ``n`` is more than 1.
    """
    if ({**request, **(request.get("extra_body") or {})}.get("n") or 1) > 1:
        raise InvalidRequest(
            "A stream is one reply: n must be 1 when streaming", hint="Ask for several without streaming", param="n"
        )


@functools.cache
def _sdk_arguments(endpoint: str) -> frozenset[str]:
    from openai.resources import Completions
    from openai.resources.chat import Completions as ChatCompletions

    resource = ChatCompletions if endpoint == "chat" else Completions
    return frozenset(inspect.signature(resource.create).parameters) - {"self"}
