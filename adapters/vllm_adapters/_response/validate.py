"""Validate responses: whatever a 200 must contain before anyone gets to see it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from typing import Annotated, Any

from openai.types import Completion, CreateEmbeddingResponse, Embedding
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # Pydantic refuses typing's own before Python 3.12

from vllm_adapters._request.responses import as_chat
from vllm_adapters._response.requirements import Requirements
from vllm_adapters._response.tool_calls import Called
from vllm_adapters.errors import InvalidResponse, TruncatedOutput

CHOICE_FIELDS = frozenset(
    {"stop_reason", "token_ids", "prompt_logprobs", "prompt_token_ids", "routed_experts", "weight_versions"}
)
"""What vLLM adds to a choice of a completion."""

RESPONSE_FIELDS = frozenset(
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
"""What vLLM adds to a completion as a whole (and ``system_fingerprint``, which is OpenAI's)."""

_Index = Annotated[int, Field(ge=0, lt=2**31)]


class _Function(TypedDict, total=False):
    name: str | None
    arguments: str | None


class _ToolCall(TypedDict, total=False):
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
    tool_calls: list[_ToolCall] | None


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


class _Completion(TypedDict, total=False):
    id: str | None
    model: str | None
    service_tier: str | None
    system_fingerprint: str | None
    choices: list[_Choice] | None
    usage: _Usage | None


COMPLETION = TypeAdapter(_Completion)
"""Validates the types of a completion, or of a chunk of one, with ``strict=True``."""


def validate_types(completion: object) -> None:
    """Raise if a part of a completion, or of a chunk of one, has the wrong type.

    Code that reads it would fail at the first such part, or take it for missing.

    Args:
        completion: The JSON of ``/v1/chat/completions`` or ``/v1/completions``, or of an event of their streams.

    Raises:
        InvalidResponse: Some part has; the text says which.
    """
    try:
        COMPLETION.validate_python(completion, strict=True)
    except ValidationError as error:
        raise malformed(error) from None


def malformed(error: ValidationError) -> InvalidResponse:
    """Return the error for a response that ``COMPLETION`` rejects."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
    problem = f"{place.lstrip('.')}: {first['msg']}".removeprefix(": ")
    return InvalidResponse(f"The response is malformed ({problem})")


def validate_response(response: object, body: object, *, endpoint: str | None, content: bytes = b"") -> None:
    """Raise if a response that was not streamed is malformed or violates the request; normalize order and names.

    Args:
        response: The response as the SDK parsed it.
        body: The request's JSON body.
        endpoint: A name of the availability table, ``"responses"``, or ``None``.
        content: The response's bytes.

    Raises:
        InvalidResponse: It is malformed: HTML, no choices, vectors that are not one per input.
        VLLMError: A choice does not have what was requested; see ``Requirements.check``.
    """
    if response is None or isinstance(response, str | list | int | float):
        raise InvalidResponse("The response is not a JSON object")
    try:
        reject_lone_surrogates(content, response)
    except ValueError as error:
        raise InvalidResponse(f"The response contains invalid Unicode ({error})") from None
    request = body if isinstance(body, Mapping) else {}
    if isinstance(response, ChatCompletion | Completion):
        _validate_choices(response, request, endpoint)
    elif isinstance(response, Mapping) and endpoint in ("chat", "completions"):
        validate_types(response)
        _validate_choices(response, request, endpoint)
    elif endpoint == "responses":
        validate_output(response, request)
    elif isinstance(response, CreateEmbeddingResponse):
        response.data = sort_by_index(response.data, count_inputs(request.get("input")))
        validate_vectors([item.embedding for item in response.data], request.get("dimensions"))


def _validate_choices(response: Any, body: Mapping[str, Any], endpoint: str | None) -> None:
    choices: Sequence[Any] | None = _field(response, "choices")
    if not choices:
        raise InvalidResponse("The response has no choices")
    prompts, each = count_inputs(body.get("prompt")) or 1, body.get("n") or 1
    if isinstance(each, int) and len(choices) < each:  # the server rejects other types
        raise InvalidResponse(f"The response has {len(choices)} choices, not {each}")
    if prompts > 1 and isinstance(choices, list) and not body.get("prompt_embeds"):  # these are prompts, too
        choices[:] = sort_by_index(choices, prompts * each)
    requirements = Requirements(body, choices=len(choices), sdk=isinstance(response, BaseModel))
    for choice in choices:
        message = _field(choice, "message")
        if message is None:
            if _field(choice, "text") is None or endpoint == "chat":
                raise InvalidResponse("A choice has no message")
            requirements.check(
                _field(choice, "text"),
                finish_reason=_field(choice, "finish_reason"),
                stop_reason=_field(choice, "stop_reason"),
            )
            continue
        if endpoint == "completions":
            raise InvalidResponse("A choice of the completion has a chat message instead of a text")
        old = _field(message, "reasoning_content")  # 0.15.1 and older
        if old and not _field(message, "reasoning"):
            _set_field(message, "reasoning", old)
        called = _field(message, "tool_calls") or _field(message, "function_call")
        calls, reason = _calls_of(message) if called else [], _field(choice, "finish_reason")
        if calls:
            found = requirements.finish_reason(reason, calls, _field(response, "usage"))
            if found != reason:
                _set_field(choice, "finish_reason", found)
                reason = found
        refusal = _field(message, "refusal")
        requirements.check(
            _field(message, "content") or "",
            finish_reason=reason,
            stop_reason=_field(choice, "stop_reason"),
            calls=calls,
            refusal=refusal,
            completion=response,
        )
        if refusal and not calls and isinstance(message, dict) and not message.get("content"):
            message["content"] = refusal  # a framework's message has no other place for it


_INCOMPLETE = {"max_output_tokens": "length", "max_tokens": "length"}


def validate_output(response: Any, body: Mapping[str, Any]) -> None:
    """Raise if a response of ``/v1/responses`` has no output, or not what was requested.

    Args:
        response: The response as the SDK parsed it, or the dict of a stream's last event.
        body: The request's JSON body.
    """
    output = _field(response, "output")
    if not isinstance(output, list):
        raise InvalidResponse("The response has no output")
    status, details = _field(response, "status"), _field(response, "incomplete_details")
    if status not in ("completed", "incomplete"):  # still to come, cancelled or failed
        return
    reason = _field(details, "reason") if details is not None else None
    texts, refusals = [], []
    for part in (
        part for item in output for part in _field(item, "content") or () if _field(item, "type") == "message"
    ):
        texts.append(_field(part, "text") or "")
        refusals.append(_field(part, "refusal") or "")
    calls = [
        Called(_field(item, "name") or "", bool(_field(item, "arguments")))
        for item in output
        if _field(item, "type") == "function_call"
    ]
    try:
        Requirements(as_chat(body), sdk=True).check(
            "".join(texts),
            finish_reason="stop" if status == "completed" else _INCOMPLETE.get(str(reason), reason),
            calls=calls,
            refusal="".join(refusals),
            completion=response,
        )
    except TruncatedOutput as error:
        if error.finish_reason == "length":
            error.replace_hint("Raise max_output_tokens, or leave it out")
        raise


def _calls_of(message: Any) -> list[Called]:
    """Return the tool calls of a message, as the SDK's objects or as dicts."""
    calls = [_field(call, "function") for call in _field(message, "tool_calls") or ()]
    if legacy := _field(message, "function_call"):
        calls.append(legacy)
    found = []
    for call in calls:
        function = {} if call is None else call
        found.append(Called(_field(function, "name") or "", bool((_field(function, "arguments") or "").strip())))
    return found


def _set_field(part: Any, name: str, value: Any) -> None:
    if isinstance(part, dict):
        part[name] = value
    else:
        setattr(part, name, value)


def reject_lone_surrogates(content: bytes, parsed: object) -> None:
    r"""Raise if JSON contains a lone surrogate such as ``"\ud83d"``, which no file or request could contain.

    Args:
        content: The JSON.
        parsed: What it was parsed to.

    Raises:
        ValueError: It does.
    """
    if b"\\ud" in content or b"\\uD" in content:
        json.dumps(parsed if isinstance(parsed, Mapping) else json.loads(content), ensure_ascii=False).encode()


def count_inputs(value: object) -> int | None:
    """Return the number of inputs or prompts in a request; ``None`` if their form does not tell."""
    if isinstance(value, str):
        return 1
    if isinstance(value, Sequence) and value:
        return 1 if isinstance(value[0], int) else len(value)
    return None


def expected_choices(body: Mapping[str, Any]) -> int:
    """Return the number of choices that a completion must have."""
    prompts, embeds = body.get("prompt"), body.get("prompt_embeds")
    batch = count_inputs(prompts) or 1
    if embeds:  # prompts as well
        batch = (batch if prompts else 0) + (len(embeds) if isinstance(embeds, list) else 1)
    return batch * int(body.get("n") or 1)


def _field(part: Any, name: str) -> Any:
    if isinstance(part, Mapping):
        return part.get(name)
    if isinstance(part, str | list | int | float | None):
        raise TypeError(f"{part!r} is not an object")
    fields = vars(part)  # getattr would raise, and Pydantic word an error, for each missing name
    return fields[name] if name in fields else (part.model_extra or {}).get(name)


def sort_by_index(items: Sequence[Any] | None, count: int | None) -> list[Any]:
    """Return ``items`` sorted by their ``index``, which must count from 0 without gaps or duplicates.

    Args:
        items: Parts of a response, mappings or objects with an ``index``.
        count: The number of items expected, if known.

    Raises:
        InvalidResponse: There are too few or too many, or the indices are wrong.
    """
    found = list(items or []) if isinstance(items, Sequence | None) else []
    if not all(isinstance(item, Mapping | BaseModel) for item in found):
        raise InvalidResponse("A result is not a JSON object")
    expected = len(found) if count is None else count
    indices = [_field(item, "index") for item in found]
    if len(found) != expected or not found:
        raise InvalidResponse(f"The response has {len(found)} results for {expected} inputs")
    if any(not isinstance(index, int) for index in indices) or sorted(indices) != list(range(expected)):
        raise InvalidResponse(f"The results' indices are not 0 to {expected - 1}: {indices[:10]}")
    return sorted(found, key=lambda item: _field(item, "index"))


def validate_vectors(vectors: Sequence[Any], dimensions: int | None = None) -> None:
    """Raise unless all vectors are lists of equally many finite numbers (base64 text is checked by length).

    Args:
        vectors: The vectors.
        dimensions: The requested number of dimensions, if any.

    Raises:
        InvalidResponse: One is missing, shorter or longer than the first or than requested, or has NaN or infinity.
    """
    if any(isinstance(vector, list) and vector and isinstance(vector[0], list) for vector in vectors[:1]):
        raise InvalidResponse(
            "The server returned a matrix for a text, which has one vector for each token or chunk",
            hint="It serves a token-embedding model. Use VLLMServer(...).pooling(texts, task='token_embed')",
        )
    sizes = {len(vector) if isinstance(vector, Sequence) else 0 for vector in vectors}
    if dimensions and not any(isinstance(vector, str) for vector in vectors) and sizes != {dimensions}:
        raise InvalidResponse(f"The vectors have {_joined(sizes)} dimensions, not the requested {dimensions}")
    if len(sizes) != 1:
        raise InvalidResponse(f"The vectors have different lengths: {_joined(sizes)}")
    if 0 in sizes:
        raise InvalidResponse("The vectors are empty")
    if any(not isinstance(vector, str) and not _is_finite(vector) for vector in vectors):
        raise InvalidResponse("A vector contains NaN or infinity")


def _joined(sizes: Set[int]) -> str:
    return ", ".join(map(str, sorted(sizes)))


def _is_finite(vector: Sequence[float]) -> bool:
    try:
        return math.isfinite(math.fsum(vector))
    except (TypeError, ValueError, OverflowError):
        return False


def decodes_as_float32(parser: Any) -> bool:
    """Return whether the SDK decodes base64 embeddings as float32, as it does where no format is requested."""
    if not callable(parser):
        return False
    response = CreateEmbeddingResponse.construct(data=[Embedding.construct(embedding="AAAAAA==")])
    return not isinstance(parser(response).data[0].embedding, str)


def pick_fields(part: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    """Return the fields of ``names`` that a part of a response has."""
    return {name: value for name in part.keys() & names if (value := part[name]) is not None}
