"""``VLLMEmbedding``: LlamaIndex's embedding model on vLLM."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.storage.kvstore.types import BaseKVStore
from llama_index_instrumentation import get_dispatcher
from pydantic import ConfigDict, Field

from vllm_adapters.embedder import Embedder
from vllm_adapters.llamaindex._connection import Connection
from vllm_adapters.params import EmbeddingParams, wire
from vllm_adapters.server import VLLMServer
from vllm_adapters.types import Embedded

dispatcher = get_dispatcher(__name__)

Vectors = list[list[float]]

_COLLECTION = "embeddings"


class EmbeddingUsageEvent(BaseEvent):
    """What some texts cost, as the server counted it.

    Args:
        model_name: Served model name.
        texts: How many texts.
        prompt_tokens: Their tokens.
    """

    model_config = ConfigDict(protected_namespaces=("pydantic_model_",))
    model_name: str
    texts: int
    prompt_tokens: int

    @classmethod
    def class_name(cls) -> str:
        """``"EmbeddingUsageEvent"``."""
        return "EmbeddingUsageEvent"


class VLLMEmbedding(EmbeddingParams, Connection, BaseEmbedding):
    """LlamaIndex's embedding model for a vLLM server: texts as they are, vectors in order, one for each.

    >>> from vllm_adapters.llamaindex import VLLMEmbedding
    >>> embed_model = VLLMEmbedding(api_base="http://localhost:8000")  # vllm serve an embedding model
    >>> len(embed_model.get_query_embedding("What is the capital of France?"))
    384
    >>> len(embed_model.get_text_embedding_batch(["one", "two", "three"]))
    3

    Every parameter of vLLM is given flat, under vLLM's own name, such as ``truncate_prompt_tokens=-1`` for texts
    longer than the model takes. What the server counted is told to listeners as ``EmbeddingUsageEvent``.

    Args:
        model_name: Served model name, also as ``model``; default: the one base model that the server serves.
        api_base: The server, as for ``VLLMClient``; also as ``base_url``. ``OPENAI_*`` is never read.
        embeddings_cache: A store that keeps vectors, by model, parameters and role; found as ``cache``.
        fields: See the fields of the class: connection, instructions, vLLM's parameters.

    Raises:
        UnknownParameter: A ``TypeError``: no such argument.
        ContextLengthExceeded: A text is too long, from calls.
        VLLMError: From calls, on every failure; also the openai error that is usual for it.
    """

    _endpoint: ClassVar[str] = "embeddings"

    model_name: str = Field(default="", description="Served model name; default: the one base model that is served.")
    embed_batch_size: int = Field(default=64, gt=0, le=2048, description="Texts in one request.")
    num_workers: int = Field(default=8, ge=1, description="Requests under way at once.")
    query_instruction: str = Field(default="", description="Goes before each query, as it is.")
    text_instruction: str = Field(default="", description="Goes before each text, as it is.")
    dimensions: int | None = Field(
        default=None, ge=1, description="Length of the vectors, of models trained to be cut (Matryoshka)."
    )
    cache: BaseKVStore | None = Field(default=None, exclude=True, description="Keeps vectors.")

    if not TYPE_CHECKING:  # type checkers make it from the fields

        def __init__(self, model_name: str = "", *, model: str = "", **fields: Any) -> None:
            fields = self._checked({"model_name": model_name or model, **fields})
            if (store := fields.pop("embeddings_cache", None)) is not None:
                # LlamaIndex's own use of it asks by text alone: a query would get a document's vector.
                fields["cache"] = store
            super().__init__(**fields)
            self._connect(self.model_name)

    @classmethod
    def class_name(cls) -> str:
        """``"VLLMEmbedding"``, for serialization."""
        return "VLLMEmbedding"

    # One text, or those of one call

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed("query", [query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._aembed("query", [query]))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed("text", [text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aembed("text", [text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> Vectors:
        return self._embed("text", texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> Vectors:
        return await self._aembed("text", texts)

    # Many texts: LlamaIndex's own loop sends batch after batch, and all at once when it is async.

    def get_text_embedding_batch(self, texts: list[str], show_progress: bool = False, **kwargs: Any) -> Vectors:
        """The vectors of any number of texts, in order; ``num_workers`` requests of ``embed_batch_size`` at once."""
        if self.rate_limiter is not None:  # which counts batches
            return super().get_text_embedding_batch(texts, show_progress, **kwargs)
        with self._told(texts) as vectors:
            vectors += self._embed("text", texts, show_progress)
        return vectors

    async def aget_text_embedding_batch(self, texts: list[str], show_progress: bool = False, **kwargs: Any) -> Vectors:
        """``get_text_embedding_batch``, to await."""
        if self.rate_limiter is not None:
            return await super().aget_text_embedding_batch(texts, show_progress, **kwargs)
        with self._told(texts) as vectors:
            vectors += await self._aembed("text", texts, show_progress)
        return vectors

    @contextmanager
    def _told(self, texts: Sequence[str]) -> Iterator[Vectors]:
        """LlamaIndex's events around the vectors that are put into the list."""
        payload = self.to_payload()
        dispatcher.event(EmbeddingStartEvent(model_dict=payload))
        with self.callback_manager.event(CBEventType.EMBEDDING, payload={EventPayload.SERIALIZED: payload}) as event:
            vectors: Vectors = []
            yield vectors
            event.on_end(payload={EventPayload.CHUNKS: list(texts), EventPayload.EMBEDDINGS: vectors})
        dispatcher.event(EmbeddingEndEvent(chunks=list(texts), embeddings=vectors))

    # Requests

    def _embed(self, role: str, texts: Sequence[str], show_progress: bool = False) -> Vectors:
        if self.cache is None:
            return self._read(
                texts, self._embedder.embed(self._instructed(role, texts), progress=_title(show_progress))
            )
        keys = self._keys(self._asked.model or self._asked.client.served_model(), role, texts)
        known = _Known([self.cache.get(key, _COLLECTION) for key in keys], texts)
        if known.missing:
            asked = self._instructed(role, known.missing)
            found = self._read(known.missing, self._embedder.embed(asked, progress=_title(show_progress)))
            for place, value in known.take(found):
                self.cache.put(keys[place], value, _COLLECTION)
        return known.vectors

    async def _aembed(self, role: str, texts: Sequence[str], show_progress: bool = False) -> Vectors:
        if self.cache is None:
            asked = self._instructed(role, texts)
            return self._read(texts, await self._embedder.aembed(asked, progress=_title(show_progress)))
        keys = self._keys(self._asked.model or await self._asked.async_client.served_model(), role, texts)
        known = _Known([await self.cache.aget(key, _COLLECTION) for key in keys], texts)
        if known.missing:
            asked = self._instructed(role, known.missing)
            found = self._read(known.missing, await self._embedder.aembed(asked, progress=_title(show_progress)))
            for place, value in known.take(found):
                await self.cache.aput(keys[place], value, _COLLECTION)
        return known.vectors

    @property
    def _asked(self) -> VLLMServer:
        return self._serving(self.model_name)

    @property
    def _embedder(self) -> Embedder:
        return Embedder(self._asked, self.embed_batch_size, self.num_workers, self._parameters)

    @property
    def _parameters(self) -> dict[str, Any]:
        named = {"dimensions": self.dimensions} if self.dimensions is not None else {}
        return {**wire(self, EmbeddingParams), **named}

    def _instructed(self, role: str, texts: Sequence[str]) -> list[str]:
        instruction = self.query_instruction if role == "query" else self.text_instruction
        return [instruction + text for text in texts]

    def _read(self, texts: Sequence[str], found: Embedded) -> Vectors:
        model = self._asked.model or self._asked.client.facts.model or ""
        dispatcher.event(EmbeddingUsageEvent(model_name=model, texts=len(texts), prompt_tokens=found.prompt_tokens))
        vectors: Vectors = found.vectors.tolist()
        return vectors

    def _keys(self, model: str, role: str, texts: Sequence[str]) -> list[str]:
        """Names for vectors in the cache: the same only where the vector is."""
        asked = [self._asked.base_url, model, role, self._parameters]
        return [
            hashlib.sha256(json.dumps([*asked, text], sort_keys=True).encode()).hexdigest()
            for text in self._instructed(role, texts)
        ]


class _Known:
    """What a cache has of some texts, and what it lacks."""

    def __init__(self, cached: Sequence[Mapping[str, Any] | None], texts: Sequence[str]) -> None:
        self.vectors: Vectors = [next(iter(value.values())) if value else [] for value in cached]
        self._places = [place for place, value in enumerate(cached) if not value]
        self.missing = [texts[place] for place in self._places]

    def take(self, found: Vectors) -> Iterator[tuple[int, dict[str, Any]]]:
        """Put vectors in their places; yields each as the value that LlamaIndex's caches keep."""
        for place, vector in zip(self._places, found, strict=True):
            self.vectors[place] = vector
            yield place, {str(uuid.uuid4()): vector}


def _title(show_progress: bool) -> str | None:
    return "Generating embeddings" if show_progress else None
