"""``VLLMRanker``: Haystack's ranker on vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from haystack import Document, component
from haystack.utils import Secret

from vllm_adapters._client.endpoint import EndpointCall
from vllm_adapters.haystack._component import API_KEY, NAMESPACE, Connected, refuse_own, with_meta
from vllm_adapters.server import VLLMServer
from vllm_adapters.types import Ranked

_OWN = ("model", "query", "documents", "top_n")


@component
class VLLMRanker(Connected):
    """Ranks documents by their relevance to a query, with a model on a vLLM server.

    >>> from haystack import Document
    >>> from vllm_adapters.haystack import VLLMRanker
    >>> ranker = VLLMRanker(api_base_url="http://localhost:8000", top_k=1)  # vllm serve a reranker
    >>> documents = [Document(content="Bread is baked."), Document(content="Tokyo is the capital city of Japan.")]
    >>> ranker.run("What is the capital of Japan?", documents)["documents"][0].content
    'Tokyo is the capital city of Japan.'

    Args:
        model: Served model name; default: the one base model that the server serves.
        api_key: Key of ``vllm serve --api-key``; default: ``VLLM_API_KEY``, if it is set. Read by ``warm_up``.
        api_base_url: The server, with or without ``/v1``; default ``VLLM_BASE_URL``, else
            ``http://localhost:8000/v1``.
        top_k: Documents to return at most; default all.
        score_threshold: Leave out documents with a lower score; after ``top_k``.
        meta_fields_to_embed: Fields of the documents' meta to rank by, before their text.
        meta_data_separator: What stands between those fields and the text.
        http_client_kwargs: Arguments of the HTTP clients, such as ``proxy``, ``verify`` or ``headers``, whose
            values may be Secrets; those that are not are neither saved nor pickled.
        extra_parameters: vLLM's own by their names, such as ``{"truncate_prompt_tokens": -1}``, which cuts pairs to
            what the model can take, or ``{"instruction": "..."}``.
        timeout: Seconds, or ``{"connect": 30, "idle": 600, "total": 3600}``, which are the defaults.
        max_retries: Further attempts after connection failures, 429 and 5xx; default 2.
        query_prefix: Text before the query, for models that were trained with a template the server does not have.
        query_suffix: Text behind the query.
        document_prefix: Text before each document.
        document_suffix: Text behind each document.
        server: A ``VLLMServer`` to use instead of url, key, timeout and retries. It is not saved: a loaded
            component has its address and its own key.
        server_version: The server's vLLM version, where ``/version`` does not tell it.

    Raises:
        ValueError: ``top_k`` is below 1.
    """

    __module__ = NAMESPACE
    _left_out: ClassVar[frozenset[str]] = frozenset(
        {
            "timeout",
            "max_retries",
            "query_prefix",
            "query_suffix",
            "document_prefix",
            "document_suffix",
            "server_version",
        }
    )

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
        timeout: float | dict[str, float | None] | None = None,
        max_retries: int | None = None,
        query_prefix: str = "",
        query_suffix: str = "",
        document_prefix: str = "",
        document_suffix: str = "",
        server: VLLMServer | None = None,
        server_version: str | None = None,
    ) -> None:
        self._place(model, server, api_key, api_base_url, timeout, max_retries, http_client_kwargs, server_version)
        refuse_own(extra_parameters, _OWN)
        self.top_k = _at_least_one(top_k)
        self.score_threshold = score_threshold
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.meta_data_separator = meta_data_separator
        self.extra_parameters = extra_parameters
        self.query_prefix = query_prefix
        self.query_suffix = query_suffix
        self.document_prefix = document_prefix
        self.document_suffix = document_suffix

    def _prepare_texts(self, documents: Sequence[Document]) -> list[str]:
        texts = with_meta(documents, self.meta_fields_to_embed, self.meta_data_separator)
        return [self.document_prefix + text + self.document_suffix for text in texts]

    def _ask(
        self, query: str, documents: Sequence[Document], top_k: int | None
    ) -> EndpointCall[tuple[list[Ranked], dict[str, Any]]]:
        return (
            self._connect()
            ._rerank(
                self.query_prefix + query + self.query_suffix,
                self._prepare_texts(documents),
                top_n=self.top_k if top_k is None else top_k,
                **(self.extra_parameters or {}),
            )
            .with_usage()
        )

    def _output(
        self, documents: Sequence[Document], ranking: Sequence[Ranked], usage: Any, threshold: float | None
    ) -> dict[str, Any]:
        least = self.score_threshold if threshold is None else threshold
        ranked = [
            replace(documents[found.index], score=found.score)
            for found in ranking
            if least is None or found.score >= least
        ]
        return {"documents": ranked, "meta": {"model": self._served(), "usage": usage}}

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
            query: What is looked for.
            documents: The documents; they are copied.
            top_k: In place of the constructor's.
            score_threshold: In place of the constructor's.

        Returns:
            ``{"documents": [...], "meta": {"model", "usage"}}``, the best document first, each with its score.

        Raises:
            ValueError: ``top_k`` is below 1.
            VLLMError: On every failure, see ``vllm_adapters.errors``.
        """
        _at_least_one(top_k)
        if not documents:
            return {"documents": [], "meta": {}}
        client = self._sync()
        return self._output(documents, *self._ask(query, documents, top_k).send(client), score_threshold)

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, Any]:
        """``run``, to await."""
        _at_least_one(top_k)
        if not documents:
            return {"documents": [], "meta": {}}
        client = await self._async()
        return self._output(documents, *await self._ask(query, documents, top_k).asend(client), score_threshold)


def _at_least_one(top_k: int | None) -> int | None:
    if top_k is not None and top_k <= 0:
        raise ValueError(f"top_k must be > 0, but got {top_k}")
    return top_k
