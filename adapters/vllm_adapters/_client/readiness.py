"""Whether a server is ready: its ``/health``, and behind a gateway a request that reaches a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from vllm_adapters._client.discovery import Plan
from vllm_adapters._client.endpoint import EndpointCall
from vllm_adapters.errors import InvalidRequest, ServerTimeout, ServerUnreachable, VLLMError, WrongAddress
from vllm_adapters.timeouts import Timeouts

Probe: TypeAlias = Literal["chat", "completions", "embeddings"]

_HEALTH_OPTIONS = {"timeout": Timeouts(connect=5, idle=10, total=10), "max_retries": 0}
_PROBE_OPTIONS = {"timeout": Timeouts(connect=5, idle=60, total=60), "max_retries": 0}
_PROBES: dict[Probe, tuple[str, dict[str, Any]]] = {
    "chat": ("/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}),
    "completions": ("/completions", {"prompt": "Hello", "max_tokens": 1}),
    "embeddings": ("/embeddings", {"input": "Hello"}),
}
_LAST_PROBE = "embeddings"


def examine(
    health_url: str, make_body: Callable[[str, Mapping[str, Any]], dict[str, Any]], probe: Probe | None
) -> Plan[EndpointCall[Any], Any, VLLMError | None]:
    """Return why a server is not ready; ``None`` if it is.

    Args:
        health_url: The URL of its ``/health``.
        make_body: Returns the body for an endpoint with these fields.
        probe: What to request, too; default: only behind a gateway, and the first endpoint that it has.
    """
    try:
        health = yield EndpointCall(health_url, str, cast_to=str, options=_HEALTH_OPTIONS)
        if probe is None and not health.strip():  # vLLM itself; gateways have a text, whatever is behind them
            return None
        for task in (probe,) if probe else _PROBES:
            path, fields = _PROBES[task]
            try:
                yield EndpointCall(path, lambda response: True, make_body(task, fields), options=_PROBE_OPTIONS)
            except WrongAddress:
                if task in (probe, _LAST_PROBE):
                    raise
            else:
                break
    except InvalidRequest:
        return None  # a model has refused the request
    except VLLMError as error:
        if isinstance(error, ServerUnreachable | ServerTimeout) or error.status_code >= 500:
            return error
        raise
    return None


def attempts(timeout: float, every: float) -> Iterator[None]:
    """Yield once for each attempt; the caller waits ``every`` seconds between two, ``timeout`` at the most."""
    end = time.monotonic() + timeout
    yield
    while time.monotonic() + every < end:
        yield


def not_ready(timeout: float, last: VLLMError | None, *, address: str) -> ServerTimeout:
    """Return the error for a server that is not ready after ``timeout`` seconds; ``last`` is the last attempt's."""
    reason = f", at last: {last.reason}" if last else ""
    return ServerTimeout(
        f"The server was not ready within {timeout:g} s{reason}",
        hint="Look at its log: it may still be loading the model, or have stopped",
        address=address,
        kind="total",
        seconds=timeout,
    )
