"""``VLLMTextEmbedder`` and ``VLLMDocumentEmbedder``: Haystack's embedders for vLLM."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, ClassVar

from haystack import Document, component
from haystack.utils import Secret

from vllm_adapters._request.counts import check_count
from vllm_adapters.embedder import Embedder
from vllm_adapters.errors import ContextLengthExceeded
from vllm_adapters.haystack._component import API_KEY, VLLMComponent, check_documents, check_fields, texts_with_meta
from vllm_adapters.server import VLLMServer
from vllm_adapters.timeouts import Timeouts
from vllm_adapters.types import Embedded

log = logging.getLogger(__name__)

_RESERVED = ("model", "input", "encoding_format")


class _EmbedderComponent(VLLMComponent):
    """Base class of both embedders."""

    def __init__(
        self,
        *,
        prefix: str,
        suffix: str,
        dimensions: int | None,
        extra_parameters: dict[str, Any] | None,
        **connection: Any,
    ) -> None:
        VLLMComponent.__init__(self, **connection)
        if dimensions is not None and (isinstance(dimensions, bool) or not isinstance(dimensions, int)):
            raise TypeError(f"`dimensions` must be an int, not {type(dimensions).__name__}.")
        self._check_parameters("embeddings", extra_parameters, _RESERVED)
        self.prefix = prefix
        self.suffix = suffix
        self.dimensions = dimensions
        self.extra_parameters = extra_parameters

    def _embedder(self, **options: int) -> Embedder:
        dimensions = {} if self.dimensions is None else {"dimensions": self.dimensions}
        parameters = {**dimensions, **self._parameters(self.extra_parameters)}
        return Embedder(self._connected_server(), **options, parameters=parameters)

    def _meta(self, embedded: Embedded) -> dict[str, Any]:
        usage = {"prompt_tokens": embedded.prompt_tokens, "total_tokens": embedded.prompt_tokens}
        return {"model": self._model_name, "usage": usage}


@component
class VLLMTextEmbedder(_EmbedderComponent):
    """Haystack's text embedder for a vLLM server: embeds one text, such as a query.

    >>> from vllm_adapters.haystack import VLLMTextEmbedder
    >>> embedder = VLLMTextEmbedder(api_base_url="http://localhost:8000")  # vllm serve an embedding model
    >>> len(embedder.run("Which city is the capital of Japan?")["embedding"])
    384

    Args:
        model: Served model name; default: the one base model that the server serves.
        api_key: Key of ``vllm serve --api-key``; default: ``VLLM_API_KEY``, if it is set. Read by ``warm_up``.
        api_base_url: The server, with or without ``/v1``; default: ``VLLM_BASE_URL``, else
            ``http://localhost:8000/v1``. The default is saved as null: a loaded component has that of its place.
        prefix: Text before each text, such as the instruction that many models want for queries.
        suffix: Text after each text.
        dimensions: Dimensions of the vectors, for models trained to have them shortened (Matryoshka).
        timeout: Seconds, ``Timeouts``, or ``{"connect": 30, "idle": 600, "total": 3600}``, which are the defaults.
        max_retries: Further attempts after connection errors, 429 and 5xx; default 2.
        http_client_kwargs: Arguments of the HTTP clients, such as ``proxy``, ``verify`` or ``headers``. Credentials
            among them may be Secrets; those that are not are neither saved nor pickled.
        extra_parameters: vLLM's own parameters, such as ``{"truncate_prompt_tokens": -1}``, which truncates texts to
            the model's context.
        default_headers: Headers of every request; values may be Secrets, as in ``http_client_kwargs``.
        default_query: Query parameters of every request; keys among them may be Secrets, too.
        server: A ``VLLMServer`` to use in place of address, key, timeout and retries. It is not saved: a loaded
            component has its address, timeout and retries, and its own key.
        server_version: The server's vLLM version, for gateways that do not pass on ``/version``.
        allow_unknown: Let parameters pass that no vLLM version has, for servers with plugins.
        validate_model_on_init: Have ``warm_up`` ask the server whether it serves the model: one request, and an error
            that names what it serves.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        api_key: Secret | None = API_KEY,
        api_base_url: str | None = None,
        prefix: str = "",
        suffix: str = "",
        dimensions: int | None = None,
        timeout: float | Timeouts | dict[str, float | None] | None = None,
        max_retries: int | None = None,
        http_client_kwargs: dict[str, Any] | None = None,
        extra_parameters: dict[str, Any] | None = None,
        default_headers: Mapping[str, str | Secret] | None = None,
        default_query: dict[str, Any] | None = None,
        server: VLLMServer | None = None,
        server_version: str | None = None,
        allow_unknown: bool = False,
        validate_model_on_init: bool = False,
    ) -> None:
        _EmbedderComponent.__init__(
            self,
            model=model,
            api_key=api_key,
            api_base_url=api_base_url,
            timeout=timeout,
            max_retries=max_retries,
            http_client_kwargs=http_client_kwargs,
            default_headers=default_headers,
            default_query=default_query,
            server=server,
            server_version=server_version,
            allow_unknown=allow_unknown,
            validate_model_on_init=validate_model_on_init,
            prefix=prefix,
            suffix=suffix,
            dimensions=dimensions,
            extra_parameters=extra_parameters,
        )

    def _texts(self, text: str) -> list[str]:
        if not isinstance(text, str):
            raise TypeError(
                "VLLMTextEmbedder expects a string as an input. To embed Documents, use VLLMDocumentEmbedder."
            )
        return [self.prefix + text + self.suffix]

    def _output(self, embedded: Embedded) -> dict[str, Any]:
        return {"embedding": embedded.vectors[0].tolist(), "meta": self._meta(embedded)}

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """Embed one text.

        Args:
            text: The text.

        Returns:
            ``{"embedding": [...], "meta": {"model", "usage"}}``.

        Raises:
            VLLMError: On every failure, see ``vllm_adapters.errors``.
        """
        texts = self._texts(text)
        self.warm_up()
        return self._output(self._embedder().embed(texts))

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        """Async version of ``run``."""
        texts = self._texts(text)
        await self.warm_up_async()
        return self._output(await self._embedder().aembed(texts))


