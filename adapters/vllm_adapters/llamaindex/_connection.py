"""Connection settings that ``VLLM``, ``VLLMEmbedding`` and ``VLLMRerank`` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import openai
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, PrivateAttr, SecretStr

from vllm_adapters._request import compat
from vllm_adapters._transport.credentials import normalize_base_url, normalize_headers
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.server import VLLMServer
from vllm_adapters.timeouts import Timeouts


class Connection(BaseModel):
    """Fields that say where the server is and how to connect to it. Nothing is sent before the first call."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    api_base: str | None = Field(
        default=None, description="Base URL; default: `VLLM_BASE_URL`, else http://localhost:8000/v1."
    )
    base_url: str | None = Field(default=None, description="The same as `api_base`.", exclude=True)
    api_key: SecretStr | None = Field(
        default=None, description="Key of `vllm serve --api-key`; default: `VLLM_API_KEY`.", exclude=True, repr=False
    )
    timeout: Timeouts | float | None = Field(
        default=Timeouts(), description="Seconds, or `Timeouts(connect=30, idle=600, total=3600)`."
    )
    max_retries: int = Field(
        default=openai.DEFAULT_MAX_RETRIES, ge=0, description="Further attempts after connection errors, 429 and 5xx."
    )
    default_headers: Annotated[dict[str, str] | None, PlainValidator(normalize_headers)] = Field(
        default=None, description="Headers of every request.", exclude=True, repr=False
    )
    default_query: dict[str, Any] | None = Field(
        default=None, description="Query parameters of every request.", exclude=True, repr=False
    )
    http_client: Any = Field(default=None, description="An HTTP client of the SDK's kind.", exclude=True, repr=False)
    async_http_client: Any = Field(default=None, description="The same, for async calls.", exclude=True, repr=False)
    server: VLLMServer | None = Field(
        default=None, description="A server to use instead of own address, key, timeout and retries.", exclude=True
    )
    server_version: str | None = Field(
        default=None, description="The server's vLLM version, for gateways that do not pass on `/version`."
    )
    allow_unknown: bool = Field(default=False, description="Let parameters pass that no vLLM version has.")

    _server: VLLMServer = PrivateAttr()
    _endpoint: ClassVar[str]
    _model_field: ClassVar[str] = "model"

    @classmethod
    def _reject_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """Raise for constructor arguments that Pydantic would ignore, or whose value its error would show.

        Raises:
            UnknownParameter: There is no field of that name.
            TypeError: The API key is not a text.
        """
        for name in arguments:
            if name not in cls.model_fields:
                raise compat.unknown_parameter(cls._endpoint, name)
        if not isinstance(key := arguments.get("api_key"), str | SecretStr | None):
            raise TypeError(f"`api_key` must be a str or a SecretStr, not {type(key).__name__}. Pass the key as text.")

    def _connect(self) -> None:
        """Set the server, and fill in its address and its model's name.

        Raises:
            InvalidRequest: ``api_base`` and ``base_url`` are different addresses.
            ValueError: ``server`` is given with another address, or with settings that it has itself.
        """
        addresses = {normalize_base_url(url) for url in (self.api_base, self.base_url) if url}
        if len(addresses) > 1:
            raise InvalidRequest(
                f"`api_base` and `base_url` are different addresses: {', '.join(sorted(addresses))}",
                hint="Pass one of them",
            )
        self._server = VLLMServer.connect(
            self.server,
            self.api_base or self.base_url,
            model=getattr(self, self._model_field),
            api_key=self.api_key,
            timeout=self.timeout,
            max_retries=self.max_retries,
            default_headers=self.default_headers,
            default_query=self.default_query,
            server_version=self.server_version,
            allow_unknown=self.allow_unknown,
            http_client=self.http_client,
            async_http_client=self.async_http_client,
        )
        self.api_base = self.base_url = self._server.base_url
        setattr(self, self._model_field, self._server.model or "")

    @property
    def _served(self) -> VLLMServer:
        """The server with the model that is named now: the field can be set, and copies can name another one."""
        model = getattr(self, self._model_field)
        return self._server if model == (self._server.model or "") else self._server.serving(model)

    def __getstate__(self) -> dict[Any, Any]:
        # A pickle contains no key, no headers and no connection: VLLM_API_KEY is read where it is loaded.
        left_out = dict.fromkeys(("api_key", "default_headers", "default_query", "http_client", "async_http_client"))
        copy = self.model_copy(update=left_out)
        return super(Connection, copy).__getstate__()
