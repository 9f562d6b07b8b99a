"""``VLLMRerank``: LangChain's document compressor on vLLM's reranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import Field, SecretStr, model_validator

from vllm_adapters._request import compat
from vllm_adapters._request.body import set_fields
from vllm_adapters.langchain._connection import ServerConnection, reject_unknown_arguments
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.params import RerankParams
from vllm_adapters.timeouts import Timeouts
from vllm_adapters.types import Ranked

__all__ = ["VLLMRerank"]


class VLLMRerank(RerankParams, ServerConnection, BaseDocumentCompressor):
    """Sorts documents by their relevance to a query, with a reranker that vLLM serves.

    >>> from langchain_core.documents import Document
    >>> from vllm_adapters.langchain import VLLMRerank
    >>> rerank = VLLMRerank(base_url="http://localhost:8000", top_n=1)  # vllm serve a reranker
    >>> documents = [Document("Rome is in Italy."), Document("Water is wet.")]
    >>> [best] = rerank.compress_documents(documents, "Where is Rome?")
    >>> sorted(best.metadata)
    ['relevance_score']

    It is a ``base_compressor`` for ``ContextualCompressionRetriever``. It works with every model that has vLLM's
    rerank route: cross-encoders, and embedding models, which rank by cosine similarity.

    Args:
        model: Served model name; default: the one base model that is served.
        base_url: As for ``VLLMClient``; default ``VLLM_BASE_URL``, else ``http://localhost:8000/v1``.
        api_key: As for ``VLLMClient``; default ``VLLM_API_KEY``. The environment's ``OPENAI_*`` are not read.
        server: A ``VLLMServer`` to use instead of address, key, timeout and retries of its own.
        timeout: ``Timeouts(connect=30, idle=600, total=3600)`` in seconds, or one number for all three.
        max_retries: Further attempts after connection errors, 408, 409, 429 and 5xx; default 2.
        server_version: The server's vLLM version, for gateways that do not pass on ``/version``.
        allow_unknown: Let ``extra_body`` contain fields that no vLLM version has; default False.
        default_headers: Headers of every request.
        default_query: Query parameters of every request.
        http_client: An ``httpx.Client`` to use; its pool, proxies and redirects are then its own.
        http_async_client: The same for async calls.
        validate_model_on_init: Ask the server in the constructor whether it serves the model; default False.
        top_n: Number of documents to return; default: all.
        truncate_prompt_tokens: Tokens to keep of each pair of query and document; -1: what the model can take.
        instruction: What relevance means, for models that take an instruction.
        extra_body: Further fields of every request.

    Raises:
        VLLMError: On every failure, as a class of ``vllm_adapters.langchain.errors``.
    """

    model: str = ""
    base_url: str | None = None
    api_key: SecretStr | Callable[[], Any] | None = Field(default=None, exclude=True)
    timeout: Any = Field(default=Timeouts(), exclude=True)
    extra_body: dict[str, Any] | None = None

    _endpoint: ClassVar = "rerank"

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown(cls, values: dict[str, Any]) -> dict[str, Any]:
        reject_unknown_arguments(cls, "rerank", values)
        return values

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies of the most relevant documents, best first, with ``metadata["relevance_score"]``.

        Args:
            documents: Any number of documents; they are not changed.
            query: The query.
            callbacks: Part of LangChain's interface; reranking has no events of its own.
        """
        if not documents:
            return []
        with langchain_errors():
            return _with_scores(documents, self._server.rerank(query, _texts(documents), **self._parameters))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Async version of ``compress_documents``."""
        if not documents:
            return []
        with langchain_errors():
            return _with_scores(documents, await self._server.arerank(query, _texts(documents), **self._parameters))

    @property
    def _parameters(self) -> dict[str, Any]:
        return {
            **set_fields(self, RerankParams),
            **(self.extra_body or {}),
            **({compat.ALLOW_UNKNOWN: True} if self.allow_unknown else {}),
        }


def _texts(documents: Sequence[Document]) -> list[str]:
    return [document.page_content for document in documents]


def _with_scores(documents: Sequence[Document], ranking: Sequence[Ranked]) -> list[Document]:
    return [
        documents[ranked.index].model_copy(
            update={"metadata": {**documents[ranked.index].metadata, "relevance_score": ranked.score}}
        )
        for ranked in ranking
    ]
