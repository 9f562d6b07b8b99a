"""Flat parameters of constructor, bind and call as the SDK's methods take them: in two parts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from vllm_adapters import dialect, params
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.merging import merged


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
    for given in map(dialect.one_limit, levels):
        said = {name: value for name, value in given.items() if name in known and name != "extra_body"}
        added = {name: value for name, value in given.items() if name not in known}
        allowed = {dialect.ALLOW_UNKNOWN: added.pop(dialect.ALLOW_UNKNOWN)} if dialect.ALLOW_UNKNOWN in added else {}
        taken_back = {name: None for name, value in added.items() if value is None}
        weaker = {name: value for name, value in body.items() if name not in said}  # the SDK lets the body win
        checked = dialect.checked(model, added, endpoint=endpoint)
        extra = dialect.one_limit(given.get("extra_body") or {})
        sdk, body = merged(sdk, said), merged(weaker, taken_back, checked, extra, allowed)
    return sdk, body


def refuse_several_streamed(request: Mapping[str, Any]) -> None:
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
