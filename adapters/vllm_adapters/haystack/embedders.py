"""``VLLMTextEmbedder`` and ``VLLMDocumentEmbedder``: Haystack's embedders on vLLM."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar

from haystack import Document, component
from haystack.utils import Secret

from vllm_adapters.embedder import Embedder
from vllm_adapters.errors import ContextLengthExceeded
from vllm_adapters.haystack._component import API_KEY, NAMESPACE, Connected, refuse_own, with_meta
from vllm_adapters.server import VLLMServer
from vllm_adapters.types import Embedded

log = logging.getLogger("vllm_adapters")

_OWN = ("model", "input", "encoding_format")


class _Embeds(Connected):
    """What both embedders share."""

    prefix: str
    suffix: str
    dimensions: int | None
    extra_parameters: dict[str, Any] | None

    def _embed_like(
        self, prefix: str, suffix: str, dimensions: int | None, extra_parameters: dict[str, Any] | None
    ) -> None:
        refuse_own(extra_parameters, _OWN)
        self.prefix = prefix
        self.suffix = suffix
        self.dimensions = dimensions
        self.extra_parameters = extra_parameters

    def _embedder(self, **options: int) -> Embedder:
        dimensions = {} if self.dimensions is None else {"dimensions": self.dimensions}
        return Embedder(self._connect(), **options, parameters={**dimensions, **(self.extra_parameters or {})})

    def _meta(self, found: Embedded) -> dict[str, Any]:
        usage = {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens}
        return {"model": self._served(), "usage": usage}


@component
class VLLMTextEmbedder(_Embeds):
    """Embeds one text, such as a query, on a vLLM server.

    >>> from vllm_adapters.haystack import VLLMTextEmbedder
    >>> embedder = VLLMTextEmbedder(api_base_url="http://localhost:8000")  # vllm serve an embedding model
    >>> len(embedder.run("Which city is the capital of Japan?")["embedding"])
    384

    Args:
        model: Served model name; default: the one base model that the server serves.
        api_key: Key of ``vllm serve --api-key``; default: ``VLLM_API_KEY``, if it is set. Read by ``warm_up``.
        api_base_url: The server, with or without ``/v1``; default ``VLLM_BASE_URL``, else
            ``http://localhost:8000/v1``.
        prefix: Text before each text, such as the instruction that many models want for queries.
        suffix: Text behind each text.
        dimensions: Dimensions of the vectors, of models trained to be cut (Matryoshka).
        timeout: Seconds, or ``{"connect": 30, "idle": 600, "total": 3600}``, which are the defaults.
        max_retries: Further attempts after connection failures, 429 and 5xx; default 2.
        http_client_kwargs: Arguments of the HTTP clients, such as ``proxy``, ``verify`` or ``headers``, whose
            values may be Secrets; those that are not are neither saved nor pickled.
        extra_parameters: vLLM's own by their names, such as ``{"truncate_prompt_tokens": -1}``, which cuts texts
            to what the model can take.
        server: A ``VLLMServer`` to use instead of url, key, timeout and retries. It is not saved: a loaded
            component has its address and its own key.
        server_version: The server's vLLM version, where ``/version`` does not tell it.
    """

    __module__ = NAMESPACE

    def __init__(
        self,
        *,
        model: str | None = None,
        api_key: Secret | None = API_KEY,
        api_base_url: str | None = None,
        prefix: str = "",
        suffix: str = "",
        dimensions: int | None = None,
        timeout: float | dict[str, float | None] | None = None,
        max_retries: int | None = None,
        http_client_kwargs: dict[str, Any] | None = None,
        extra_parameters: dict[str, Any] | None = None,
        server: VLLMServer | None = None,
        server_version: str | None = None,
    ) -> None:
        self._place(model, server, api_key, api_base_url, timeout, max_retries, http_client_kwargs, server_version)
        self._embed_like(prefix, suffix, dimensions, extra_parameters)

    def _text(self, text: str) -> list[str]:
        if not isinstance(text, str):
            raise TypeError(
                "VLLMTextEmbedder expects a string as an input. VLLMDocumentEmbedder embeds a list of Documents."
            )
        return [self.prefix + text + self.suffix]

    def _output(self, found: Embedded) -> dict[str, Any]:
        return {"embedding": found.vectors[0].tolist(), "meta": self._meta(found)}

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
        texts = self._text(text)
        self.warm_up()
        return self._output(self._embedder().embed(texts))

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        """``run``, to await."""
        texts = self._text(text)
        await self.warm_up_async()
        return self._output(await self._embedder().aembed(texts))


@component
class VLLMDocumentEmbedder(_Embeds):
    """Embeds documents on a vLLM server: many in a request, several requests at a time, each vector to its document.

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
        api_base_url: The server, with or without ``/v1``; default ``VLLM_BASE_URL``, else
            ``http://localhost:8000/v1``.
        prefix: Text before each text.
        suffix: Text behind each text.
        dimensions: Dimensions of the vectors, of models trained to be cut (Matryoshka).
        batch_size: Documents in one request.
        progress_bar: Show a progress bar on standard error.
        meta_fields_to_embed: Fields of the documents' meta to embed before their text.
        embedding_separator: What stands between those fields and the text.
        timeout: Seconds, or ``{"connect": 30, "idle": 600, "total": 3600}``, which are the defaults.
        max_retries: Further attempts after connection failures, 429 and 5xx; default 2.
        http_client_kwargs: Arguments of the HTTP clients, such as ``proxy``, ``verify`` or ``headers``, whose
            values may be Secrets; those that are not are neither saved nor pickled.
        raise_on_failure: Raise when a document fails. Default: such documents come back without an embedding,
            logged and listed in ``meta["failures"]``. What leaves nothing embedded, such as a server that is not
            there or a wrong parameter, is raised all the same, unless it is that all documents are too long. When the
            server cannot be asked three times in a row, the others are not sent and fail, too.
        extra_parameters: vLLM's own by their names, such as ``{"truncate_prompt_tokens": -1}``, which cuts texts
            to what the model can take.
        max_concurrency: Requests under way at once, in ``run`` as in ``run_async``; default 2, which costs least
            CPU here. A server with many GPUs wants more.
        server: A ``VLLMServer`` to use instead of url, key, timeout and retries. It is not saved: a loaded
            component has its address and its own key.
        server_version: The server's vLLM version, where ``/version`` does not tell it.
    """

    __module__ = NAMESPACE
    _left_out: ClassVar[frozenset[str]] = frozenset({"max_concurrency", "server_version"})

    def __init__(
        self,
        *,
        model: str | None = None,
        api_key: Secret | None = API_KEY,
        api_base_url: str | None = None,
        prefix: str = "",
        suffix: str = "",
        dimensions: int | None = None,
        batch_size: int = 32,
        progress_bar: bool = True,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        timeout: float | dict[str, float | None] | None = None,
        max_retries: int | None = None,
        http_client_kwargs: dict[str, Any] | None = None,
        raise_on_failure: bool = False,
        extra_parameters: dict[str, Any] | None = None,
        max_concurrency: int = 2,
        server: VLLMServer | None = None,
        server_version: str | None = None,
    ) -> None:
        self._place(model, server, api_key, api_base_url, timeout, max_retries, http_client_kwargs, server_version)
        self._embed_like(prefix, suffix, dimensions, extra_parameters)
        self.batch_size = batch_size
        self.progress_bar = progress_bar
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator
        self.raise_on_failure = raise_on_failure
        self.max_concurrency = max_concurrency

    def _texts(self, documents: Sequence[Document]) -> list[str]:
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise TypeError(
                "VLLMDocumentEmbedder expects a list of Documents as input. VLLMTextEmbedder embeds a string."
            )
        plain = with_meta(documents, self.meta_fields_to_embed, self.embedding_separator)
        return [self.prefix + text + self.suffix for text in plain]

    def _work(self) -> tuple[Embedder, dict[str, Any]]:
        embedder = self._embedder(batch_size=self.batch_size, max_concurrency=self.max_concurrency)
        progress = "Calculating embeddings" if self.progress_bar else None
        return embedder, {"keep_going": not self.raise_on_failure, "progress": progress}

    def _output(self, documents: Sequence[Document], found: Embedded) -> dict[str, Any]:
        others = [error for error in found.failures.values() if not isinstance(error, ContextLengthExceeded)]
        if others and len(found.failures) == len(documents):
            raise others[0]
        vectors = found.vectors.tolist()
        embedded = [
            _with(document, None if at in found.failures else vectors[at]) for at, document in enumerate(documents)
        ]
        meta = self._meta(found)
        if found.failures:
            meta["failures"] = [
                {"index": at, "id": documents[at].id, "error": str(error)} for at, error in found.failures.items()
            ]
            for failure in meta["failures"]:
                log.error("Document %(index)d (id %(id)s) has no embedding: %(error)s", failure)
        return {"documents": embedded, "meta": meta}

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Embed documents.

        Args:
            documents: Any number of documents; they are copied.

        Returns:
            ``{"documents": [...], "meta": {"model", "usage"}}``, and ``failures`` in ``meta`` if there are any:
            ``index``, ``id`` and ``error`` of each document that has no embedding.

        Raises:
            VLLMError: See ``raise_on_failure``.
        """
        texts = self._texts(documents)
        if not texts:
            return {"documents": [], "meta": {}}
        self.warm_up()
        embedder, how = self._work()
        return self._output(documents, embedder.embed(texts, **how))

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """``run``, to await."""
        texts = self._texts(documents)
        if not texts:
            return {"documents": [], "meta": {}}
        await self.warm_up_async()
        embedder, how = self._work()
        return self._output(documents, await embedder.aembed(texts, **how))


def _with(document: Document, embedding: list[float] | None) -> Document:
    copied = copy(document)
    vars(copied)["embedding"] = embedding  # ``dataclasses.replace`` would hash and check the whole document anew
    return copied
