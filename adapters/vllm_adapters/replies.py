"""What vLLM's own endpoints answer, as small typed objects; each reply is checked before it is one."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from vllm_adapters.answers import in_order, refuse_misshapen
from vllm_adapters.errors import ModelNotServed
from vllm_adapters.failures import Call, not_an_answer

if TYPE_CHECKING:
    import numpy as np

R = TypeVar("R")
T = TypeVar("T")
Reader: TypeAlias = Callable[[Any, Call, Any], R]

_TASK_OF_ROUTE = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
    "/rerank": "rerank",
    "/score": "score",
    "/classify": "classify",
    "/pooling": "pooling",
    "/v1/audio/transcriptions": "transcriptions",
    "/v1/audio/translations": "translations",
    "/v1/load_lora_adapter": "load_lora",
    "/tokenizer_info": "tokenizer_info",
}


@dataclass(frozen=True)
class ModelCard:
    """One served model name.

    Args:
        id: The name to ask for.
        max_model_len: Context length in tokens; ``None`` for a LoRA adapter, whose base model's holds.
        root: Path or hub name the server loaded.
        parent: Base model of a LoRA adapter.
    """

    id: str
    max_model_len: int | None = None
    root: str | None = None
    parent: str | None = None


def context_length(cards: Sequence[ModelCard], name: str, address: str) -> int | None:
    """Context length of a served model in tokens; a LoRA adapter's is its base model's.

    Args:
        cards: What the server serves.
        name: The model's name; empty for the first base model.
        address: The server's base URL, for the text of the error.

    Raises:
        ModelNotServed: There is no model of this name.
    """
    found = next((card for card in cards if (card.id == name if name else card.parent is None)), None)
    if found is None:
        served = tuple(card.id for card in cards)
        hint = f"It serves: {', '.join(served) or 'none'}"
        raise ModelNotServed(f"The model `{name}` is not served", hint=hint, address=address, served=served)
    base = [card for card in cards if found.parent is not None and found.parent in (card.id, card.root)]
    return next((card.max_model_len for card in (found, *base) if card.max_model_len), None)


@dataclass(frozen=True)
class Capabilities:
    """What a server can do.

    Args:
        version: vLLM version.
        models: What it serves.
        max_model_len: Context length in tokens of the first base model.
        tasks: Such as ``chat``, ``embeddings``, ``rerank``, ``load_lora``.
        routes: Every path it has mounted.
    """

    version: str
    models: tuple[ModelCard, ...]
    max_model_len: int | None
    tasks: frozenset[str]
    routes: frozenset[str]

    @classmethod
    def of(cls, version: str, models: Sequence[ModelCard], paths: Mapping[str, Any]) -> Capabilities:
        """From the replies of ``/version``, ``/v1/models`` and ``/openapi.json``."""
        lengths = [card.max_model_len for card in models if card.max_model_len is not None]
        tasks = frozenset(task for route, task in _TASK_OF_ROUTE.items() if route in paths)
        return cls(version, tuple(models), lengths[0] if lengths else None, tasks, frozenset(paths))


@dataclass(frozen=True)
class Tokens:
    """A text in the model's tokens.

    Args:
        ids: Token ids.
        max_model_len: The model's context length in tokens.
        strings: Each token's text, where ``return_token_strs=True`` asked for it.
    """

    ids: list[int]
    max_model_len: int
    strings: list[str] | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.ids)


@dataclass(frozen=True)
class Ranked:
    """One document of a ranking: its place in what was sent, its score, its text."""

    index: int
    score: float
    text: str


@dataclass(frozen=True)
class Classified:
    """One text's label (``None`` if the model names none) and the probability of each class."""

    label: str | None
    probs: list[float]


def read_models(reply: Mapping[str, Any], call: Call, response: Any) -> list[ModelCard]:
    """The cards of ``/v1/models``."""
    return [ModelCard(str(c["id"]), _length(c), _text(c, "root"), _text(c, "parent")) for c in reply["data"]]


def _length(card: Mapping[str, Any]) -> int | None:
    """The context length that a card tells; of gateways' cards not all have a number there."""
    length = card.get("max_model_len")
    return length if isinstance(length, int) and length > 0 else None


def _text(card: Mapping[str, Any], field: str) -> str | None:
    text = card.get(field)
    return text if isinstance(text, str) else None


def usage_of(reply: Mapping[str, Any], call: Call, response: Any) -> dict[str, Any]:
    """The reply's ``usage``, empty if it has none."""
    refuse_misshapen({"usage": reply.get("usage")}, call=call, response=response)
    return dict(reply.get("usage") or {})


