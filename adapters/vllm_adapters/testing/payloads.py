"""Response bodies in the shapes that vLLM 0.32 sends, for servers that stand in for it in tests."""

from __future__ import annotations

import base64
import hashlib
import itertools
import struct
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "base64_vector",
    "chat",
    "chat_chunks",
    "chunk",
    "classification",
    "completion",
    "completion_chunks",
    "embeddings",
    "error",
    "models",
    "ranking",
    "relevance",
    "rerank",
    "score",
    "tokenized",
    "tool_call",
    "vector",
]

MODEL = "stub"
"""The served model of the fault-injection server."""
FINGERPRINT = "vllm-0.32.0-stub"
"""The ``system_fingerprint`` of its replies."""
_CREATED = 1_790_000_000  # any timestamp works: nothing reads it, and a constant keeps runs identical
_ids = itertools.count(1)


def _id(prefix: str) -> str:
    return f"{prefix}-{next(_ids):016x}"


def _usage(prompt: int, completed: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completed,
        "completion_tokens": completed,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def error(message: str, *, code: int = 400, type: str = "BadRequestError", param: str | None = None) -> dict[str, Any]:
    """Return the error object of vLLM 0.10.1 and later, as in a body or in a stream event."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def models(*served: str | dict[str, Any], max_model_len: int = 4096) -> dict[str, Any]:
    """Return the body of ``GET /v1/models``; names become cards of base models, dicts are used unchanged."""
    cards: list[dict[str, Any]] = []
    for card in served or (MODEL,):
        if isinstance(card, dict):
            cards.append(card)
            continue
        cards.append(
            {
                "id": card,
                "object": "model",
                "created": _CREATED,
                "owned_by": "vllm",
                "root": card,
                "parent": None,
                "max_model_len": max_model_len,
                "permission": [],
            }
        )
    return {"object": "list", "data": cards}


def tool_call(name: str, arguments: str, *, index: int | None = None) -> dict[str, Any]:
    """Return one tool call.

    Args:
        name: Name of the function.
        arguments: The arguments as raw text, which need not be valid JSON.
        index: Index of the tool call, for deltas of a stream.
    """
    call: dict[str, Any] = {
        "id": _id("chatcmpl-tool"),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    return call if index is None else {**call, "index": index}


def chat(
    content: str | None,
    *,
    reasoning: str | None = None,
    tool_calls: Sequence[dict[str, Any]] = (),
    finish_reason: str | None = "stop",
    model: str = MODEL,
    legacy_reasoning: bool = False,
) -> dict[str, Any]:
    """Return a complete chat completion.

    Args:
        content: The answer.
        reasoning: The reasoning, in the field ``reasoning``.
        tool_calls: See ``tool_call``; the field is left out when empty, as vLLM does.
        finish_reason: ``stop``, ``length``, ``tool_calls``, ``abort``, ``repetition``, ``error`` or ``None``.
        model: The model's name.
        legacy_reasoning: Use the field ``reasoning_content``, as vLLM 0.15 and older.
    """
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning_content" if legacy_reasoning else "reasoning": reasoning,
    }
    if tool_calls:
        message["tool_calls"] = list(tool_calls)
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason,
        "stop_reason": None,
        "token_ids": None,
        "routed_experts": None,
    }
    return {
        "id": _id("chatcmpl"),
        "object": "chat.completion",
        "created": _CREATED,
        "model": model,
        "choices": [choice],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": _usage(7, len((content or "").split()) or 1),
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def chunk(
    delta: dict[str, Any] | None,
    *,
    finish_reason: str | None = None,
    usage: dict[str, Any] | None = None,
    model: str = MODEL,
    id: str = "chatcmpl-stream",
) -> dict[str, Any]:
    """Return one ``chat.completion.chunk``.

    Args:
        delta: The delta; ``None`` for a chunk without choices, such as the one with the usage.
        finish_reason: The finish reason.
        usage: The usage; left out if ``None``.
        model: The model's name.
        id: The completion's id.
    """
    choices: list[dict[str, Any]] = []
    if delta is not None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, "token_ids": None}
        choices.append(choice if finish_reason is None else {**choice, "stop_reason": None})
    body: dict[str, Any] = {
        "id": id,
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": model,
        "choices": choices,
    }
    if usage is not None:
        body["usage"] = usage
    if usage is not None or finish_reason is not None:
        body["system_fingerprint"] = FINGERPRINT  # only the last chunk has it
    return body


def chat_chunks(
    content: str | Iterable[str] | None,
    *,
    reasoning: str | None = None,
    tool_calls: Sequence[dict[str, Any]] = (),
    finish_reason: str | None = "stop",
    usage: bool = False,
    model: str = MODEL,
    legacy_reasoning: bool = False,
) -> list[dict[str, Any]]:
    """Return the chunks of a streamed chat completion, role first, without ``[DONE]``.

    Args:
        content: The answer. A string is split into words; any other iterable gives one chunk per item.
        reasoning: The reasoning: one chunk before the answer.
        tool_calls: See ``tool_call``. Each becomes two chunks, as vLLM does: id, index and name, then the arguments.
        finish_reason: Finish reason of the last chunk with a choice; ``None`` leaves that chunk out.
        usage: Append the chunk that has usage and no choices.
        model: The model's name.
        legacy_reasoning: Use the field ``reasoning_content``, as vLLM 0.15 and older.
    """
    id = _id("chatcmpl")
    pieces = _words(content) if isinstance(content, str) else list(content or ())
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if reasoning is not None:
        deltas.append({"reasoning_content" if legacy_reasoning else "reasoning": reasoning})
    deltas += [{"content": piece} for piece in pieces]
    for index, call in enumerate(tool_calls):
        name = {**call, "index": index, "function": {"name": call["function"]["name"]}}
        arguments = {"index": index, "function": {"arguments": call["function"]["arguments"]}}
        deltas += [{"content": None, "tool_calls": [name]}, {"content": None, "tool_calls": [arguments]}]
    chunks = [chunk(delta, model=model, id=id) for delta in deltas]
    if finish_reason is not None:
        chunks.append(chunk({}, finish_reason=finish_reason, model=model, id=id))
    if usage:
        chunks[-1].pop("system_fingerprint", None)
        chunks.append(chunk(None, usage=_usage(7, len(pieces) or 1), model=model, id=id))
    return chunks


def completion(*texts: str, finish_reason: str | None = "stop", model: str = MODEL) -> dict[str, Any]:
    """Return a complete text completion, one choice per text."""
    return {
        "id": _id("cmpl"),
        "object": "text_completion",
        "created": _CREATED,
        "model": model,
        "choices": [_text_choice(i, text, finish_reason) for i, text in enumerate(texts)],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": _usage(7, sum(len(text.split()) for text in texts)),
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def completion_chunks(
    *texts: str, finish_reason: str | None = "stop", usage: bool = False, model: str = MODEL
) -> list[dict[str, Any]]:
    """Return the chunks of a streamed text completion, one choice per text, without ``[DONE]``."""
    frame = {"id": _id("cmpl"), "object": "text_completion", "created": _CREATED, "model": model}
    chunks: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        words = _words(text)
        for number, word in enumerate(words, start=1):
            reason = finish_reason if number == len(words) else None
            chunks.append({**frame, "choices": [_text_choice(index, word, reason)]})
    if usage:
        chunks.append({**frame, "choices": [], "usage": _usage(7, len(chunks))})
    chunks[-1]["system_fingerprint"] = FINGERPRINT
    return chunks


def vector(text: str, dims: int = 8) -> list[float]:
    """Return a vector that depends on the text alone; it is exact in 32 bits, so both encodings give the same."""
    digest = hashlib.sha256(text.encode()).digest()
    return [digest[i % len(digest)] / 256 - 0.5 for i in range(dims)]


def base64_vector(values: Sequence[float]) -> str:
    """Encode a vector as ``encoding_format: base64`` does: little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode("ascii")


def embeddings(vectors: Iterable[Any], *, indices: Sequence[int] | None = None, model: str = MODEL) -> dict[str, Any]:
    """Return the body of ``/v1/embeddings``.

    Args:
        vectors: Lists of numbers, base64 texts or ``None``; sent unchanged.
        indices: The ``index`` of each vector. Default: 0, 1, 2, ...
        model: The model's name.
    """
    rows = list(vectors)
    numbers = range(len(rows)) if indices is None else indices
    return {
        "id": _id("embd"),
        "object": "list",
        "created": _CREATED,
        "model": model,
        "data": [
            {"index": number, "object": "embedding", "embedding": row}
            for number, row in zip(numbers, rows, strict=True)
        ],
        "usage": _usage(len(rows), 0),
    }


def relevance(text: str) -> float:
    """Return the score that a healthy server gives a document; it depends on the text alone."""
    return vector(text, 1)[0] + 0.5


def ranking(documents: Sequence[str], *, top_n: int | None = None) -> list[tuple[int, float]]:
    """Return the (index, score) pairs of a healthy server's ranking, best first."""
    scored = [(index, relevance(document)) for index, document in enumerate(documents)]
    return sorted(scored, key=lambda pair: -pair[1])[: top_n or len(scored)]


def rerank(documents: Sequence[str], ranking: Iterable[tuple[int, float]], *, model: str = MODEL) -> dict[str, Any]:
    """Return the body of ``/rerank``.

    Args:
        documents: The documents of the request.
        ranking: (index, score) pairs; a result with an index out of range has an empty text.
        model: The model's name.
    """
    results = [
        {
            "index": index,
            "document": {
                "text": documents[index] if 0 <= index < len(documents) else "",
                "multi_modal": None,
            },
            "relevance_score": relevance,
        }
        for index, relevance in ranking
    ]
    usage = {"prompt_tokens": len(documents), "total_tokens": len(documents)}
    return {"id": _id("score"), "model": model, "usage": usage, "results": results}


def score(scores: Iterable[float], *, model: str = MODEL) -> dict[str, Any]:
    """Return the body of ``/score``."""
    data = [{"index": i, "object": "score", "score": value} for i, value in enumerate(scores)]
    return {**_list("score", len(data), model), "data": data}


def classification(labels: Iterable[str], *, model: str = MODEL) -> dict[str, Any]:
    """Return the body of ``/classify``, with two classes."""
    data = [{"index": i, "label": label, "probs": [0.75, 0.25], "num_classes": 2} for i, label in enumerate(labels)]
    return {**_list("classify", len(data), model), "data": data}


def tokenized(text: str, *, max_model_len: int = 4096) -> dict[str, Any]:
    """Return the body of ``/tokenize``, with one token per word."""
    words = text.split()
    tokens = [sum(word.encode()) for word in words]
    return {"count": len(tokens), "max_model_len": max_model_len, "tokens": tokens, "token_strs": None}


def _list(prefix: str, count: int, model: str) -> dict[str, Any]:
    return {
        "id": _id(prefix),
        "object": "list",
        "created": _CREATED,
        "model": model,
        "usage": _usage(count, 0),
    }


def _text_choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": finish_reason,
        "stop_reason": None,
        "token_ids": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "routed_experts": None,
    }


def _words(text: str) -> list[str]:
    words = text.split(" ")
    return [word if index == 0 else f" {word}" for index, word in enumerate(words)]
