"""``VLLMEmbeddings``: LangChain's embeddings on vLLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.embeddings import Embeddings
from pydantic import Field, model_validator

from vllm_adapters.embedder import Embedder
from vllm_adapters.langchain._connection import Connection, refuse_unknown
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.params import TextEmbeddingParams, wire
from vllm_adapters.types import Embedded


class VLLMEmbeddings(TextEmbeddingParams, Connection, Embeddings):
    """LangChain's embeddings for a vLLM server: texts as they are, each vector with its text.

    >>> from vllm_adapters.langchain import VLLMEmbeddings
    >>> embeddings = VLLMEmbeddings(  # vllm serve an embedding model
    ...     base_url="http://localhost:8000",
    ...     truncate_prompt_tokens=-1,
    ...     query_instruction="Instruct: Find the passage that answers.\\nQuery: ",
    ... )
    >>> len(embeddings.embed_query("Which town has the Colosseum?"))
    384
    >>> vectors = embeddings.embed_documents(["Rome is in Italy.", "Oslo is in Norway."])

    Texts are sent as text, never as the token ids of another model's tokenizer, and with their line breaks.
    vLLM's own parameters (``truncate_prompt_tokens``, ``use_activation``, ``priority``, ...) are fields.

    Args:
        model: Served model name; default: the one base model that the server serves.
        base_url: As for ``VLLMClient``; default ``VLLM_BASE_URL``, else ``http://localhost:8000/v1``.
        api_key: As for ``VLLMClient``; default ``VLLM_API_KEY``. ``OPENAI_*`` is never read.
        server: A ``VLLMServer`` to use instead of url, key, timeout and retries.
        timeout: Seconds, or ``Timeouts(connect, idle, total)``, of each request.
        max_retries: Further attempts of a request after connection failures, 429 and 5xx; default 2.
        dimensions: Length of the vectors, of models trained to be cut (Matryoshka); default all.
        query_instruction: Put before each query as it is, line breaks included; default nothing.
        document_instruction: Put before each document as it is; default nothing.
        batch_size: Texts in one request; default 64.
        max_concurrency: Requests under way at once; default 8.
        show_progress: Show a progress bar on standard error; default False.
        on_usage: Called with the number of prompt tokens after each call.

    Raises:
        VLLMError: On every failure, as a class of ``vllm_adapters.langchain.errors``. A text that is too long
            for the model raises ``ContextLengthExceeded``, unless ``truncate_prompt_tokens`` cuts it.
    """

    dimensions: int | None = Field(default=None, ge=1)
    query_instruction: str = ""
    document_instruction: str = ""
    batch_size: int = Field(default=64, ge=1)
    max_concurrency: int = Field(default=8, ge=1)
    show_progress: bool = False
    on_usage: Callable[[int], object] | None = Field(default=None, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: dict[str, Any]) -> dict[str, Any]:
        refuse_unknown(cls, "embeddings", values)
        return values

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of documents.

        Args:
            texts: Any number of texts.

        Returns:
            One list of floats per text, in order.
        """
        with langchain_errors():
            return self._read(self._embedder.embed(self._documents(texts), progress=self._progress))

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        with langchain_errors():
            return self._read(self._embedder.embed([self.query_instruction + text]))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """``embed_documents``, to await."""
        with langchain_errors():
            return self._read(await self._embedder.aembed(self._documents(texts), progress=self._progress))

    async def aembed_query(self, text: str) -> list[float]:
        """``embed_query``, to await."""
        with langchain_errors():
            return self._read(await self._embedder.aembed([self.query_instruction + text]))[0]

    def _documents(self, texts: list[str]) -> list[str]:
        return [self.document_instruction + text for text in texts]

    @property
    def _progress(self) -> str | None:
        return "Embedding documents" if self.show_progress else None

    @property
    def _embedder(self) -> Embedder:
        parameters = wire(self, TextEmbeddingParams) | ({"dimensions": self.dimensions} if self.dimensions else {})
        return Embedder(self._vllm, self.batch_size, self.max_concurrency, parameters)

    def _read(self, found: Embedded) -> list[list[float]]:
        if self.on_usage is not None:
            self.on_usage(found.prompt_tokens)
        vectors: list[list[float]] = found.vectors.tolist()
        return vectors
