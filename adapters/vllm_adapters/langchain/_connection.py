"""Where the server is, and what is known of it: the fields that the classes of this room share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import openai
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, PrivateAttr, SecretStr, model_validator

from vllm_adapters._request import compat
from vllm_adapters._transport.credentials import normalize_headers
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.server import VLLMServer, reject_conflicts
from vllm_adapters.timeouts import Timeouts
from vllm_adapters.tokenizer import VLLMTokenizer


def refuse_unknown(cls: type[BaseModel], endpoint: str, values: Mapping[str, Any]) -> None:
    """Raise for constructor arguments that are no field of ``cls``.

    Raises:
        UnknownParameter: With the nearest name that there is.
        TypeError: A key that is no string; the error does not show it.
    """
    known = set(cls.model_fields) | {field.alias for field in cls.model_fields.values()}
    for name in values:
        if name not in known:
            with langchain_errors():
                raise compat.unknown_parameter(endpoint, name)
    for name in ("api_key", "openai_api_key"):
        if not isinstance(values.get(name), str | SecretStr | None):
            # Not left to Pydantic, whose error would show the value.
            raise TypeError(f"{name} must be a str or a SecretStr, not {type(values[name]).__name__}")


class _ToServer(BaseModel):
    """What classes have of their server, whatever they call its address."""

    server: VLLMServer | None = Field(default=None, exclude=True, repr=False)
    server_version: str | None = None
    default_headers: Annotated[Mapping[str, str] | None, PlainValidator(normalize_headers)] = Field(
        default=None, repr=False, exclude=True
    )

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    _vllm: VLLMServer = PrivateAttr()

    @abstractmethod
    def _connect(self) -> None:
        """Find or make the server's clients; nothing is sent."""

    def _server_named(self, model: str, base_url: str | None, **options: Any) -> VLLMServer:
        settings = {"default_headers": self.default_headers, "server_version": self.server_version, **options}
        if self.server is not None:
            reject_conflicts(self.server, base_url, settings)
            return self.server.serving(model) if model else self.server
        return VLLMServer(base_url, model=model or None, **settings)

    def __getstate__(self) -> dict[Any, Any]:
        # No key, header or connection leaves the process in a pickle; VLLM_API_KEY is read where it is opened.
        state = super().__getstate__()
        kept = {name: value for name, value in state["__dict__"].items() if name not in _LEFT_BEHIND}
        gone = {name: None for name in _LEFT_BEHIND if name in type(self).model_fields}
        private = {k: v for k, v in (state["__pydantic_private__"] or {}).items() if k not in _LEFT_BEHIND}
        return {**state, "__dict__": {**kept, **gone}, "__pydantic_private__": private}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._connect()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        mine = {**vars(self), **(self.__pydantic_private__ or {})}
        shared = {id(mine[name]): mine[name] for name in _LEFT_BEHIND if name in mine}
        return super().__deepcopy__({**(memo or {}), **shared})


_LEFT_BEHIND = frozenset(
    {"api_key", "openai_api_key", "default_headers", "server", "_vllm", "_tokenizers"}
    | {"client", "async_client", "root_client", "root_async_client", "http_client", "http_async_client"}
)


class Connection(_ToServer):
    """The server of a class that asks one of vLLM's own endpoints."""

    model: str = ""
    base_url: str | None = None
    api_key: SecretStr | None = Field(default=None, exclude=True)
    timeout: Any = Field(default=Timeouts(), exclude=True)
    max_retries: int = openai.DEFAULT_MAX_RETRIES

    def model_post_init(self, context: Any, /) -> None:
        """Connect; nothing is sent."""
        super().model_post_init(context)
        self._connect()

    def _connect(self) -> None:
        self._vllm = self._server_named(
            self.model, self.base_url, api_key=self.api_key, timeout=self.timeout, max_retries=self.max_retries
        )
        self.base_url, self.model = self._vllm.base_url, self._vllm.model or ""


class OpenAIConnection(_ToServer):
    """The server of a class that stands on one of ``langchain_openai``'s, under the names which that gives it."""

    model_name: str = Field(default="", alias="model")
    openai_api_base: str | None = Field(default=None, alias="base_url")
    openai_api_key: SecretStr | None = Field(default=None, alias="api_key")
    openai_organization: str | None = Field(default=None, alias="organization", exclude=True)
    openai_proxy: str | None = Field(default=None, exclude=True)
    request_timeout: Any = Field(default=Timeouts(), alias="timeout", exclude=True)
    max_retries: int | None = openai.DEFAULT_MAX_RETRIES
    default_query: Mapping[str, object] | None = Field(default=None, repr=False, exclude=True)
    http_client: Any = Field(default=None, exclude=True)
    http_async_client: Any = Field(default=None, exclude=True)
    allow_unknown: bool = False

    _counts_special_tokens: ClassVar[bool] = True
    _tokenizers: dict[str, VLLMTokenizer] = PrivateAttr()

    @model_validator(mode="after")
    def _refuse_what_would_be_lost(self) -> Self:
        if self.openai_proxy:
            raise ValueError("openai_proxy is not supported: set HTTPS_PROXY, or give an http_client with a proxy.")
        if getattr(self, "http_socket_options", None):  # of chat models
            raise ValueError("http_socket_options is not supported: give an http_client that has them.")
        if self.openai_organization:
            raise ValueError("vLLM has no organizations: a gateway's header goes into default_headers.")
        return self

    def _connect(self) -> None:
        self._vllm = self._server_named(
            self.model_name,
            self.openai_api_base,
            api_key=self.openai_api_key,
            timeout=self.request_timeout,
            max_retries=openai.DEFAULT_MAX_RETRIES if self.max_retries is None else self.max_retries,
            default_query=self.default_query,
            allow_unknown=self.allow_unknown,
            http_client=self.http_client,
            async_http_client=self.http_async_client,
        )
        self.openai_api_base, self.model_name = self._vllm.base_url, self._vllm.model or ""
        self._tokenizers = {}

    @property
    def _tokenizer(self) -> VLLMTokenizer:
        name = self.model_name  # copies of a model may name another one
        if name not in self._tokenizers:
            server = self._vllm.serving(name)
            self._tokenizers[name] = VLLMTokenizer(server, add_special_tokens=self._counts_special_tokens)
        return self._tokenizers[name]
