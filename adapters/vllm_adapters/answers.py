"""Is a reply an answer? What a 200 must hold before anyone gets to see it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

from openai.types import Completion, CreateEmbeddingResponse, Embedding
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from vllm_adapters import constraints, failures
from vllm_adapters._compat import http
from vllm_adapters.failures import Call
from vllm_adapters.params_table import endpoint_of
from vllm_adapters.shapes import misshapen


def check_answer(answer: object, body: object, *, call: Call, response: http.Response) -> None:
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
        raise failures.not_an_answer("The reply is not a JSON object", call=call, response=response)
    try:
        refuse_half_characters(response.content, answer)
    except ValueError as error:
        raise failures.not_an_answer(f"The reply holds no text ({error})", call=call, response=response) from None
    fields = answer if isinstance(answer, Mapping) else getattr(answer, "model_extra", None) or {}
    if fields.get("error"):
        raise failures.from_event({"error": fields["error"]}, call=call, response=response)
    asked = body if isinstance(body, Mapping) else {}
    if isinstance(answer, ChatCompletion | Completion):
        _check_choices(answer.choices, asked, call, response)
    elif isinstance(answer, Mapping) and endpoint_of(call.path) in ("chat", "completions"):
        refuse_misshapen(answer, call=call, response=response)
        _check_choices(fields.get("choices"), asked, call, response)
    elif call.path.endswith("/responses"):
        if not isinstance(fields.get("output", getattr(answer, "output", None)), list):
            raise failures.not_an_answer("The reply has no output", call=call, response=response)
    elif isinstance(answer, CreateEmbeddingResponse):
        answer.data = in_order(answer.data, count_inputs(asked.get("input")), call=call, response=response)
        vectors = [item.embedding for item in answer.data]
        check_vectors(vectors, asked.get("dimensions"), call=call, response=response)


def refuse_misshapen(reply: object, *, call: Call, response: http.Response) -> None:
    """Raise if a part of a completion, or of a chunk of one, is not what it must be.

    Args:
        reply: Its JSON.
        call: What was asked.
        response: The HTTP reply.

    Raises:
        InvalidResponse: One is a number where a text must be, or the like; the text says which.
    """
    fault = misshapen(reply)
    if fault is not None:
        raise failures.not_an_answer(f"The reply is not of the right shape ({fault})", call=call, response=response)


def _check_choices(choices: Sequence[Any] | None, body: Mapping[str, Any], call: Call, response: http.Response) -> None:
    if not choices:
        raise failures.not_an_answer("The reply has no choices", call=call, response=response)
    prompts, each = count_inputs(body.get("prompt")) or 1, body.get("n") or 1
    if isinstance(each, int) and len(choices) < each:  # what is no number is the server's to refuse
        reason = f"{len(choices)} choices, not the {each} that were asked for"
        raise failures.not_an_answer(reason, call=call, response=response)
    if prompts > 1 and isinstance(choices, list) and not body.get("prompt_embeds"):  # which are prompts, too
        choices[:] = in_order(choices, prompts * each, call=call, response=response)
    constraint = constraints.asked_for(body)
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
            raise failures.not_an_answer("A choice holds no message", call=call, response=response)
        text = (_field(choice, "text") if message is None else _field(message, "content")) or ""
        reason = _field(choice, "finish_reason")
        failures.refuse_given_up(reason, text, call=call, response=response)
        if constraint is not None and not (message is not None and _field(message, "tool_calls")):
            constraints.check(
                constraint,
                text,
                finish_reason=reason,
                stop_reason=_field(choice, "stop_reason"),
                call=call,
            )


def refuse_half_characters(data: bytes, said: object) -> None:
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


def in_order(items: Sequence[Any] | None, count: int | None, *, call: Call, response: http.Response) -> list[Any]:
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
        raise failures.not_an_answer("A result is no object", call=call, response=response)
    expected = len(found) if count is None else count
    indices = [_field(item, "index") for item in found]
    if len(found) != expected or not found:
        reason = f"{len(found)} results for {expected} inputs"
    elif any(not isinstance(index, int) for index in indices) or sorted(indices) != list(range(expected)):
        reason = f"The results' indices are not 0 to {expected - 1}: {indices[:10]}"
    else:
        return sorted(found, key=lambda item: _field(item, "index"))
    raise failures.not_an_answer(reason, call=call, response=response)


def check_vectors(
    vectors: Sequence[Any], dimensions: int | None = None, *, call: Call, response: http.Response
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
    raise failures.not_an_answer(reason, call=call, response=response)


def _finite(vector: Sequence[float]) -> bool:
    try:
        return math.isfinite(math.fsum(vector))
    except (TypeError, ValueError, OverflowError):
        return False


def reads_float32(parser: Any) -> bool:
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


def added_fields(reply: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    """Those of ``names`` that a reply, as a dict, holds."""
    # Chunks hold few of many names, so look through the chunk.
    return {name: value for name, value in reply.items() if name in names and value is not None}
