"""``VLLMEmbedding``: LlamaIndex's embedding model for vLLM."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.instrumentation.span import active_span_id
from llama_index.core.storage.kvstore.types import BaseKVStore
from llama_index_instrumentation import get_dispatcher
from pydantic import ConfigDict, Field

from vllm_adapters._request.body import set_fields
from vllm_adapters.embedder import Embedder
from vllm_adapters.errors import InvalidRequest, VLLMError
from vllm_adapters.llamaindex._connection import Connection, run_briefly
from vllm_adapters.params import EmbeddingParams
from vllm_adapters.timeouts import Timeouts
from vllm_adapters.types import Embedded

dispatcher = get_dispatcher(__name__)

log = logging.getLogger(__name__)

Vectors = list[list[float]]

_COLLECTION = "embeddings"
_LOOK_UP = Timeouts(connect=5, idle=10, total=10)


class EmbeddingUsageEvent(BaseEvent):
    """The token usage of one call, as the server counted it.

    Args:
        model_name: Served model name.
        texts: Number of texts.
        prompt_tokens: Tokens of the texts.
        embedding_span_id: The span of the call. ``span_id`` is ``None``: handlers that know LlamaIndex's own events
            only, such as OpenInference's, warn of every other event of a span.
    """

    model_config = ConfigDict(protected_namespaces=("pydantic_model_",))
    span_id: str | None = None
    embedding_span_id: str | None = Field(default_factory=lambda: active_span_id.get())
    model_name: str
    texts: int
    prompt_tokens: int

    @classmethod
    def class_name(cls) -> str:
        """``"EmbeddingUsageEvent"``."""
        return "EmbeddingUsageEvent"


class VLLMEmbedding(EmbeddingParams, Connection, BaseEmbedding):
    """LlamaIndex's embedding model for a vLLM server: texts are sent unchanged, and each gets its vector, in order.

    >>> from vllm_adapters.llamaindex import VLLMEmbedding
    >>> embed_model = VLLMEmbedding(api_base="http://localhost:8000")  # vllm serve an embedding model
    >>> len(embed_model.get_query_embedding("What is the capital of France?"))
    384
    >>> len(embed_model.get_text_embedding_batch(["one", "two", "three"]))
    3

    Pass any parameter of vLLM flat, under vLLM's own name, such as ``truncate_prompt_tokens=-1`` for texts that are
    longer than the model's context. The server's token counts are emitted as ``EmbeddingUsageEvent``.

    Args:
        model_name: Served model name, also as ``model``; default: the one base model that is served.
        api_base: The server, as for ``VLLMClient``; also as ``base_url``. ``OPENAI_*`` is never read.
        embeddings_cache: A store that keeps vectors by model, parameters and role; available as ``cache``.
        fields: The fields of the class: connection, instructions, vLLM's parameters.

    Raises:
        UnknownParameter: A ``TypeError``: there is no such argument.
        ContextLengthExceeded: From calls: a text is too long.
        VLLMError: From calls, on every failure; it is also the openai error that is usual for it.
    """

    _endpoint: ClassVar[str] = "embeddings"
    _model_field: ClassVar[str] = "model_name"

    model_name: str = Field(default="", description="Served model name; default: the one base model that is served.")
    embed_batch_size: int = Field(default=256, gt=0, le=2048, description="Texts in one request.")
    num_workers: int = Field(default=8, ge=1, description="Concurrent requests.")
    query_instruction: str = Field(default="", description="Prefix of each query, unchanged.")
    text_instruction: str = Field(default="", description="Prefix of each text, unchanged.")
    dimensions: int | None = Field(default=None, ge=1, description="Dimensions of a Matryoshka model's vectors.")
    extra_body: dict[str, Any] = Field(default_factory=dict, description="Further fields of every request.")
    cache: BaseKVStore | None = Field(default=None, exclude=True, description="Keeps vectors.")

    if not TYPE_CHECKING:  # type checkers derive it from the fields

        def __init__(self, model_name: str = "", *, model: str = "", **fields: Any) -> None:
            self._reject_arguments(fields)
            if (store := fields.pop("embeddings_cache", None)) is not None:
                # LlamaIndex looks it up by text alone: a query would get a document's vector.
                fields["cache"] = store
            super().__init__(model_name=model_name or model, **fields)
            self._connect()

    @classmethod
    def class_name(cls) -> str:
        """``"VLLMEmbedding"``, for serialization."""
        return "VLLMEmbedding"

    @classmethod
    def _reject_arguments(cls, arguments: Mapping[str, Any]) -> None:
        super()._reject_arguments(arguments)
        for name in ("embed_dtype", "endianness"):
            if arguments.get(name) is not None:
                raise InvalidRequest(
                    f"`{name}` cannot be set: {cls.__name__} always requests base64 of float32",
                    hint="Use client.embeddings.create(), which takes it",
                    param=name,
                )

    def to_payload(self) -> dict[str, Any]:
        """Return the payload of instrumentation events."""
        return {**super().to_payload(), "model_name": self._served.model_name or "unknown"}

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return the fields; without a given name also the served model, by which ``IngestionCache`` finds vectors.

        It is looked up if it is not known; while an event loop runs, for 0.1 s at most.
        """
        if not self._served.model_name:
            run_briefly(self._look_up_model)
        dumped: dict[str, Any] = super().to_dict(**kwargs)
        return dumped

    def _look_up_model(self) -> None:
        try:
            self._served.client.with_options(timeout=_LOOK_UP, max_retries=0).vllm.served_model()
        except VLLMError as error:  # the call that embeds will raise it
            log.debug("The served model is unknown: %s", error)

    # LlamaIndex's hooks: one text, or those of one batch

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

    # Many texts. The base class sends one batch after the other, or all at once when it is async.

    def get_text_embedding_batch(self, texts: list[str], show_progress: bool = False, **kwargs: Any) -> Vectors:
        """Return the vectors of any number of texts, in order.

        Args:
            texts: Sent in requests of ``embed_batch_size`` texts, ``num_workers`` of them concurrently.
            show_progress: Show a progress bar on standard error.
            kwargs: Not used.

        Raises:
            TypeError: ``texts`` is one text, or one of them is not a text.
        """
        _check_texts(texts)
        if self.rate_limiter is not None:  # it counts batches
            return super().get_text_embedding_batch(texts, show_progress, **kwargs)
        if not self._served.model_name:
            self._served.client.vllm.served_model()
        with self._events(texts) as vectors:
            vectors += self._embed("text", texts, show_progress)
        return vectors

    async def aget_text_embedding_batch(self, texts: list[str], show_progress: bool = False, **kwargs: Any) -> Vectors:
        """Async version of ``get_text_embedding_batch``."""
        _check_texts(texts)
        if self.rate_limiter is not None:
            return await super().aget_text_embedding_batch(texts, show_progress, **kwargs)
        if not self._served.model_name:
            await self._served.async_client.vllm.served_model()
        with self._events(texts) as vectors:
            vectors += await self._aembed("text", texts, show_progress)
        return vectors

    def get_agg_embedding_from_queries(
        self, queries: list[str], agg_fn: Callable[..., list[float]] | None = None
    ) -> list[float]:
        """Return one vector for several queries.

        Args:
            queries: The queries.
            agg_fn: How their vectors become one; default: their mean.

        Raises:
            TypeError: ``queries`` is one text, or one of them is not a text.
        """
        _check_texts(queries, "queries")
        vector: list[float] = super().get_agg_embedding_from_queries(queries, agg_fn)
        return vector

    async def aget_agg_embedding_from_queries(
        self, queries: list[str], agg_fn: Callable[..., list[float]] | None = None
    ) -> list[float]:
        """Async version of ``get_agg_embedding_from_queries``."""
        _check_texts(queries, "queries")
        vector: list[float] = await super().aget_agg_embedding_from_queries(queries, agg_fn)
        return vector

    @contextmanager
    def _events(self, texts: Sequence[str]) -> Iterator[Vectors]:
        """Emit LlamaIndex's events around the block, which fills the list with the vectors."""
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
            inputs = self._with_instruction(role, texts)
            return self._vectors(texts, self._embedder.embed(inputs, progress=_title(show_progress)))
        keys = self._cache_keys(self._served.model or self._served.client.vllm.served_model(), role, texts)
        cached = _CachedVectors([self.cache.get(key, _COLLECTION) for key in keys], texts)
        if cached.missing:
            inputs = self._with_instruction(role, cached.missing)
            vectors = self._vectors(cached.missing, self._embedder.embed(inputs, progress=_title(show_progress)))
            for index, value in cached.fill(vectors):
                self.cache.put(keys[index], value, _COLLECTION)
        return cached.vectors

    async def _aembed(self, role: str, texts: Sequence[str], show_progress: bool = False) -> Vectors:
        if self.cache is None:
            inputs = self._with_instruction(role, texts)
            return self._vectors(texts, await self._embedder.aembed(inputs, progress=_title(show_progress)))
        keys = self._cache_keys(self._served.model or await self._served.async_client.vllm.served_model(), role, texts)
        cached = _CachedVectors([await self.cache.aget(key, _COLLECTION) for key in keys], texts)
        if cached.missing:
            inputs = self._with_instruction(role, cached.missing)
            vectors = self._vectors(cached.missing, await self._embedder.aembed(inputs, progress=_title(show_progress)))
            for index, value in cached.fill(vectors):
                await self.cache.aput(keys[index], value, _COLLECTION)
        return cached.vectors

    @property
    def _embedder(self) -> Embedder:
        return Embedder(self._served, self.embed_batch_size, self.num_workers, self._parameters)

    @property
    def _parameters(self) -> dict[str, Any]:
        dimensions = {"dimensions": self.dimensions} if self.dimensions is not None else {}
        return {**set_fields(self, EmbeddingParams), **dimensions, **self.extra_body}

    def _with_instruction(self, role: str, texts: Sequence[str]) -> list[str]:
        _check_texts(texts)
        instruction = self.query_instruction if role == "query" else self.text_instruction
        return [instruction + text for text in texts]

    def _vectors(self, texts: Sequence[str], embedded: Embedded) -> Vectors:
        """Return the vectors as lists, and emit the usage."""
        name = self._served.model_name
        dispatcher.event(EmbeddingUsageEvent(model_name=name, texts=len(texts), prompt_tokens=embedded.prompt_tokens))
        vectors: Vectors = embedded.vectors.tolist()
        return vectors

    def _cache_keys(self, model: str, role: str, texts: Sequence[str]) -> list[str]:
        """Return the texts' keys in the cache: equal where the vectors are."""
        common = [self._served.base_url, model, role, self._parameters]
        return [
            hashlib.sha256(json.dumps([*common, text], sort_keys=True).encode()).hexdigest()
            for text in self._with_instruction(role, texts)
        ]


class _CachedVectors:
    """The vectors of some texts, as far as they are in a cache."""

    def __init__(self, cached: Sequence[Mapping[str, Any] | None], texts: Sequence[str]) -> None:
        self.vectors: Vectors = [next(iter(value.values())) if value else [] for value in cached]
        self._missing = [index for index, value in enumerate(cached) if not value]
        self.missing = [texts[index] for index in self._missing]

    def fill(self, vectors: Vectors) -> Iterator[tuple[int, dict[str, Any]]]:
        """Fill in the missing vectors; yield the index of each, and the value to store in LlamaIndex's form."""
        for index, vector in zip(self._missing, vectors, strict=True):
            self.vectors[index] = vector
            yield index, {str(uuid.uuid4()): vector}


def _check_texts(texts: object, name: str = "texts") -> None:
    """Raise unless ``texts`` is a sequence of texts: of one text, every character would get a vector.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TypeError(f"`{name}` must be a sequence of str, not {type(texts).__name__}. Pass [text].")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"`{name}[{index}]` must be a str, not {type(text).__name__}. Leave it out.")


def _title(show_progress: bool) -> str | None:
    return "Generating embeddings" if show_progress else None
