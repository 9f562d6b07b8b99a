"""Value objects that the methods of this package return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from vllm_adapters.errors import VLLMError

__all__ = ["Capabilities", "Classified", "Decision", "Embedded", "ModelCard", "Ranked", "Tokens", "ToolCall"]

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
        id: The name to request.
        max_model_len: Context length in tokens; ``None`` for a LoRA adapter, which has its base model's.
        root: Path or hub name that the server loaded.
        parent: Base model of a LoRA adapter.
    """

    id: str
    max_model_len: int | None = None
    root: str | None = None
    parent: str | None = None


@dataclass(frozen=True)
class Capabilities:
    """What a server can do.

    Args:
        version: vLLM version; ``None`` behind a gateway that hides it.
        models: The served models.
        max_model_len: Context length in tokens of the first base model.
        tasks: Such as ``chat``, ``embeddings``, ``rerank``, ``load_lora``.
        routes: Every path of the server, or of the gateway in front of it.
        hidden: What a gateway hides: ``"version"``, ``"tasks"`` (its routes are its own, or not known). Only a request
            shows then whether the server has a task.
    """

    version: str | None
    models: tuple[ModelCard, ...]
    max_model_len: int | None
    tasks: frozenset[str]
    routes: frozenset[str]
    hidden: frozenset[str] = frozenset()

    @classmethod
    def from_responses(
        cls, version: str | None, models: Sequence[ModelCard], paths: Mapping[str, Any] | None
    ) -> Capabilities:
        """Combine the responses of ``/version``, ``/v1/models`` and ``/openapi.json``; ``None`` if there was none."""
        lengths = [card.max_model_len for card in models if card.max_model_len is not None]
        routes = frozenset(paths or ())
        known = version is not None and paths is not None
        tasks = frozenset(task for route, task in _TASK_OF_ROUTE.items() if route in routes) if known else frozenset()
        hidden = ({"version"} if version is None else set()) | (set() if known else {"tasks"})
        return cls(version, tuple(models), lengths[0] if lengths else None, tasks, routes, frozenset(hidden))


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text.

    Args:
        ids: Token ids.
        max_model_len: The model's context length in tokens.
        strings: Each token's text, if ``return_token_strs=True`` was given.
    """

    ids: list[int]
    max_model_len: int
    strings: list[str] | None = None

    @property
    def count(self) -> int:
        """The number of tokens."""
        return len(self.ids)


@dataclass(frozen=True)
class Ranked:
    """One document of a ranking.

    Args:
        index: Its position among the documents of the request.
        score: Its relevance; higher is more relevant.
        text: Its text.
    """

    index: int
    score: float
    text: str


@dataclass(frozen=True)
class Classified:
    """The classification of one text.

    Args:
        label: The most probable class; ``None`` if the model has no names for its classes.
        probs: The probability of each class.
    """

    label: str | None
    probs: list[float]


@dataclass(frozen=True)
class Decision:
    """The answer to one question of ``decide``.

    Args:
        name: The question's name; ``None`` if it has none.
        answer: Of a predicate, the probability that it is true; of a choice, the most probable value; of a score, the
            expected level, counted from 0.
        probs: The probability of each choice or level, in the order of the question; of a predicate, that it is false
            and that it is true.
        confidence: The probability of the most probable choice or level among all tokens; ``None`` for a predicate.
    """

    name: str | None
    answer: str | bool | float
    probs: list[float]
    confidence: float | None = None


@dataclass
class Embedded:
    """The embeddings of many texts.

    Args:
        vectors: float32 array of shape (number of texts, dimensions), in the order of the texts; NaN in the rows
            of texts that failed. Shape (number of texts, 0) if none succeeded.
        prompt_tokens: Tokens that the server counted, over all requests.
        failures: The error of each text that failed, by its position; empty unless ``keep_going`` was given.
    """

    vectors: np.ndarray[Any, Any]
    prompt_tokens: int = 0
    failures: dict[int, VLLMError] = field(default_factory=dict)


@dataclass(frozen=True)
class ToolCall:
    """One tool call of a reply, complete or marked as invalid.

    Args:
        index: Its position among the tool calls of the reply.
        id: The server's id; empty if it gave none.
        name: The tool's name; empty if the reply ended before it.
        raw_arguments: The arguments as generated.
        arguments: The parsed arguments; ``None`` for an invalid call.
        error: Why the call is invalid; ``None`` for a complete one.
    """

    index: int
    id: str
    name: str
    raw_arguments: str
    arguments: dict[str, Any] | None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return an invalid call as frameworks store it: ``id``, ``name``, raw ``arguments`` and ``error``."""
        return {"id": self.id, "name": self.name, "arguments": self.raw_arguments, "error": self.error}
