"""``VLLMRerank``: LangChain's document compressor on vLLM's reranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import model_validator

from vllm_adapters.langchain._connection import Connection, refuse_unknown
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.params import RerankParams, wire
from vllm_adapters.types import Ranked


class VLLMRerank(RerankParams, Connection, BaseDocumentCompressor):
    """Puts documents in the order of their relevance to a query, by a reranker that vLLM serves.

    >>> from langchain_core.documents import Document
    >>> from vllm_adapters.langchain import VLLMRerank
    >>> rerank = VLLMRerank(base_url="http://localhost:8000", top_n=1)  # vllm serve a reranker
    >>> documents = [Document("Rome is in Italy."), Document("Water is wet.")]
    >>> [best] = rerank.compress_documents(documents, "Where is Rome?")
    >>> sorted(best.metadata)
    ['relevance_score']

    It is a ``base_compressor`` for ``ContextualCompressionRetriever``. Any model with vLLM's rerank route serves:
    cross-encoders, and embedding models, which then rank by cosine.

    Args:
        model: Served model name; default: the one base model that the server serves.
        base_url: As for ``VLLMClient``; default ``VLLM_BASE_URL``, else ``http://localhost:8000/v1``.
        api_key: As for ``VLLMClient``; default ``VLLM_API_KEY``. ``OPENAI_*`` is never read.
        server: A ``VLLMServer`` to use instead of url, key, timeout and retries.
        timeout: Seconds, or ``Timeouts(connect, idle, total)``.
        max_retries: Further attempts after connection failures, 429 and 5xx; default 2.
        top_n: How many documents to return; default all.
        truncate_prompt_tokens: Tokens to keep of each pair of query and document; -1: what the model can take.
        instruction: What relevance means, for models that take an instruction.

    Raises:
        VLLMError: On every failure, as a class of ``vllm_adapters.langchain.errors``.
    """

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: dict[str, Any]) -> dict[str, Any]:
        refuse_unknown(cls, "rerank", values)
        return values

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Copies of the best documents, best first, each with its score in ``metadata["relevance_score"]``.

        Args:
            documents: Any number of documents; they are left as they are.
            query: What is looked for.
            callbacks: Part of LangChain's interface; reranking has no events of its own.
        """
        if not documents:
            return []
        with langchain_errors():
            return _scored(documents, self._vllm.rerank(query, _texts(documents), **wire(self, RerankParams)))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """``compress_documents``, to await."""
        if not documents:
            return []
        with langchain_errors():
            return _scored(documents, await self._vllm.arerank(query, _texts(documents), **wire(self, RerankParams)))


def _texts(documents: Sequence[Document]) -> list[str]:
    return [document.page_content for document in documents]


def _scored(documents: Sequence[Document], ranking: Sequence[Ranked]) -> list[Document]:
    return [
        documents[ranked.index].model_copy(
            update={"metadata": {**documents[ranked.index].metadata, "relevance_score": ranked.score}}
        )
        for ranked in ranking
    ]
