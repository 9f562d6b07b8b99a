"""The server of a LangChain object: the settings that all classes of this package share, and the connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import openai
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, PrivateAttr, SecretStr

from vllm_adapters._request import availability, compat
from vllm_adapters._transport.credentials import normalize_headers
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.server import VLLMServer
from vllm_adapters.tokenizer import VLLMTokenizer


class ServerConnection(BaseModel):
    """The connection settings of a class, and its server.

    LangChain's classes name four settings differently, so each subclass declares these: model, base URL, API key
    and timeout. ``_setting_fields`` has their names, in this order.
    """

    server: VLLMServer | None = Field(default=None, exclude=True, repr=False)
    server_version: str | None = None
    allow_unknown: bool = False
    max_retries: int | None = openai.DEFAULT_MAX_RETRIES
    default_headers: Annotated[Mapping[str, str] | None, PlainValidator(normalize_headers)] = Field(
        default=None, repr=False, exclude=True
    )
    default_query: Mapping[str, object] | None = Field(default=None, repr=False, exclude=True)
    http_client: Any = Field(default=None, exclude=True)
    http_async_client: Any = Field(default=None, exclude=True)

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    _setting_fields: ClassVar[tuple[str, str, str, str]] = ("model", "base_url", "api_key", "timeout")
    _connected: VLLMServer = PrivateAttr()
    _tokenizers: dict[str, VLLMTokenizer] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any, /) -> None:
        """Make the clients; nothing is sent."""
        super().model_post_init(context)
        self._connect()

    def _connect(self) -> None:
        """Make the clients, and set address and model to what the server has."""
        model, base_url, api_key, timeout = (getattr(self, name) for name in self._setting_fields)
        server = VLLMServer.connect(
            self.server,
            base_url,
            model=model,
            api_key=api_key,
            timeout=timeout,
            max_retries=openai.DEFAULT_MAX_RETRIES if self.max_retries is None else self.max_retries,
            server_version=self.server_version,
            allow_unknown=self.allow_unknown,
            default_headers=self.default_headers,
            default_query=self.default_query,
            http_client=self.http_client,
            async_http_client=self.http_async_client,
        )
        setattr(self, self._setting_fields[0], server.model or "")
        setattr(self, self._setting_fields[1], server.base_url)
        self._connected = server
        self._tokenizers = {}

    @property
    def _server(self) -> VLLMServer:
        """The server, for the model that the object names now: a copy, or its user, may have changed it."""
        model: str = getattr(self, self._setting_fields[0])
        return self._connected if model == (self._connected.model or "") else self._connected.serving(model)

    def _tokenizer(self, *, add_special_tokens: bool) -> VLLMTokenizer:
        """Return the tokenizer of the model that the object names now."""
        server = self._server
        name = server.model or ""
        if name not in self._tokenizers:
            self._tokenizers[name] = VLLMTokenizer(server, add_special_tokens=add_special_tokens)
        return self._tokenizers[name]

    def __getstate__(self) -> dict[Any, Any]:
        # A pickle contains no key, no headers, no connection: the process that loads it reads VLLM_API_KEY itself.
        state = super().__getstate__()
        fields = {name: value for name, value in state["__dict__"].items() if name not in _NOT_PICKLED}
        dropped = {name: None for name in _NOT_PICKLED if name in type(self).model_fields}
        private = {k: v for k, v in (state["__pydantic_private__"] or {}).items() if k not in _NOT_PICKLED}
        return {**state, "__dict__": {**fields, **dropped}, "__pydantic_private__": private}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._connect()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        memo.update({id(client): client for client in (self.http_client, self.http_async_client)})  # not copyable
        return super().__deepcopy__(memo)


_NOT_PICKLED = frozenset(
    {"api_key", "openai_api_key", "default_headers", "_connected", "_tokenizers"}
    | {"client", "async_client", "root_client", "root_async_client", "http_client", "http_async_client"}
)


def reject_unknown_arguments(cls: type[BaseModel], endpoint: str, arguments: Mapping[str, Any]) -> None:
    """Raise for constructor arguments that ``cls`` does not have.

    Args:
        cls: The class that is constructed.
        endpoint: A name of the availability table, e.g. ``"chat"``.
        arguments: The constructor's arguments.

    Raises:
        UnknownParameter: One is no parameter of vLLM's either; the error has the nearest name.
        InvalidRequest: One is a parameter of single calls.
        TypeError: The API key is neither a str nor a SecretStr.
    """
    known = set(cls.model_fields) | {field.alias for field in cls.model_fields.values()}
    for name in arguments:
        if name not in known:
            with langchain_errors():
                raise _unknown_argument(cls, endpoint, name)
    for name in ("api_key", "openai_api_key"):
        if not isinstance(arguments.get(name), str | SecretStr | None):
            # Pydantic's own error would show the value.
            raise TypeError(f"`{name}` must be a str or SecretStr, not {type(arguments[name]).__name__}.")


def _unknown_argument(cls: type[BaseModel], endpoint: str, name: str) -> InvalidRequest:
    if name not in availability.names(endpoint):
        return compat.unknown_parameter(endpoint, name)
    hint = "Pass it per call, to bind() or in model_kwargs" if "model_kwargs" in cls.model_fields else "Remove it"
    return InvalidRequest(f"`{name}` is not an argument of {cls.__name__}", hint=hint, param=name)


def reject_openai_settings(model: Any) -> None:
    """Raise for settings of ``langchain_openai``'s classes that vLLM, or our client, does not have.

    Raises:
        ValueError: ``model`` has one.
    """
    if model.openai_proxy:
        raise ValueError("`openai_proxy` is not supported. Set HTTPS_PROXY, or pass an http_client with a proxy.")
    if getattr(model, "http_socket_options", None):  # chat models only
        raise ValueError("`http_socket_options` is not supported. Pass an http_client with a transport that has them.")
    if model.openai_organization:
        raise ValueError("`organization` is not supported: vLLM has none. Pass a gateway's header in default_headers.")
