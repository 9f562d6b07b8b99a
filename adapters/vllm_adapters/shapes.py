"""The shape of completions: what must be a list, a text or a number, wherever a reply has it.

Whoever reads a reply would else trip over the first part that is something else, or take it for nothing.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # Pydantic refuses typing's own before Python 3.12

_Index = Annotated[int, Field(ge=0, lt=2**31)]


class _Function(TypedDict, total=False):
    name: str | None
    arguments: str | None


class _Call(TypedDict, total=False):
    index: _Index | None
    id: str | None
    type: str | None
    function: _Function | None


class _Message(TypedDict, total=False):
    role: str | None
    content: str | None
    reasoning: str | None
    reasoning_content: str | None
    refusal: str | None
    function_call: _Function | None
    tool_calls: list[_Call] | None


class _Choice(TypedDict, total=False):
    index: _Index | None
    finish_reason: str | None
    message: _Message | None
    delta: _Message | None
    text: str | None
    logprobs: dict[str, Any] | None
    token_ids: list[int] | None


class _Details(TypedDict, total=False):
    audio_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None


class _Usage(TypedDict, total=False):
    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    prompt_tokens_details: _Details | None
    completion_tokens_details: _Details | None


class _Reply(TypedDict, total=False):
    id: str | None
    model: str | None
    service_tier: str | None
    system_fingerprint: str | None
    choices: list[_Choice] | None
    usage: _Usage | None


_REPLY = TypeAdapter(_Reply)


def misshapen(reply: object) -> str | None:
    """What is wrong with the shape of a completion, or of a chunk of one, and where; ``None`` if nothing is.

    Args:
        reply: The JSON of a reply of ``/v1/chat/completions`` or ``/v1/completions``, or of an event of its stream.
    """
    try:
        _REPLY.validate_python(reply, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
        return f"{place.lstrip('.')}: {first['msg']}".removeprefix(": ")
    return None