@component
class VLLMDocumentEmbedder(_EmbedderComponent):
    """Haystack's document embedder for a vLLM server: batched and concurrent requests, vectors by position.

    >>> from haystack import Document
    >>> from vllm_adapters.haystack import VLLMDocumentEmbedder
    >>> embedder = VLLMDocumentEmbedder(  # vllm serve an embedding model
    ...     api_base_url="http://localhost:8000", progress_bar=False
    ... )
    >>> found = embedder.run([Document(content="Tokyo is the capital of Japan.")])
    >>> len(found["documents"][0].embedding)
    384

    Args:
        model: Served model name; default: the one base model that the server serves.
        api_key: Key of ``vllm serve --api-key``; default: ``VLLM_API_KEY``, if it is set. Read by ``warm_up``.
        api_base_url: The server, with or without ``/v1``; default: ``VLLM_BASE_URL``, else
            ``http://localhost:8000/v1``. The default is saved as null: a loaded component has that of its place.
        prefix: Text before each text.
        suffix: Text after each text.
        dimensions: Dimensions of the vectors, for models trained to have them shortened (Matryoshka).
        batch_size: Documents in one request; default 256.
        progress_bar: Show a progress bar on standard error.
        meta_fields_to_embed: Fields of the documents' meta to embed before their text.
        embedding_separator: Text between those fields and the text.
        timeout: Seconds, ``Timeouts``, or ``{"connect": 30, "idle": 600, "total": 3600}``, which are the defaults.
        max_retries: Further attempts after connection errors, 429 and 5xx; default 2.
        http_client_kwargs: Arguments of the HTTP clients, such as ``proxy``, ``verify`` or ``headers``. Credentials
            among them may be Secrets; those that are not are neither saved nor pickled.
        raise_on_failure: Raise when a document fails. By default such a document is returned as it was, without an
            embedding or with its old one, and listed in ``meta["failures"]``; one line is logged for all of them. An
            error that leaves no document embedded, such as an unreachable server or an invalid parameter, is raised
            nevertheless, unless all documents are too long. After three errors in a row that do not depend on the
            documents, the remaining ones are not sent.
        extra_parameters: vLLM's own parameters, such as ``{"truncate_prompt_tokens": -1}``, which truncates texts to
            the model's context.
        max_concurrency: Concurrent requests, in ``run`` as in ``run_async``. The default costs the client the least
            CPU; servers with many GPUs need more.
        default_headers: Headers of every request; values may be Secrets, as in ``http_client_kwargs``.
        default_query: Query parameters of every request; keys among them may be Secrets, too.
        server: A ``VLLMServer`` to use in place of address, key, timeout and retries. It is not saved: a loaded
            component has its address, timeout and retries, and its own key.
        server_version: The server's vLLM version, for gateways that do not pass on ``/version``.
        allow_unknown: Let parameters pass that no vLLM version has, for servers with plugins.
        validate_model_on_init: Have ``warm_up`` ask the server whether it serves the model: one request, and an error
            that names what it serves.
    """

    _saved_if_set: ClassVar[frozenset[str]] = VLLMComponent._saved_if_set | {"max_concurrency"}

    def __init__(
        self,
        *,
        model: str | None = None,
        api_key: Secret | None = API_KEY,
        api_base_url: str | None = None,
        prefix: str = "",
        suffix: str = "",
        dimensions: int | None = None,
        batch_size: int = 256,
        progress_bar: bool = True,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        timeout: float | Timeouts | dict[str, float | None] | None = None,
        max_retries: int | None = None,
        http_client_kwargs: dict[str, Any] | None = None,
        raise_on_failure: bool = False,
        extra_parameters: dict[str, Any] | None = None,
        max_concurrency: int = 2,
        default_headers: Mapping[str, str | Secret] | None = None,
        default_query: dict[str, Any] | None = None,
        server: VLLMServer | None = None,
        server_version: str | None = None,
        allow_unknown: bool = False,
        validate_model_on_init: bool = False,
    ) -> None:
        _EmbedderComponent.__init__(
            self,
            model=model,
            api_key=api_key,
            api_base_url=api_base_url,
            timeout=timeout,
            max_retries=max_retries,
            http_client_kwargs=http_client_kwargs,
            default_headers=default_headers,
            default_query=default_query,
            server=server,
            server_version=server_version,
            allow_unknown=allow_unknown,
            validate_model_on_init=validate_model_on_init,
            prefix=prefix,
            suffix=suffix,
            dimensions=dimensions,
            extra_parameters=extra_parameters,
        )
        for name, size in (("batch_size", batch_size), ("max_concurrency", max_concurrency)):
            check_count(name, size)
        self.batch_size = batch_size
        self.progress_bar = progress_bar
        self.meta_fields_to_embed = check_fields("meta_fields_to_embed", meta_fields_to_embed)
        self.embedding_separator = embedding_separator
        self.raise_on_failure = raise_on_failure
        self.max_concurrency = max_concurrency

    def _texts(self, documents: Sequence[Document]) -> list[str]:
        check_documents(
            documents,
            "VLLMDocumentEmbedder expects a list of Documents as input. To embed a string, use VLLMTextEmbedder.",
        )
        texts = texts_with_meta(documents, self.meta_fields_to_embed, self.embedding_separator)
        return [self.prefix + text + self.suffix for text in texts]

    def _batch_embedder(self) -> Embedder:
        return self._embedder(batch_size=self.batch_size, max_concurrency=self.max_concurrency)

    def _embed_options(self) -> dict[str, Any]:
        progress = "Calculating embeddings" if self.progress_bar else None
        return {"keep_going": not self.raise_on_failure, "progress": progress}

    def _output(self, documents: Sequence[Document], embedded: Embedded) -> dict[str, Any]:
        failures = embedded.failures
        others = [error for error in failures.values() if not isinstance(error, ContextLengthExceeded)]
        if others and len(failures) == len(documents):
            raise others[0]
        vectors = embedded.vectors.tolist()
        meta = self._meta(embedded)
        if failures:
            meta["failures"] = [
                {"index": at, "id": documents[at].id, "error": str(error)} for at, error in failures.items()
            ]
            log.error(
                "%d of %d documents were not embedded, see meta['failures']. The first is document %d (id %s): %s",
                len(failures),
                len(documents),
                *meta["failures"][0].values(),
            )
        return {
            "documents": [
                copy(document) if at in failures else _with_embedding(document, vectors[at])
                for at, document in enumerate(documents)
            ],
            "meta": meta,
        }

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Embed documents.

        Args:
            documents: Any number of documents; they are copied.

        Returns:
            ``{"documents": [...], "meta": {"model", "usage"}}``, and ``failures`` in ``meta`` if there are any:
            ``index``, ``id`` and ``error`` of each document that was not embedded, and keeps the embedding it had.

        Raises:
            VLLMError: See ``raise_on_failure``.
        """
        texts = self._texts(documents)
        if not texts:
            return {"documents": [], "meta": {}}
        self.warm_up()
        return self._output(documents, self._batch_embedder().embed(texts, **self._embed_options()))

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Async version of ``run``."""
        texts = self._texts(documents)
        if not texts:
            return {"documents": [], "meta": {}}
        await self.warm_up_async()
        return self._output(documents, await self._batch_embedder().aembed(texts, **self._embed_options()))


def _with_embedding(document: Document, embedding: list[float]) -> Document:
    """Return a copy of a document; ``dataclasses.replace`` would hash and validate the whole document again."""
    copied = object.__new__(type(document))
    vars(copied).update(vars(document), embedding=embedding)
    return copied
