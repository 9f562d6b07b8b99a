"""``VLLMComponent``: the connection to a server, the lifecycle and the serialization of all components."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, Self, TypeAlias

import openai
from haystack import Document, default_from_dict, default_to_dict
from haystack.utils import Secret
from haystack.utils.auth import TokenSecret

from vllm_adapters._request.compat import ALLOW_UNKNOWN
from vllm_adapters._transport.credentials import (
    PLACEHOLDER_KEY,
    RedactedStr,
    normalize_base_url,
    normalize_headers,
)
from vllm_adapters.client import AsyncVLLMClient, VLLMClient
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.server import VLLMServer
from vllm_adapters.timeouts import Timeouts

NAMESPACE = "haystack_integrations.components.vllm_adapters"
"""The module that YAML names for the components: Haystack loads it without being configured."""

API_KEY = Secret.from_env_var("VLLM_API_KEY", strict=False)

_CONNECTION = frozenset({"_client", "_async_client", "_server", "_tokenizer"})
"""Attributes that exist only in the process that connected."""


class VLLMComponent:
    """Base class of the components: connected to one vLLM server, warmed up, closed, copied and saved.

    ``@component`` re-creates the classes it decorates, so they call this class by name instead of ``super()``.
    """

    _saved_if_set: ClassVar[frozenset[str]] = frozenset(
        {"default_headers", "default_query", "server_version", "allow_unknown"}
    )
    """Constructor arguments that ``to_dict`` leaves out at their default: vllm-haystack's components have none."""

    def __init__(
        self,
        *,
        model: str | None,
        api_key: Secret | None,
        api_base_url: str | None,
        timeout: float | dict[str, float | None] | None,
        max_retries: int | None,
        http_client_kwargs: dict[str, Any] | None,
        default_headers: Mapping[str, str | Secret] | None,
        default_query: dict[str, Any] | None,
        server: VLLMServer | None,
        server_version: str | None,
        allow_unknown: bool,
    ) -> None:
        if not isinstance(api_key, Secret | None):
            raise TypeError(
                f"`api_key` must be a haystack.utils.Secret, not {type(api_key).__name__}. "
                "Pass Secret.from_env_var(...) or Secret.from_token(...)."
            )
        self.model = model or None
        self.api_key = api_key
        self.api_base_url = api_base_url or normalize_base_url(None)
        self.timeout = timeout
        self.max_retries = max_retries
        self.http_client_kwargs = _convert_credentials(http_client_kwargs, normalize_headers)
        self.default_headers = None if default_headers is None else normalize_headers(default_headers)
        self.default_query = default_query
        self.server_version = server_version
        self.allow_unknown = allow_unknown
        self._given_server: VLLMServer | None = None
        if server is not None:
            if http_client_kwargs:
                raise ValueError(
                    "`http_client_kwargs` cannot be set beside `server`, which has its own. Remove one of them."
                )
            self._given_server = VLLMServer.connect(
                server,
                api_base_url,
                model=self.model,
                default_headers=default_headers,
                default_query=default_query,
                server_version=server_version,
                allow_unknown=allow_unknown,
            )
            self.model = self._given_server.model
            self.api_base_url = server.base_url
        self._server = self._given_server
        self._client: VLLMClient | None = None
        self._async_client: AsyncVLLMClient | None = None

    # Connection

    def warm_up(self) -> None:
        """Read the API key and create the client; no request is sent."""
        if self._client is None:
            self._client = self._connected_server().client

    async def warm_up_async(self) -> None:
        """Async version of ``warm_up``, for ``run_async``."""
        if self._async_client is None:
            self._async_client = self._connected_server().async_client

    def _warm_client(self) -> VLLMClient:
        """Warm the component up if it is not, and return its sync client."""
        while (client := self._client) is None:
            self.warm_up()
        return client

    async def _warm_async_client(self) -> AsyncVLLMClient:
        """Warm the component up if it is not, and return its async client."""
        while (client := self._async_client) is None:
            await self.warm_up_async()
        return client

    def _connected_server(self) -> VLLMServer:
        """Return the server, for the model that is named now."""
        if self._server is None:
            options = _convert_credentials(self.http_client_kwargs, _resolve) or {}
            limit = options.pop("timeout", None)
            limit = limit if self.timeout is None else self.timeout
            self._server = VLLMServer.connect(
                None,
                self.api_base_url,
                model=self.model,
                api_key=RedactedStr((self.api_key.resolve_value() if self.api_key else None) or PLACEHOLDER_KEY),
                timeout=Timeouts() if limit is None else Timeouts(**limit) if isinstance(limit, dict) else limit,
                max_retries=openai.DEFAULT_MAX_RETRIES if self.max_retries is None else self.max_retries,
                default_headers=_resolve(self.default_headers or {}),
                default_query=self.default_query,
                http_options=options,
                server_version=self.server_version,
                allow_unknown=self.allow_unknown,
            )
        elif self.model and self.model != self._server.model:
            self._server = self._server.serving(self.model)
        return self._server

    def _parameters(self, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the parameters of a request; a given server may not let unknown ones pass by itself."""
        return {**(parameters or {}), **({ALLOW_UNKNOWN: True} if self.allow_unknown else {})}

    @property
    def _model_name(self) -> str | None:
        """The served model's name, as far as it is known."""
        return self._connected_server().model_name or None

    def close(self) -> None:
        """Close the client's connections; the next ``warm_up`` makes new ones. A given ``server`` stays open."""
        if self._client is not None and self._given_server is None:
            self._client.close()
        self._client = None
        self._disconnect()

    async def close_async(self) -> None:
        """Async version of ``close``, for the client of ``run_async``."""
        if self._async_client is not None and self._given_server is None:
            await self._async_client.close()
        self._async_client = None
        self._disconnect()

    def _disconnect(self) -> None:
        if self._client is None and self._async_client is None:
            self._server = self._given_server

    # Copies

    def __getstate__(self) -> dict[str, Any]:
        # As for the client: a pickle contains no key and no connection; the process that loads it reads VLLM_API_KEY.
        state = {name: None if name in _CONNECTION else value for name, value in vars(self).items()}
        state["_server"] = self._given_server
        state["http_client_kwargs"] = _convert_credentials(self.http_client_kwargs, _pickled)
        state["default_headers"] = _pickled(self.default_headers or {}) or None
        if isinstance(self.api_key, TokenSecret):
            state["api_key"] = API_KEY
        return state

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = memo[id(self)] = object.__new__(type(self))
        vars(copied).update(deepcopy(vars(self), memo))
        return copied

    # Serialization

    def to_dict(self) -> dict[str, Any]:
        """Return the component as basic types: secrets by the names of their variables.

        Raises:
            ValueError: A secret is given as text instead of by the name of an environment variable.
        """
        return default_to_dict(self, **self._init_parameters())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Return the component that ``to_dict`` saved."""
        parameters = deepcopy(data.get("init_parameters", {}))  # Haystack's loaders change what they get
        cls._load_parameters(parameters)
        return default_from_dict(cls, {**data, "init_parameters": parameters})

    def _init_parameters(self) -> dict[str, Any]:
        """Return the constructor's arguments as they are saved."""
        parameters = inspect.signature(type(self).__init__).parameters
        values = {name: getattr(self, name) for name in parameters if name not in ("self", "server")}
        saved = {
            name: value
            for name, value in values.items()
            if name not in self._saved_if_set or value != parameters[name].default
        }
        saved["http_client_kwargs"] = _convert_credentials(self.http_client_kwargs, _serialize)
        if "default_headers" in saved:
            saved["default_headers"] = _serialize(saved["default_headers"])
        return saved

    @staticmethod
    def _load_parameters(parameters: dict[str, Any]) -> None:
        """Replace, in place, what ``_init_parameters`` has serialized."""
        if parameters.get("http_client_kwargs"):
            parameters["http_client_kwargs"] = _convert_credentials(parameters["http_client_kwargs"], _deserialize)
        if parameters.get("default_headers"):
            parameters["default_headers"] = _deserialize(parameters["default_headers"])


def reject_reserved(parameters: Mapping[str, Any] | None, reserved: Collection[str]) -> None:
    """Raise if ``extra_parameters`` has a name that the component sets itself, which it would override silently.

    Raises:
        InvalidRequest: It does.
    """
    for name in reserved:
        if name in (parameters or {}):
            raise InvalidRequest(
                f"`{name}` cannot be set in `extra_parameters`", hint="Remove it: the component sets it", param=name
            )


def texts_with_meta(documents: Sequence[Document], fields: Sequence[str], separator: str) -> list[str]:
    """Return the documents' texts, each after its meta fields."""
    return [
        separator.join(
            [
                *(str(document.meta[field]) for field in fields if document.meta.get(field) is not None),
                document.content or "",
            ]
        )
        for document in documents
    ]


# Credentials in headers and http_client_kwargs: str or Secret, by name

_Credentials: TypeAlias = Mapping[str, Any]
_CREDENTIALS = ("auth", "cookies", "proxy")
"""Arguments of an HTTP client that may contain credentials, beside ``headers``."""


def _convert_credentials(
    kwargs: Mapping[str, Any] | None, convert: Callable[[_Credentials], _Credentials]
) -> dict[str, Any] | None:
    """Return ``http_client_kwargs`` with its headers and other credentials converted."""
    if kwargs is None:
        return None
    secret = {name: kwargs[name] for name in _CREDENTIALS if _is_secret(kwargs.get(name))}
    headers = {"headers": convert(kwargs["headers"])} if kwargs.get("headers") else {}
    others = {name: value for name, value in kwargs.items() if name not in secret}
    return {**others, **headers, **(convert(secret) if secret else {})}


def _is_secret(value: object) -> bool:
    return "@" in value if isinstance(value, str) else value is not None  # a proxy's URL may have no password


def _resolve(credentials: _Credentials) -> _Credentials:
    """Return the values to send, redacted in every representation; without Secrets whose variable is not set."""
    values = {
        name: value.resolve_value() if isinstance(value, Secret) else value for name, value in credentials.items()
    }
    return {
        name: RedactedStr(value) if isinstance(value, str) else value
        for name, value in values.items()
        if value is not None
    }


def _pickled(credentials: _Credentials) -> _Credentials:
    """Return what a pickle may contain: Secrets that name an environment variable."""
    return {
        name: value
        for name, value in credentials.items()
        if isinstance(value, Secret) and not isinstance(value, TokenSecret)
    }


def _serialize(credentials: _Credentials) -> _Credentials:
    """Return Secrets as basic types.

    Raises:
        ValueError: A value is not a Secret, or is one with a token.
    """
    if not all(isinstance(value, Secret) for value in credentials.values()):
        raise ValueError(
            f"Cannot serialize {', '.join(credentials)}, which may contain credentials. "
            "Pass the values as Secret.from_env_var(...)."
        )
    return {name: value.to_dict() for name, value in credentials.items()}


def _deserialize(credentials: _Credentials) -> _Credentials:
    """Return the Secrets that ``_serialize`` made basic types of."""
    return {
        name: Secret.from_dict(value) if isinstance(value, dict) and value.get("type") == "env_var" else value
        for name, value in credentials.items()
    }
