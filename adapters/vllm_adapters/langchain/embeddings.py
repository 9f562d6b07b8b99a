"""``VLLMEmbeddings``: LangChain's embeddings on vLLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from langchain_core.embeddings import Embeddings
from pydantic import Field, SecretStr, model_validator

from vllm_adapters._request import compat
from vllm_adapters._request.body import set_fields
from vllm_adapters.embedder import Embedder
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.langchain._connection import ServerConnection, reject_unknown_arguments
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.params import TextEmbeddingParams
from vllm_adapters.timeouts import Timeouts
from vllm_adapters.types import Embedded

__all__ = ["VLLMEmbeddings"]


class VLLMEmbeddings(TextEmbeddingParams, ServerConnection, Embeddings):
    """LangChain's embeddings for a vLLM server: texts are sent as they are, and vectors come in their order.

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
        model: Served model name; default: the one base model that is served.
        base_url: As for ``VLLMClient``; default ``VLLM_BASE_URL``, else ``http://localhost:8000/v1``.
        api_key: As for ``VLLMClient``; default ``VLLM_API_KEY``. The environment's ``OPENAI_*`` are not read.
        server: A ``VLLMServer`` to use instead of address, key, timeout and retries of its own.
        timeout: ``Timeouts(connect=30, idle=600, total=3600)`` of each request in seconds, or one number for all three.
        max_retries: Further attempts of a request after connection errors, 408, 409, 429 and 5xx; default 2.
        server_version: The server's vLLM version, for gateways that do not pass on ``/version``.
        allow_unknown: Let ``extra_body`` contain fields that no vLLM version has; default False.
        default_headers: Headers of every request.
        default_query: Query parameters of every request.
        http_client: An ``httpx.Client`` to use; its pool, proxies and redirects are then its own.
        http_async_client: The same for async calls.
        validate_model_on_init: Ask the server in the constructor whether it serves the model; default False.
        dimensions: Dimensions of a Matryoshka model's shortened vectors; default: all.
        query_instruction: Put before each query as it is, with its line breaks; default: nothing.
        document_instruction: Put before each document as it is; default: nothing.
        batch_size: Texts in one request; default 256.
        max_concurrency: Concurrent requests; default 8.
        show_progress: Show a progress bar on standard error; default False.
        on_usage: Called with the number of prompt tokens after each call.
        extra_body: Further fields of every request.

    Raises:
        VLLMError: On every failure, as a class of ``vllm_adapters.langchain.errors``. A text that exceeds the model's
            context raises ``ContextLengthExceeded``, unless ``truncate_prompt_tokens`` truncates it.
    """

    model_name: str = Field(default="", alias="model")
    base_url: str | None = None
    api_key: SecretStr | Callable[[], Any] | None = Field(default=None, exclude=True)
    timeout: Any = Field(default=Timeouts(), exclude=True)
    dimensions: int | None = Field(default=None, ge=1)
    query_instruction: str = ""
    document_instruction: str = ""
    batch_size: int = Field(default=256, ge=1)
    max_concurrency: int = Field(default=8, ge=1)
    show_progress: bool = False
    on_usage: Callable[[int], object] | None = Field(default=None, exclude=True)
    extra_body: dict[str, Any] | None = None

    _endpoint: ClassVar = "embeddings"
    _setting_fields: ClassVar = ("model_name", "base_url", "api_key", "timeout")

    @property
    def model(self) -> str:
        """The served model's name; looked up once if none was given.

        It is what ``CacheBackedEmbeddings(namespace=embeddings.model)`` keeps the vectors of different models apart by.

        Raises:
            ModelNotServed: No name was given, and the server does not serve exactly one model.
        """
        if self.model_name:
            return self.model_name
        with langchain_errors():
            return self._connected.client.vllm.served_model()

    @model.setter
    def model(self, name: str) -> None:
        self.model_name = name

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown(cls, values: dict[str, Any]) -> dict[str, Any]:
        reject_unknown_arguments(cls, "embeddings", values)
        return values

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of documents.

        Args:
            texts: Any number of texts.

        Returns:
            One list of floats per text, in order.
        """
        with langchain_errors():
            return self._vectors(self._embedder.embed(self._documents(texts), progress=self._progress_title))

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        with langchain_errors():
            return self._vectors(self._embedder.embed([self.query_instruction + _text(text, "text")]))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Async version of ``embed_documents``."""
        with langchain_errors():
            return self._vectors(await self._embedder.aembed(self._documents(texts), progress=self._progress_title))

    async def aembed_query(self, text: str) -> list[float]:
        """Async version of ``embed_query``."""
        with langchain_errors():
            return self._vectors(await self._embedder.aembed([self.query_instruction + _text(text, "text")]))[0]

    def _documents(self, texts: list[str]) -> list[str]:
        if isinstance(texts, str):
            raise _invalid_text("`texts` must be a list of str, not str")
        return [self.document_instruction + _text(text, f"texts[{index}]") for index, text in enumerate(texts)]

    @property
    def _progress_title(self) -> str | None:
        return "Embedding documents" if self.show_progress else None

    @property
    def _embedder(self) -> Embedder:
        parameters = {
            **set_fields(self, TextEmbeddingParams),
            **({"dimensions": self.dimensions} if self.dimensions else {}),
            **(self.extra_body or {}),
            **({compat.ALLOW_UNKNOWN: True} if self.allow_unknown else {}),
        }
        return Embedder(self._server, self.batch_size, self.max_concurrency, parameters)

    def _vectors(self, embedded: Embedded) -> list[list[float]]:
        if self.on_usage is not None:
            self.on_usage(embedded.prompt_tokens)
        vectors: list[list[float]] = embedded.vectors.tolist()
        return vectors


def _text(text: Any, name: str) -> str:
    if not isinstance(text, str):
        raise _invalid_text(f"`{name}` must be a str, not {type(text).__name__}")
    return text


def _invalid_text(reason: str) -> InvalidRequest:
    return InvalidRequest(reason, hint="Pass a list of texts, without None", param="input")
