"""Where the server is and how it is talked to: what the classes of this room share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import openai
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, PrivateAttr, SecretStr

from vllm_adapters._request import compat
from vllm_adapters._transport.credentials import normalize_base_url, normalize_headers
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.server import VLLMServer, reject_conflicts
from vllm_adapters.timeouts import Timeouts


class Connection(BaseModel):
    """The fields of a connection, and the server they lead to. Nothing is sent before the first call."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    api_base: str | None = Field(
        default=None, description="The server; default: `VLLM_BASE_URL`, else http://localhost:8000/v1."
    )
    base_url: str | None = Field(default=None, description="The same as `api_base`.", exclude=True)
    api_key: SecretStr | None = Field(
        default=None, description="Key of `vllm serve --api-key`; default `VLLM_API_KEY`.", exclude=True, repr=False
    )
    timeout: Timeouts | float | None = Field(
        default=Timeouts(), description="Seconds, or `Timeouts(connect=30, idle=600, total=3600)`."
    )
    max_retries: int = Field(
        default=openai.DEFAULT_MAX_RETRIES, ge=0, description="Further attempts after connection failures, 429 and 5xx."
    )
    default_headers: Annotated[dict[str, str] | None, PlainValidator(normalize_headers)] = Field(
        default=None, description="Headers of every request.", exclude=True, repr=False
    )
    http_client: Any = Field(
        default=None, description="An own HTTP client of the SDK's kind.", exclude=True, repr=False
    )
    async_http_client: Any = Field(default=None, description="The same, for coroutines.", exclude=True, repr=False)
    server: VLLMServer | None = Field(
        default=None, description="Used instead of address, key, timeout and retries.", exclude=True
    )
    server_version: str | None = Field(
        default=None, description="The server's vLLM version, where `/version` does not tell it."
    )
    allow_unknown: bool = Field(default=False, description="Let fields pass that no vLLM version has.")

    _server: VLLMServer = PrivateAttr()
    _endpoint: ClassVar[str]

    @classmethod
    def _checked(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Constructor arguments, with unknown names refused and both names of the address made one."""
        for name in given:
            if name not in cls.model_fields:
                raise compat.unknown_parameter(cls._endpoint, name)
        if not isinstance(given.get("api_key"), str | SecretStr | None):
            # Not left to Pydantic, whose error would show the value.
            raise TypeError(f"api_key must be a str or a SecretStr, not {type(given['api_key']).__name__}")
        if (server := given.get("server")) is not None:
            for name in ("base_url", "api_base"):
                reject_conflicts(server, given.get(name), given)
            return {**given, "api_base": server.base_url, "base_url": server.base_url}
        named = {normalize_base_url(given[name]) for name in ("base_url", "api_base") if given.get(name)}
        if len(named) > 1:
            raise InvalidRequest(f"base_url and api_base differ: {', '.join(sorted(named))}", hint="Give one of them")
        address = named.pop() if named else normalize_base_url(None)
        return {**given, "api_base": address, "base_url": address}

    def _connect(self, model: str) -> None:
        if self.server is not None:
            self._server = self.server.serving(model) if model else self.server
            return
        self._server = VLLMServer(
            self.api_base,
            model=model or None,
            api_key=self.api_key,
            timeout=self.timeout,
            max_retries=self.max_retries,
            default_headers=self.default_headers,
            server_version=self.server_version,
            allow_unknown=self.allow_unknown,
            http_client=self.http_client,
            async_http_client=self.async_http_client,
        )

    def _serving(self, model: str) -> VLLMServer:
        """The server, asked for the model that is named now: a field may be set, and copies name another one."""
        if model and model != self._server.model:
            self._server = self._server.serving(model)
        return self._server

    def __getstate__(self) -> dict[Any, Any]:
        # No key, header or connection leaves the process in a pickle; VLLM_API_KEY is read where it is opened.
        hidden = dict.fromkeys(("api_key", "default_headers", "http_client", "async_http_client"))
        bare = self.model_copy(update=hidden)
        return super(Connection, bare).__getstate__()
