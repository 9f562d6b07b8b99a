"""``VLLMRanker``: Haystack's ranker for vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from haystack import Document, component
from haystack.utils import Secret

from vllm_adapters._client.endpoint import EndpointCall
from vllm_adapters.haystack._component import API_KEY, VLLMComponent, check_documents, check_fields, texts_with_meta
from vllm_adapters.server import VLLMServer
from vllm_adapters.timeouts import Timeouts
from vllm_adapters.types import Ranked

_RESERVED = ("model", "query", "documents", "top_n")


@component
class VLLMRanker(VLLMComponent):
    """Haystack's ranker for a vLLM server: sorts documents by their relevance to a query.

    >>> from haystack import Document
    >>> from vllm_adapters.haystack import VLLMRanker
    >>> ranker = VLLMRanker(api_base_url="http://localhost:8000", top_k=1)  # vllm serve a reranker
    >>> documents = [Document(content="Bread is baked."), Document(content="Tokyo is the capital city of Japan.")]
    >>> ranker.run("What is the capital of Japan?", documents)["documents"][0].content
    'Tokyo is the capital city of Japan.'

    Args:
        model: Served model name; default: the one base model that the server serves.
        api_key: Key of ``vllm serve --api-key``; default: ``VLLM_API_KEY``, if it is set. Read by ``warm_up``.
        api_base_url: The server, with or without ``/v1``; default: ``VLLM_BASE_URL``, else
            ``http://localhost:8000/v1``. The default is saved as null: a loaded component has that of its place.
        top_k: Maximum number of documents to return; default: all.
        score_threshold: Drop documents with a lower score; applied after ``top_k``.
        meta_fields_to_embed: Fields of the documents' meta to rank by, before their text.
        meta_data_separator: Text between those fields and the text.
        http_client_kwargs: Arguments of the HTTP clients, such as ``proxy``, ``verify`` or ``headers``. Credentials
            among them may be Secrets; those that are not are neither saved nor pickled.
        extra_parameters: vLLM's own parameters, such as ``{"truncate_prompt_tokens": -1}``, which truncates pairs to
            the model's context, or ``{"instruction": "..."}``.
        timeout: Seconds, ``Timeouts``, or ``{"connect": 30, "idle": 600, "total": 3600}``, which are the defaults.
        max_retries: Further attempts after connection errors, 429 and 5xx; default 2.
        query_prefix: Text before the query, for models trained with a template that the server does not have.
        query_suffix: Text after the query.
        document_prefix: Text before each document.
        document_suffix: Text after each document.
        default_headers: Headers of every request; values may be Secrets, as in ``http_client_kwargs``.
        default_query: Query parameters of every request; keys among them may be Secrets, too.
        server: A ``VLLMServer`` to use in place of address, key, timeout and retries. It is not saved: a loaded
            component has its address, timeout and retries, and its own key.
        server_version: The server's vLLM version, for gateways that do not pass on ``/version``.
        allow_unknown: Let parameters pass that no vLLM version has, for servers with plugins.
        validate_model_on_init: Have ``warm_up`` ask the server whether it serves the model: one request, and an error
            that names what it serves.

    Raises:
        ValueError: ``top_k`` is below 1.
    """

    _saved_if_set: ClassVar[frozenset[str]] = VLLMComponent._saved_if_set | {
        "timeout",
        "max_retries",
        "query_prefix",
        "query_suffix",
        "document_prefix",
        "document_suffix",
    }

    def __init__(
        self,
        *,
        model: str | None = None,
        api_key: Secret | None = API_KEY,
        api_base_url: str | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
        meta_fields_to_embed: list[str] | None = None,
        meta_data_separator: str = "\n",
        http_client_kwargs: dict[str, Any] | None = None,
        extra_parameters: dict[str, Any] | None = None,
        timeout: float | Timeouts | dict[str, float | None] | None = None,
        max_retries: int | None = None,
        query_prefix: str = "",
        query_suffix: str = "",
        document_prefix: str = "",
        document_suffix: str = "",
        default_headers: Mapping[str, str | Secret] | None = None,
        default_query: dict[str, Any] | None = None,
        server: VLLMServer | None = None,
        server_version: str | None = None,
        allow_unknown: bool = False,
        validate_model_on_init: bool = False,
    ) -> None:
        VLLMComponent.__init__(
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
        )
        self._check_parameters("rerank", extra_parameters, _RESERVED)
        _validate_top_k(top_k)
        self.top_k = top_k
        self.score_threshold = score_threshold
        self.meta_fields_to_embed = check_fields("meta_fields_to_embed", meta_fields_to_embed)
        self.meta_data_separator = meta_data_separator
        self.extra_parameters = extra_parameters
        self.query_prefix = query_prefix
        self.query_suffix = query_suffix
        self.document_prefix = document_prefix
        self.document_suffix = document_suffix

    def _prepare_texts(self, documents: Sequence[Document]) -> list[str]:
        texts = texts_with_meta(documents, self.meta_fields_to_embed, self.meta_data_separator)
        return [self.document_prefix + text + self.document_suffix for text in texts]

    def _rerank_call(
        self, query: str, documents: Sequence[Document], top_k: int | None
    ) -> EndpointCall[tuple[list[Ranked], dict[str, Any]]]:
        call = self._connected_server()._rerank(
            self.query_prefix + query + self.query_suffix,
            self._prepare_texts(documents),
            top_n=self.top_k if top_k is None else top_k,
            **self._parameters(self.extra_parameters),
        )
        return call.with_usage()

    def _output(
        self, documents: Sequence[Document], ranking: Sequence[Ranked], usage: Any, score_threshold: float | None
    ) -> dict[str, Any]:
        threshold = self.score_threshold if score_threshold is None else score_threshold
        ranked = [
            replace(documents[place.index], score=place.score)
            for place in ranking
            if threshold is None or place.score >= threshold
        ]
        return {"documents": ranked, "meta": {"model": self._model_name, "usage": usage}}

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, Any]:
        """Rank documents.

        Args:
            query: The query.
            documents: The documents; they are copied.
            top_k: Overrides the constructor's.
            score_threshold: Overrides the constructor's.

        Returns:
            ``{"documents": [...], "meta": {"model", "usage"}}``, with the best document first, each with its score.

        Raises:
            TypeError: The query is not a str, or ``documents`` is not a list of them.
            ValueError: ``top_k`` is below 1.
            VLLMError: On every failure, see ``vllm_adapters.errors``.
        """
        _validate_inputs(query, documents, top_k)
        if not documents:
            return {"documents": [], "meta": {}}
        client = self._warm_client()
        ranking, usage = self._rerank_call(query, documents, top_k).send(client)
        return self._output(documents, ranking, usage, score_threshold)

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, Any]:
        """Async version of ``run``."""
        _validate_inputs(query, documents, top_k)
        if not documents:
            return {"documents": [], "meta": {}}
        client = await self._warm_async_client()
        ranking, usage = await self._rerank_call(query, documents, top_k).asend(client)
        return self._output(documents, ranking, usage, score_threshold)


def _validate_inputs(query: str, documents: list[Document], top_k: int | None) -> None:
    if not isinstance(query, str):
        raise TypeError(f"`query` must be a str, not {type(query).__name__}.")
    check_documents(documents, "VLLMRanker expects a list of Documents as input. Pass [document].")
    _validate_top_k(top_k)


def _validate_top_k(top_k: int | None) -> None:
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int)):
        raise TypeError(f"`top_k` must be an int, not {type(top_k).__name__}.")
    if top_k is not None and top_k <= 0:
        raise ValueError(f"top_k must be > 0, but got {top_k}")
