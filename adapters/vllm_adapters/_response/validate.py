"""Is a reply an answer? What a 200 must hold before anyone gets to see it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from typing import Annotated, Any

from openai.types import Completion, CreateEmbeddingResponse, Embedding
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # Pydantic refuses typing's own before Python 3.12

from vllm_adapters._compat import http
from vllm_adapters._request.availability import endpoint_of
from vllm_adapters._response import error_mapping, structured
from vllm_adapters._response.error_mapping import RequestContext


def validate_response(answer: object, body: object, *, call: RequestContext, response: http.Response) -> None:
    """Raise if a reply that was not streamed is no answer or breaks what was asked; restore orders and names.

    Args:
        answer: The reply as the SDK parsed it.
        body: The request's JSON body.
        call: What was asked.
        response: The HTTP reply.

    Raises:
        InvalidResponse: It is not an answer: HTML, no choices, vectors that are not one per input.
        ConstraintNotEnforced: It breaks the constraint that was asked for.
        ServerFailed: The server gave a choice up, and says so in its finish reason.
        VLLMError: The body of the 200 is an error.
    """
    if answer is None or isinstance(answer, str | list | int | float):
        raise error_mapping.invalid_response("The reply is not a JSON object", call=call, response=response)
    try:
        reject_lone_surrogates(response.content, answer)
    except ValueError as error:
        raise error_mapping.invalid_response(
            f"The reply holds no text ({error})", call=call, response=response
        ) from None
    fields = answer if isinstance(answer, Mapping) else getattr(answer, "model_extra", None) or {}
    if fields.get("error"):
        raise error_mapping.from_event({"error": fields["error"]}, call=call, response=response)
    asked = body if isinstance(body, Mapping) else {}
    if isinstance(answer, ChatCompletion | Completion):
        _check_choices(answer.choices, asked, call, response)
    elif isinstance(answer, Mapping) and endpoint_of(call.path) in ("chat", "completions"):
        validate_shape(answer, call=call, response=response)
        _check_choices(fields.get("choices"), asked, call, response)
    elif call.path.endswith("/responses"):
        if not isinstance(fields.get("output", getattr(answer, "output", None)), list):
            raise error_mapping.invalid_response("The reply has no output", call=call, response=response)
    elif isinstance(answer, CreateEmbeddingResponse):
        answer.data = sort_by_index(answer.data, count_inputs(asked.get("input")), call=call, response=response)
        vectors = [item.embedding for item in answer.data]
        validate_vectors(vectors, asked.get("dimensions"), call=call, response=response)


def validate_shape(reply: object, *, call: RequestContext, response: http.Response) -> None:
    """Raise if a part of a completion, or of a chunk of one, is not what it must be.

    Args:
        reply: Its JSON.
        call: What was asked.
        response: The HTTP reply.

    Raises:
        InvalidResponse: One is a number where a text must be, or the like; the text says which.
    """
    fault = shape_error(reply)
    if fault is not None:
        raise error_mapping.invalid_response(
            f"The reply is not of the right shape ({fault})", call=call, response=response
        )


def _check_choices(
    choices: Sequence[Any] | None, body: Mapping[str, Any], call: RequestContext, response: http.Response
) -> None:
    if not choices:
        raise error_mapping.invalid_response("The reply has no choices", call=call, response=response)
    prompts, each = count_inputs(body.get("prompt")) or 1, body.get("n") or 1
    if isinstance(each, int) and len(choices) < each:  # what is no number is the server's to refuse
        reason = f"{len(choices)} choices, not the {each} that were asked for"
        raise error_mapping.invalid_response(reason, call=call, response=response)
    if prompts > 1 and isinstance(choices, list) and not body.get("prompt_embeds"):  # which are prompts, too
        choices[:] = sort_by_index(choices, prompts * each, call=call, response=response)
    constraint = structured.requested_constraint(body)
    for choice in choices:
        message = _field(choice, "message")
        if message is not None:
            old = _field(message, "reasoning_content")  # 0.15.1 and older
            if old and not _field(message, "reasoning"):
                if isinstance(message, dict):
                    message["reasoning"] = old
                else:
                    message.reasoning = old
        elif _field(choice, "text") is None:
            raise error_mapping.invalid_response("A choice holds no message", call=call, response=response)
        text = (_field(choice, "text") if message is None else _field(message, "content")) or ""
        reason = _field(choice, "finish_reason")
        error_mapping.raise_if_aborted(reason, text, call=call, response=response)
        if constraint is not None and not (message is not None and _field(message, "tool_calls")):
            structured.check_constraint(
                constraint,
                text,
                finish_reason=reason,
                stop_reason=_field(choice, "stop_reason"),
                call=call,
            )


def reject_lone_surrogates(data: bytes, said: object) -> None:
    r"""Raise if JSON holds half a character, such as ``"\ud83d"``: what comes of splitting an emoji as UTF-16.

    Args:
        data: The JSON.
        said: What it says.

    Raises:
        ValueError: It does. No file or request could hold the text.
    """
    if b"\\ud" in data or b"\\uD" in data:
        json.dumps(said if isinstance(said, Mapping) else json.loads(data), ensure_ascii=False).encode()


def count_inputs(value: object) -> int | None:
    """How many inputs or prompts a request holds; ``None`` if its form does not tell."""
    if isinstance(value, str):
        return 1
    if isinstance(value, Sequence) and value:
        return 1 if isinstance(value[0], int) else len(value)
    return None


def expected_choices(body: Mapping[str, Any]) -> int:
    """How many choices a completion must have."""
    prompts, embeds = body.get("prompt"), body.get("prompt_embeds")
    batch = count_inputs(prompts) or 1
    if embeds:  # prompts as well
        batch = (batch if prompts else 0) + (len(embeds) if isinstance(embeds, list) else 1)
    return batch * int(body.get("n") or 1)


def _field(part: Any, name: str) -> Any:
    if isinstance(part, Mapping):
        return part.get(name)
    if isinstance(part, str | list | int | float | None):
        raise TypeError(f"{part!r} is no object")
    fields = vars(part)  # getattr would raise, and Pydantic word an error, for each name that is not there
    return fields[name] if name in fields else (part.model_extra or {}).get(name)


def sort_by_index(
    items: Sequence[Any] | None, count: int | None, *, call: RequestContext, response: http.Response
) -> list[Any]:
    """``items`` sorted by their ``index``, which must count from 0 without gaps or doubles.

    Args:
        items: Parts of a reply, mappings or objects with an ``index``.
        count: How many there must be, if known.
        call: What was asked.
        response: The HTTP reply.

    Raises:
        InvalidResponse: There are too few, too many, or the indices are wrong.
    """
    found = list(items or []) if isinstance(items, Sequence | None) else []
    if not all(isinstance(item, Mapping | BaseModel) for item in found):
        raise error_mapping.invalid_response("A result is no object", call=call, response=response)
    expected = len(found) if count is None else count
    indices = [_field(item, "index") for item in found]
    if len(found) != expected or not found:
        reason = f"{len(found)} results for {expected} inputs"
    elif any(not isinstance(index, int) for index in indices) or sorted(indices) != list(range(expected)):
        reason = f"The results' indices are not 0 to {expected - 1}: {indices[:10]}"
    else:
        return sorted(found, key=lambda item: _field(item, "index"))
    raise error_mapping.invalid_response(reason, call=call, response=response)


def validate_vectors(
    vectors: Sequence[Any], dimensions: int | None = None, *, call: RequestContext, response: http.Response
) -> None:
    """Raise unless all vectors are lists of equally many finite numbers (base64 text is checked by length).

    Args:
        vectors: The vectors.
        dimensions: How many numbers each was asked to have, if that was asked.
        call: What was asked.
        response: The HTTP reply.

    Raises:
        InvalidResponse: One is missing, shorter or longer than the first or than was asked, or holds NaN or infinity.
    """
    sizes = {len(vector) if isinstance(vector, Sequence) else 0 for vector in vectors}
    if dimensions and not any(isinstance(vector, str) for vector in vectors) and sizes != {dimensions}:
        reason = f"The vectors have {sorted(sizes)} dimensions, not the {dimensions} that were asked for"
    elif len(sizes) != 1 or 0 in sizes:
        reason = f"The vectors have different numbers of dimensions: {sorted(sizes)}"
    elif any(not isinstance(vector, str) and not _finite(vector) for vector in vectors):
        reason = "A vector holds NaN or infinity"
    else:
        return
    raise error_mapping.invalid_response(reason, call=call, response=response)


def _finite(vector: Sequence[float]) -> bool:
    try:
        return math.isfinite(math.fsum(vector))
    except (TypeError, ValueError, OverflowError):
        return False


def decodes_as_float32(parser: Any) -> bool:
    """Whether the SDK takes the base64 of embeddings for float32: it asks for that where nobody names a format."""
    if not callable(parser):
        return False
    reply = CreateEmbeddingResponse.construct(data=[Embedding.construct(embedding="AAAAAA==")])
    return not isinstance(parser(reply).data[0].embedding, str)


CHOICE_FIELDS = frozenset({"stop_reason", "token_ids", "prompt_logprobs", "prompt_token_ids", "routed_experts"})
"""What vLLM adds to a choice of a reply."""

REPLY_FIELDS = frozenset(
    {
        "prompt_logprobs",
        "prompt_token_ids",
        "prompt_text",
        "kv_transfer_params",
        "ec_transfer_params",
        "metrics",
        "system_fingerprint",
    }
)
"""What vLLM adds to a reply as a whole (and ``system_fingerprint``, which is OpenAI's)."""


def pick_fields(reply: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    """Those of ``names`` that a reply, as a dict, holds."""
    # Chunks hold few of many names, so look through the chunk.
    return {name: value for name, value in reply.items() if name in names and value is not None}


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


def shape_error(reply: object) -> str | None:
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