def read_text(reply: str, call: Call, response: Any) -> str:
    """A reply of plain text."""
    return reply


def read_tokens(reply: Mapping[str, Any], call: Call, response: Any) -> Tokens:
    """The reply of ``/tokenize``."""
    return Tokens(_list_of(reply["tokens"], int), int(reply["max_model_len"]), reply.get("token_strs"))


def _list_of(values: Any, kind: type[T]) -> list[T]:
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise ValueError(f"no list of {kind.__name__}: {values!r:.80}")
    return values


def vectors_reader(count: int, dimensions: int | None = None) -> Reader[np.ndarray[Any, Any]]:
    """Reads ``count`` base64 vectors into one float32 array of shape (count, dimensions)."""

    def read(reply: Mapping[str, Any], call: Call, response: Any) -> np.ndarray[Any, Any]:
        import numpy as np

        items = [item["embedding"] for item in in_order(reply["data"], count, call=call, response=response)]
        if not all(isinstance(item, str) for item in items):
            block = np.asarray(items, dtype=np.float32)  # a gateway may not pass base64 on; ragged lists raise
        else:
            raw = [base64.b64decode(item, validate=True) for item in items]
            if len({len(vector) for vector in raw}) != 1:
                raise ValueError("vectors of different dimensions")
            block = np.frombuffer(b"".join(raw), dtype="<f4").reshape(count, -1)
        if block.ndim != 2 or block.shape[1] == 0 or not np.isfinite(block).all():
            raise not_an_answer("A vector is empty or holds NaN or infinity", call=call, response=response)
        if dimensions and block.shape[1] != dimensions:
            reason = f"The vectors have {block.shape[1]} dimensions, not the {dimensions} that were asked for"
            raise not_an_answer(reason, call=call, response=response)
        return block

    return read


def pooled_reader(count: int) -> Reader[list[np.ndarray[Any, Any]]]:
    """Reads the pooler's output for ``count`` texts."""

    def read(reply: Mapping[str, Any], call: Call, response: Any) -> list[np.ndarray[Any, Any]]:
        import numpy as np

        items = in_order(reply["data"], count, call=call, response=response)
        arrays = [np.asarray(item["data"], dtype=np.float32) for item in items]
        if not all(array.size and np.isfinite(array).all() for array in arrays):
            raise not_an_answer("An output is empty or holds NaN or infinity", call=call, response=response)
        return arrays

    return read


def classes_reader(count: int) -> Reader[list[Classified]]:
    """Reads label and probabilities of ``count`` texts."""

    def read(reply: Mapping[str, Any], call: Call, response: Any) -> list[Classified]:
        items = in_order(reply["data"], count, call=call, response=response)
        return [_classified(item, call, response) for item in items]

    return read


def _classified(item: Mapping[str, Any], call: Call, response: Any) -> Classified:
    label, probs = item.get("label"), [_finite(p, call, response) for p in item["probs"]]
    if not probs or not isinstance(label, str | None):
        raise ValueError(f"no class: {item!r:.80}")
    return Classified(label, probs)


def scores_reader(count: int) -> Reader[list[float]]:
    """Reads ``count`` scores, in the order of what was sent."""

    def read(reply: Mapping[str, Any], call: Call, response: Any) -> list[float]:
        items = in_order(reply["data"], count, call=call, response=response)
        return [_finite(item["score"], call, response) for item in items]

    return read


def ranking_reader(documents: Sequence[str], top_n: int | None) -> Reader[list[Ranked]]:
    """Reads a ranking of ``documents``, best first, which must name each document at most once."""
    expected = min(top_n or len(documents), len(documents))

    def read(reply: Mapping[str, Any], call: Call, response: Any) -> list[Ranked]:
        results = list(reply["results"])
        indices = [index(result["index"]) for result in results]
        if len(set(indices)) != expected or len(indices) != expected:
            reason = f"{len(set(indices))} different documents ranked in {len(indices)} results, not {expected}"
            raise not_an_answer(reason, call=call, response=response)
        if not all(0 <= index < len(documents) for index in indices):
            reason = f"An index is not of the {len(documents)} documents: {indices[:10]}"
            raise not_an_answer(reason, call=call, response=response)
        scores = [_finite(result["relevance_score"], call, response) for result in results]
        ranked = [Ranked(i, score, documents[i]) for i, score in zip(indices, scores, strict=True)]
        return sorted(ranked, key=lambda document: -document.score)

    return read


def _finite(value: Any, call: Call, response: Any) -> float:
    number = float(value) if isinstance(value, int | float) else math.nan
    if not math.isfinite(number):
        raise not_an_answer(f"A score is {value!r}", call=call, response=response)
    return number
