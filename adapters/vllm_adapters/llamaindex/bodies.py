"""From a ``VLLM``'s fields and a call's arguments to the body of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from vllm_adapters._request import compat
from vllm_adapters._request.body import deep_merge, merge_and_drop_none, reject_streamed_n
from vllm_adapters.params import ChatParams, CompletionParams, wire

_HOW = frozenset({"extra_headers", "extra_query", "timeout"})
"""Arguments that say how to send a request, not what."""


class OpenAIParams(BaseModel):
    """The parameters of OpenAI's API that vLLM has too, for chat and completions."""

    temperature: float | None = Field(
        default=None, ge=0, description="0 is greedy; default: the model's own (generation_config.json), else 1."
    )
    max_tokens: int | None = Field(default=None, gt=0, description="Most tokens to generate; default: what fits.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Sample from this share of the probability.")
    seed: int | None = Field(default=None, description="Make sampling repeatable.")
    stop: str | list[str] | None = Field(default=None, description="Texts that end the reply.")
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, description="Avoid frequent tokens.")
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, description="Avoid tokens that have occurred.")
    logit_bias: dict[str, float] | None = Field(default=None, description="Token id to bias, -100 to 100.")
    user: str | None = Field(default=None, description="Name of the end user; vLLM makes no use of it.")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        default=None, description="How long to think, for templates that know it."
    )
    modalities: list[str] | None = Field(default=None, description="OpenAI's own: vLLM refuses it.")


def body_of(llm: Any, endpoint: Literal["chat", "completions"], call: Mapping[str, Any], *, stream: bool) -> Any:
    """The parameters of a request, with the model's name: call beats constructor, dicts merge deeply.

    Args:
        llm: A ``VLLM``.
        endpoint: Which parameters there are.
        call: Arguments of one call; ``None`` takes back what the constructor said.
        stream: Whether the reply is streamed.

    Raises:
        UnknownParameter: No vLLM version has a parameter of that name here.
        InvalidRequest: A value is of the wrong type, out of bounds, or cannot be streamed.
    """
    how = {name: value for name, value in call.items() if name in _HOW}
    body = merge_and_drop_none(
        {"stream_options": {"include_usage": True}},
        wire(llm, OpenAIParams),
        wire(llm, ChatParams),
        _level(endpoint, llm, {"logprobs": True} if llm.logprobs else {}),
        {"audio": llm.audio_config} if llm.audio_config else {},
        _level(endpoint, llm, llm.additional_kwargs),
        compat.normalize_max_tokens(llm.extra_body),
        _level(endpoint, llm, {name: value for name, value in call.items() if name not in _HOW}),
    )
    if not stream:
        body.pop("stream_options", None)
    else:
        reject_streamed_n(body)
    return {"model": llm.model, **body, "stream": stream, **how}


def _level(endpoint: str, llm: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of one level, checked; ``None`` stays, to take back what a lower level says."""
    given = compat.normalize_max_tokens(given)
    named = {name: value for name, value in given.items() if name not in ("extra_body", compat.ALLOW_UNKNOWN)}
    if isinstance(wanted := named.get("logprobs"), bool):
        # Chat asks with a flag and a number, completions with the number alone.
        number = named.pop("top_logprobs", llm.top_logprobs) if wanted else None
        named |= {"logprobs": number} if endpoint == "completions" else {"logprobs": wanted, "top_logprobs": number}
    if "response_format" in named:
        named["response_format"] = compat.response_format(named["response_format"])
    model: type[BaseModel] = ChatParams if endpoint == "chat" else CompletionParams
    taken_back = {name: None for name, value in named.items() if value is None}
    allowed = {compat.ALLOW_UNKNOWN: True} if given.get(compat.ALLOW_UNKNOWN) else {}
    return deep_merge(
        taken_back, compat.validate_params(model, named, endpoint=endpoint), given.get("extra_body"), allowed
    )
