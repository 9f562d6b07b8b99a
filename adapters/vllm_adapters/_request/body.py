"""The JSON body of a request: parameters of constructor, bind and call, merged by precedence.

The same rule holds in every framework: call beats bind beats constructor, and dict-valued parameters merge deeply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from vllm_adapters._request.compat import normalize_max_tokens, response_format, validate_params
from vllm_adapters.errors import InvalidRequest

SEND_OPTIONS = frozenset({"extra_headers", "extra_query", "timeout"})
"""Arguments of the SDK's methods that say how to send a request. They are no part of its body."""

_ATOMIC = frozenset({"structured_outputs", "response_format", "repetition_detection", "tool_choice", "timeout"})
"""Dicts that state one thing: a mix of two constraints would state neither."""


class _Replace(dict[str, Any]):
    """A dict that replaces, rather than merges into, the value of lower precedence.

    It stands for a dict given above a ``None``, and makes ``deep_merge`` associative: LangChain merges what was
    bound with the call, and we merge the result with the constructor.
    """


def deep_merge(*levels: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge parameters; later levels win, and ``None`` in a later level overrides an earlier value.

    >>> from vllm_adapters._request.body import deep_merge
    >>> deep_merge({"top_k": 5, "chat_template_kwargs": {"a": 1}}, {"top_k": 1, "chat_template_kwargs": {"b": 2}})
    {'top_k': 1, 'chat_template_kwargs': {'a': 1, 'b': 2}}

    Args:
        levels: From the lowest precedence, the constructor, to the highest, the call.
    """
    result: dict[str, Any] = {}
    for level in levels:
        for name, value in (level or {}).items():
            if isinstance(value, Mapping) and name in result and name not in _ATOMIC:
                value = _merge_values(result[name], value)
            result[name] = value
    return result


def _merge_values(low: Any, high: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(high, _Replace):
        return high
    if not isinstance(low, Mapping):
        return _Replace(high)
    both = deep_merge(low, high)
    return _Replace(both) if isinstance(low, _Replace) else both


def drop_none(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are not ``None``."""
    return {name: value for name, value in parameters.items() if value is not None}


def set_fields(instance: BaseModel, model: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of ``model`` that are set in ``instance``, an instance of a class that has them.

    Args:
        instance: Such as a ``ChatVLLM``.
        model: The declaration of the parameters, such as ``ChatParams``.
    """
    values = vars(instance)  # getattr of a Pydantic object, field by field, takes four times as long
    found = {}
    for name in model.model_fields:  # no comprehension: a call less for Python 3.11, where LangChain does this often
        if (value := values.get(name)) is not None:
            found[name] = value
    return found


def request_body(*levels: Mapping[str, Any], endpoint: str = "chat") -> dict[str, Any]:
    """Merge parameters into one flat body, validate vLLM's own, and convert them to JSON data.

    Names are not checked here: the client does that for every request, before it is sent.

    Args:
        levels: Parameters under vLLM's own names, from the lowest precedence to the highest; flat or in an
            ``extra_body``, which wins over its own level and whose values are not validated. ``None`` drops what
            a lower level set. ``extra_headers``, ``extra_query`` and ``timeout`` are merged like the others.
        endpoint: ``"chat"`` or ``"completions"``.

    Returns:
        The body, with the send options beside its fields: the arguments of ``RawCompletions.create``.

    Raises:
        InvalidRequest: A value is of the wrong type or out of bounds, ``max_tokens`` and ``max_completion_tokens``
            differ within a level, or several choices are to be streamed.
    """
    body: dict[str, Any] = {}
    unvalidated: set[str] = set()
    for level in levels:
        extra = level.get("extra_body")
        if extra or "extra_body" in level:
            level = {name: value for name, value in level.items() if name != "extra_body"}
        if "max_completion_tokens" in level:
            level = normalize_max_tokens(level)
        unvalidated.difference_update(level)
        body = deep_merge(body, level) if body else dict(level)
        if extra:
            extra = normalize_max_tokens(extra)
            unvalidated.update(extra)
            body = deep_merge(body, extra)
    if body.get("response_format") is not None:
        body["response_format"] = response_format(body["response_format"])
    if body.get("stream") and (body.get("n") or 1) > 1:
        raise InvalidRequest(
            "`n` must be 1 when streaming. A framework's stream is one reply.",
            hint="Request several choices without streaming",
            param="n",
        )
    return validate_params(endpoint, body, skip=unvalidated)
