"""``VLLMTranscriber``: Haystack's transcriber of audio for vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from haystack import Document, component
from haystack.dataclasses import ByteStream
from haystack.utils import Secret

from vllm_adapters.haystack._component import API_KEY, VLLMComponent
from vllm_adapters.server import VLLMServer
from vllm_adapters.timeouts import Timeouts

_RESERVED = ("model", "file", "stream", "response_format")


@component
class VLLMTranscriber(VLLMComponent):
    """Haystack's transcriber for a vLLM server: one document for each file of audio.

    >>> from vllm_adapters.haystack import VLLMTranscriber
    >>> transcriber = VLLMTranscriber(api_base_url="http://localhost:8000", extra_parameters={"language": "en"})
    >>> transcriber.run(sources=[])["documents"]  # vllm serve openai/whisper-large-v3
    []

    Sockets are those of ``RemoteWhisperTranscriber``.

    Args:
        model: Served model name; default: the one base model that the server serves.
        api_key: Key of ``vllm serve --api-key``; default: ``VLLM_API_KEY``, if it is set. Read by ``warm_up``.
        api_base_url: The server, with or without ``/v1``; default: ``VLLM_BASE_URL``, else
            ``http://localhost:8000/v1``. The default is saved as null: a loaded component has that of its place.
        translate: Translate to English instead.
        http_client_kwargs: Arguments of the HTTP clients, such as ``proxy``, ``verify`` or ``headers``. Credentials
            among them may be Secrets; those that are not are neither saved nor pickled.
        extra_parameters: Parameters of the request, such as ``language``, ``prompt``, ``temperature``, ``hotwords`` or
            ``max_completion_tokens``.
        timeout: Seconds, ``Timeouts``, or ``{"connect": 30, "idle": 600, "total": 3600}``, which are the defaults.
        max_retries: Further attempts after connection errors, 429 and 5xx; default 2.
        default_headers: Headers of every request; values may be Secrets, as in ``http_client_kwargs``.
        default_query: Query parameters of every request; keys among them may be Secrets, too.
        server: A ``VLLMServer`` to use in place of address, key, timeout and retries. It is not saved: a loaded
            component has its address, timeout and retries, and its own key.
        server_version: The server's vLLM version, for gateways that do not pass on ``/version``.
        allow_unknown: Let parameters pass that no vLLM version has, for servers with plugins.
        validate_model_on_init: Have ``warm_up`` ask the server whether it serves the model: one request, and an error
            that names what it serves.
    """

    _saved_if_set: ClassVar[frozenset[str]] = VLLMComponent._saved_if_set | {"timeout", "max_retries", "translate"}

    def __init__(
        self,
        *,
        model: str | None = None,
        api_key: Secret | None = API_KEY,
        api_base_url: str | None = None,
        translate: bool = False,
        http_client_kwargs: dict[str, Any] | None = None,
        extra_parameters: dict[str, Any] | None = None,
        timeout: float | Timeouts | dict[str, float | None] | None = None,
        max_retries: int | None = None,
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
        self._check_parameters("translations" if translate else "transcriptions", extra_parameters, _RESERVED)
        self.translate = translate
        self.extra_parameters = extra_parameters

    def _resource(self, client: Any) -> Any:
        return client.audio.translations if self.translate else client.audio.transcriptions

    def _request(self, source: ByteStream) -> dict[str, Any]:
        name = Path(str(source.meta.get("file_path") or "audio.wav")).name
        body = self._parameters(self.extra_parameters)
        return {"file": (name, source.data), "model": self._connected_server().model or "", "extra_body": body}

    @component.output_types(documents=list[Document])
    def run(self, sources: list[str | Path | ByteStream]) -> dict[str, Any]:
        """Transcribe files of audio.

        Args:
            sources: Paths, or contents as ``ByteStream``.

        Returns:
            ``{"documents": [...]}``, one for each source, in order, with its meta, and ``file_path`` if it is a path.

        Raises:
            OSError: A file cannot be read.
            VLLMError: On every failure, see ``vllm_adapters.errors``.
        """
        audio = _streams(sources)
        if not audio:
            return {"documents": []}
        resource = self._resource(self._warm_client())
        return {"documents": [_document(source, resource.create(**self._request(source))) for source in audio]}

    @component.output_types(documents=list[Document])
    async def run_async(self, sources: list[str | Path | ByteStream]) -> dict[str, Any]:
        """Async version of ``run``."""
        audio = _streams(sources)
        if not audio:
            return {"documents": []}
        resource = self._resource(await self._warm_async_client())
        return {"documents": [_document(source, await resource.create(**self._request(source))) for source in audio]}


def _streams(sources: list[str | Path | ByteStream]) -> list[ByteStream]:
    if isinstance(sources, str | Path | ByteStream):
        raise TypeError("VLLMTranscriber expects a list of sources as input. Pass [source].")
    return [
        source
        if isinstance(source, ByteStream)
        else ByteStream.from_file_path(Path(source), meta={"file_path": str(source)})
        for source in sources
    ]


def _document(source: ByteStream, reply: Any) -> Document:
    return Document(content=reply.text, meta=dict(source.meta))
