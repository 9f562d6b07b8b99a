"""Requests of ``/v1/responses``: their names, and what they require in the terms of a chat completion."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from vllm_adapters._request import availability
from vllm_adapters._request.compat import ALLOW_UNKNOWN
from vllm_adapters.errors import UnknownParameter

_ADDED = frozenset(
    [
        *("cache_salt", "chat_template_kwargs", "ec_transfer_params", "enable_response_messages", "frequency_penalty"),
        *("ignore_eos", "include_reasoning", "include_stop_str_in_output", "kv_transfer_params", "logit_bias"),
        *("media_io_kwargs", "min_p", "mm_payload", "mm_processor_kwargs", "presence_penalty"),
        *("previous_input_messages", "priority", "repetition_penalty", "request_id", "return_mm_kwargs", "seed"),
        *("session_id", "skip_special_tokens", "stop", "stop_token_ids", "stream", "structured_outputs", "top_k"),
        *("vllm_xargs", "watermarking"),
    ]
)
"""What vLLM adds to OpenAI's parameters of this route."""


@cache
def names() -> frozenset[str]:
    """Return every name that the route has: the SDK's and those that vLLM adds."""
    from openai.types.responses.response_create_params import ResponseCreateParamsBase

    return _ADDED | frozenset(ResponseCreateParamsBase.__annotations__)


def reject_unknown(body: Mapping[str, Any]) -> None:
    """Raise for a field that the route does not have.

    Raises:
        UnknownParameter: There is one, and ``body`` has no true ``allow_unknown``.
    """
    unknown = body.keys() - names() - {ALLOW_UNKNOWN}
    if not unknown or body.get(ALLOW_UNKNOWN):
        return
    name = next(name for name in body if name in unknown)
    suggestions = tuple(availability.suggest_among(names(), name))
    if name in ("max_tokens", "max_completion_tokens"):
        suggestions = ("max_output_tokens",)
    raise UnknownParameter(
        f"`{name}` is not a parameter of vLLM's responses requests, which would ignore it silently",
        hint=f"Did you mean {' or '.join(f'`{each}`' for each in suggestions)}?"
        if suggestions
        else "If a plugin of the server adds it, pass extra_body with allow_unknown=True",
        param=name,
        suggestions=suggestions,
    )


def as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request requires of its reply, in the form of a chat completion's request."""
    required: dict[str, Any] = {"structured_outputs": body.get("structured_outputs")}
    text = body.get("text")
    form = text.get("format") if isinstance(text, Mapping) else None
    if isinstance(form, Mapping):
        required["response_format"] = {"type": form.get("type"), "json_schema": form}
    tools, choice = body.get("tools"), body.get("tool_choice")
    if isinstance(tools, list) and all(isinstance(tool, Mapping) and tool.get("type") == "function" for tool in tools):
        required["tools"] = [{"type": "function", "function": tool} for tool in tools]
        named = isinstance(choice, Mapping) and choice.get("type") == "function"
        required["tool_choice"] = {"function": choice} if named else choice
    return required
