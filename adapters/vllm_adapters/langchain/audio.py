"""``VLLMAudioParser``: LangChain's parser of audio blobs on vLLM's transcription."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from langchain_core.document_loaders import BaseBlobParser
from langchain_core.documents import Document
from langchain_core.documents.base import Blob
from pydantic import Field, SecretStr, model_validator

from vllm_adapters._request import compat
from vllm_adapters.langchain._connection import ServerConnection, reject_unknown_arguments
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.timeouts import Timeouts

__all__ = ["VLLMAudioParser"]


class VLLMAudioParser(ServerConnection, BaseBlobParser):
    """Makes a document of a file of audio, with a speech model that vLLM serves.

    >>> from vllm_adapters.langchain import VLLMAudioParser
    >>> parser = VLLMAudioParser(base_url="http://localhost:8000", language="en")  # vllm serve openai/whisper-large-v3
    >>> parser.language
    'en'

    It is a parser for ``GenericLoader``, and ``parser.parse(Blob.from_path("talk.mp3"))`` parses one file.

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
        http_async_client: The same for async calls, of which parsers have none.
        validate_model_on_init: Ask the server in the constructor whether it serves the model; default False.
        language: The language of the audio, such as ``"en"``; default: the model detects it.
        prompt: A text that the model should go on from, in its style.
        temperature: Sampling temperature.
        translate: Translate to English instead.
        extra_body: Further fields of every request, such as ``hotwords`` or ``max_completion_tokens``.

    Raises:
        VLLMError: On every failure, as a class of ``vllm_adapters.langchain.errors``.
    """

    model: str = ""
    base_url: str | None = None
    api_key: SecretStr | Callable[[], Any] | None = Field(default=None, exclude=True)
    timeout: Any = Field(default=Timeouts(), exclude=True)
    language: str | None = None
    prompt: str | None = None
    temperature: float | None = None
    translate: bool = False
    extra_body: dict[str, Any] | None = None

    _endpoint: ClassVar = "transcriptions"

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown(cls, values: dict[str, Any]) -> dict[str, Any]:
        reject_unknown_arguments(cls, "transcriptions", values)
        return values

    def lazy_parse(self, blob: Blob) -> Iterator[Document]:
        """Yield one document: the transcript, with the blob's metadata and its ``source``.

        Args:
            blob: The audio, such as ``Blob.from_path("talk.mp3")``.
        """
        given = {"language": self.language, "prompt": self.prompt, "temperature": self.temperature}
        body = {
            **{name: value for name, value in given.items() if value is not None},
            **(self.extra_body or {}),
            **({compat.ALLOW_UNKNOWN: True} if self.allow_unknown else {}),
        }
        audio = self._server.client.audio
        resource: Any = audio.translations if self.translate else audio.transcriptions
        file = (Path(str(blob.path or "audio.wav")).name, blob.as_bytes())
        with langchain_errors():
            reply = resource.create(model=self.model, file=file, extra_body=body)
        yield Document(page_content=reply.text, metadata={**blob.metadata, "source": blob.source})
