"""What vLLM's own endpoints answer, as small typed objects; each reply is checked before it is one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from vllm_adapters.errors import ModelNotServed

if TYPE_CHECKING:
    import numpy as np

    from vllm_adapters.errors import VLLMError


R = TypeVar("R")
T = TypeVar("T")

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


@dataclass
class Embedded:
    """The vectors of many texts.

    Args:
        vectors: float32 array of shape (number of texts, dimensions), in the order of the texts; NaN in the rows
            of texts that failed. Shape (number of texts, 0) if none succeeded.
        prompt_tokens: Tokens that the server counted, over all requests.
        failures: The error of each text that failed, by its position; empty unless ``keep_going`` was asked for.
    """

    vectors: np.ndarray[Any, Any]
    prompt_tokens: int = 0
    failures: dict[int, VLLMError] = field(default_factory=dict)


@dataclass(frozen=True)
class ToolCall:
    """One tool call of a reply.

    Args:
        index: Its place among the calls of the reply.
        id: The server's name for the call; empty if it gave none.
        name: The tool's name; empty if the reply ended before it.
        text: The arguments as they came.
        arguments: The arguments as a dict; ``None`` for a broken call.
        error: What is wrong with it; ``None`` for a whole call.
    """

    index: int
    id: str
    name: str
    text: str
    arguments: dict[str, Any] | None
    error: str | None = None

    @classmethod
    def read(cls, index: int, id: str | None, name: str | None, text: str | None, *, cut: bool = False) -> ToolCall:
        """A call from its parts.

        Args:
            index: Its place among the calls of the reply.
            id: The server's name for the call.
            name: The tool's name.
            text: The arguments, JSON; nothing at all stands for no arguments.
            cut: Whether the reply ended while this call was being made.
        """
        arguments: Any = None
        error = None
        text = text or ""
        try:
            arguments = json.loads(text, parse_constant=_refuse) if text.strip() or cut else {}
        except (ValueError, RecursionError) as reason:  # a model that goes in circles opens brackets without end
            error = f"The arguments are not JSON ({reason})"
        if cut:
            error = "The reply was cut short while this call was being made"
        elif error is None and not isinstance(arguments, dict):
            error = f"The arguments are not a JSON object but {type(arguments).__name__}"
        elif not name:
            error = "The call names no tool"
        return cls(index, id or "", name or "", text, None if error else arguments, error)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, which JSON does not have")
