"""``VLLMComponent``: the connection to a server, the lifecycle and the serialization of all components."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Any, ClassVar, Self

import openai
from haystack import Document, default_from_dict, default_to_dict
from haystack.core.errors import SerializationError
from haystack.core.serialization import generate_qualified_class_name
from haystack.utils import Secret
from haystack.utils.auth import TokenSecret

from vllm_adapters._request import compat
from vllm_adapters._request.compat import ALLOW_UNKNOWN
from vllm_adapters._request.counts import check_count
from vllm_adapters._transport.credentials import PLACEHOLDER_KEY, RedactedStr, normalize_base_url
from vllm_adapters.client import AsyncVLLMClient, VLLMClient
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.haystack import _credentials
from vllm_adapters.server import VLLMServer
from vllm_adapters.timeouts import Timeouts

NAMESPACE = "haystack_integrations.components.vllm_adapters"
"""The module that YAML names for the components: Haystack loads it without being configured."""

API_KEY = Secret.from_env_var("VLLM_API_KEY", strict=False)

_PACKAGE = "vllm_adapters.haystack."
_LIMITS = ("connect", "idle", "total")
_PARAMETERS = ("generation_kwargs", "extra_parameters")

_CONNECTION = frozenset(
    {"_client", "_async_client", "_server", "_tokenizer", "_used", "_warm_tools", "_async_warm_tools"}
)
"""Attributes that exist only in the process that connected."""


class VLLMComponent:
    """Base class of the components: connected to one vLLM server, warmed up, closed, copied and saved.

    ``@component`` re-creates the classes it decorates, so they call this class by name instead of ``super()``.
    Settings may be changed later: they are checked as in the constructor, and the next run connects anew.
    """

    _saved_if_set: ClassVar[frozenset[str]] = frozenset(
        {"default_headers", "default_query", "server_version", "allow_unknown", "validate_model_on_init"}
    )
    """Constructor arguments that ``to_dict`` leaves out at their default: vllm-haystack's components have none."""
    _passed: frozenset[str]
    """Names of the arguments that the constructor was called with."""
    _server: VLLMServer | None
    _client: VLLMClient | None
    _async_client: AsyncVLLMClient | None
    _used: tuple[Any, ...] | None
    """The dicts among the settings with which it is connected."""

    def __init__(
        self,
        *,
        model: str | None,
        api_key: Secret | None,
        api_base_url: str | None,
        timeout: float | Timeouts | dict[str, float | None] | None,
        max_retries: int | None,
        http_client_kwargs: dict[str, Any] | None,
        default_headers: Mapping[str, str | Secret] | None,
        default_query: dict[str, Any] | None,
        server: VLLMServer | None,
        server_version: str | None,
        allow_unknown: bool,
        validate_model_on_init: bool,
    ) -> None:
        self._given_server = server
        self.api_base_url = api_base_url
        self.api_key = api_key
        self.timeout = timeout
        self.max_retries = max_retries
        self.http_client_kwargs = http_client_kwargs
        self.default_headers = default_headers
        self.default_query = default_query
        self.server_version = server_version
        self.allow_unknown = allow_unknown
        self.model = model or None
        self.validate_model_on_init = validate_model_on_init
        if server is not None:
            self.model = self.model or server.model
            self.api_base_url = server.base_url
        self._used = None
        self._disconnect()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        instance = object.__new__(cls)
        names = inspect.signature(cls.__init__).parameters if args else ()
        vars(instance)["_passed"] = frozenset([*list(names)[1 : len(args) + 1], *kwargs])
        return instance

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SETTINGS:
            value = _SETTINGS[name](value)
            if self._given_server is not None:
                _reject_beside_server(self._given_server, name, value)
            self._disconnect()
        elif name in _PARAMETERS and value:
            value = _credentials.redact(value)
        object.__setattr__(self, name, value)

    # Connection

    def warm_up(self) -> None:
        """Read the API key and create the client; no request is sent, unless the model is to be validated."""
        server = self._connected_server()
        if self._client is None:
            if self.validate_model_on_init:
                server.context_length() if server.model else server.client.vllm.served_model()
            self._client = server.client

    async def warm_up_async(self) -> None:
        """Async version of ``warm_up``, for ``run_async``."""
        server = self._connected_server()
        if self._async_client is None:
            if self.validate_model_on_init:
                await (server.acontext_length() if server.model else server.async_client.vllm.served_model())
            self._async_client = server.async_client

    def _warm_client(self) -> VLLMClient:
        """Warm the component up if it is not, and return its sync client."""
        while (client := self._client) is None or not self._is_current():
            self.warm_up()
        return client

    async def _warm_async_client(self) -> AsyncVLLMClient:
        """Warm the component up if it is not, and return its async client."""
        while (client := self._async_client) is None or not self._is_current():
            await self.warm_up_async()
        return client

    def _is_current(self) -> bool:
        """Return whether the client has the present settings; dicts among them may have been changed in place."""
        return self._used == (self.default_headers, self.default_query, self.http_client_kwargs)

    def _connected_server(self) -> VLLMServer:
        """Return the server, for the model that is named now."""
        if not self._is_current():
            self._disconnect()
        if self._server is None:
            self._server = self._given_server or self._connect()
            given = (self.default_headers, self.default_query, self.http_client_kwargs)
            self._used = tuple(None if value is None else _copy(value) for value in given)
        if self.model != self._server.model:
            self._server = self._server.serving(self.model)
        return self._server

    def _connect(self) -> VLLMServer:
        settings = _credentials.change(
            {
                "default_headers": self.default_headers,
                "default_query": self.default_query,
                "http_client_kwargs": self.http_client_kwargs or {},
            },
            _credentials.resolve,
        )
        options = settings["http_client_kwargs"]
        limit = options.pop("timeout", None)
        limit = limit if self.timeout is None else self.timeout
        return VLLMServer.connect(
            None,
            self.api_base_url,
            api_key=RedactedStr((self.api_key.resolve_value() if self.api_key else None) or PLACEHOLDER_KEY),
            timeout=Timeouts() if limit is None else Timeouts(**limit) if isinstance(limit, dict) else limit,
            max_retries=openai.DEFAULT_MAX_RETRIES if self.max_retries is None else self.max_retries,
            default_headers=settings["default_headers"],
            default_query=settings["default_query"],
            http_options=options,
            server_version=self.server_version,
            allow_unknown=self.allow_unknown,
        )

    def _parameters(self, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the parameters of a request; a given server may not let unknown ones pass by itself."""
        found = _credentials.change(parameters or {}, _credentials.resolve)
        return {**found, ALLOW_UNKNOWN: True} if self.allow_unknown else found

    def _check_parameters(self, endpoint: str, parameters: Mapping[str, Any] | None, reserved: Collection[str]) -> None:
        """Raise for parameters that no request could have.

        Args:
            endpoint: A name of the availability table, e.g. ``"rerank"``.
            parameters: ``extra_parameters`` of the constructor.
            reserved: Names that the component sets itself, and that would override it.

        Raises:
            InvalidRequest: There is one, or its value is invalid.
        """
        if not parameters:
            return
        for name in reserved:
            if name in parameters:
                raise InvalidRequest(
                    f"`{name}` cannot be set in `extra_parameters`", hint="Remove it: the component sets it", param=name
                )
        parameters = _credentials.change(parameters, _credentials.stand_in)
        if not self._allows_unknown():
            compat.reject_unknown(endpoint, parameters)
        compat.validate_params(endpoint, parameters)

    def _allows_unknown(self) -> bool:
        return self.allow_unknown or (self._given_server is not None and self._given_server.client.vllm.allow_unknown)

    @property
    def _model_name(self) -> str | None:
        """The served model's name, as far as it is known."""
        return self._connected_server().model_name or None

    def close(self) -> None:
        """Close the client's connections; the next ``warm_up`` makes new ones. A given ``server`` stays open."""
        if self._client is not None and self._given_server is None:
            self._client.close()
        self._client = None
        if self._async_client is None:
            self._server = None

    async def close_async(self) -> None:
        """Async version of ``close``, for the client of ``run_async``."""
        if self._async_client is not None and self._given_server is None:
            await self._async_client.close()
        self._async_client = None
        if self._client is None:
            self._server = None

    def _disconnect(self) -> None:
        """Leave the clients to the runs that use them; the next run connects with the settings of then."""
        self._server = self._client = self._async_client = None

    # Copies

    def __getstate__(self) -> dict[str, Any]:
        # As for the client: a pickle contains no key and no connection; the process that loads it reads VLLM_API_KEY.
        state = {name: None if name in _CONNECTION else value for name, value in vars(self).items()}
        if isinstance(self.api_key, TokenSecret):
            state["api_key"] = API_KEY
        return _credentials.change(state, _credentials.pickled)

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
            SerializationError: A subclass has a parameter whose value is not known.
        """
        return {**default_to_dict(self, **self._init_parameters()), "type": self._type()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Return the component that ``to_dict`` saved."""
        parameters = deepcopy(data.get("init_parameters", {}))  # Haystack's loaders change what they get
        parameters = cls._load_parameters(parameters)
        type_ = generate_qualified_class_name(cls) if data.get("type") == cls._type() else data.get("type")
        return default_from_dict(cls, {**data, "type": type_, "init_parameters": parameters})

    @classmethod
    def _type(cls) -> str:
        """Return the name of the class in YAML."""
        return f"{NAMESPACE}.{cls.__name__}" if cls is cls._base() else generate_qualified_class_name(cls)

    @classmethod
    def _base(cls) -> type[Any]:
        """Return the class of this package that the class is, or inherits from."""
        return next(base for base in cls.__mro__ if base.__module__.startswith(_PACKAGE))

    def _init_parameters(self) -> dict[str, Any]:
        """Return the constructor's arguments as they are saved."""
        known = inspect.signature(self._base().__init__).parameters
        accepted = inspect.signature(type(self).__init__).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        saved = {
            name: value
            for name, parameter in known.items()
            if name not in ("self", "server") and (takes_all or name in accepted)
            for value in [getattr(self, name)]
            if name not in self._saved_if_set or value != parameter.default
        }
        for name in accepted.keys() - known.keys():
            if hasattr(self, name):
                saved[name] = getattr(self, name)
            elif name in self._passed and type(self).to_dict is VLLMComponent.to_dict:
                raise SerializationError(
                    f"`{name}` of {type(self).__name__} cannot be saved: its value is not known. "
                    f"Keep it as self.{name}, or override to_dict."
                )
        if (server := self._given_server) is not None:
            limits, retries = server.client.vllm.timeouts, server.client.max_retries
            of_the_server = {
                "timeout": None if limits == Timeouts() else limits,
                "max_retries": None if retries == openai.DEFAULT_MAX_RETRIES else retries,
                "server_version": str(server._clients.options.get("server_version") or "") or None,
            }
            if not server._clients.address_given:
                saved["api_base_url"] = None
            saved |= {name: value for name, value in of_the_server.items() if value is not None}
        if "timeout" in saved:
            saved["timeout"] = _saved_timeout(saved["timeout"])
        if (options := saved.get("http_client_kwargs")) and "timeout" in options:
            saved["http_client_kwargs"] = {**options, "timeout": _saved_timeout(options["timeout"])}
        return _credentials.change(saved, _credentials.serialize)

    @staticmethod
    def _load_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments of what ``_init_parameters`` has serialized."""
        return _credentials.change(parameters, _credentials.deserialize)


# Settings


def _check_address(value: Any) -> str | None:
    """Return an address as it was given. Credentials in it, which it would show, are rejected at once.

    Raises:
        WrongAddress: It contains a user name or password.
        ValueError: It contains a query.
    """
    if value and "@" in str(value):
        normalize_base_url(value)
    if value and "?" in str(value):
        raise ValueError("`api_base_url` contains a query, which may be a key. Set `default_query`.")
    return None if value is None else str(value)


def _check_api_key(value: Any) -> Secret | None:
    if not isinstance(value, Secret | None):
        raise TypeError(
            f"`api_key` must be a haystack.utils.Secret, not {type(value).__name__}. "
            "Pass Secret.from_env_var(...) or Secret.from_token(...)."
        )
    return value


def _check_timeout(value: Any) -> Any:
    if isinstance(value, dict):
        if unknown := sorted(map(str, value.keys() - _LIMITS)):
            raise TypeError(f"`timeout` has no `{unknown[0]}`. Pass any of: {', '.join(_LIMITS)}.")
        Timeouts(**value)
    elif value is not None:
        Timeouts.of(value)
    return value


def _saved_timeout(value: Any) -> Any:
    """Return a timeout as basic types."""
    return value if isinstance(value, dict | int | float | None) else asdict(Timeouts.of(value))


def _check_max_retries(value: Any) -> int | None:
    return None if value is None else check_count("max_retries", value, least=0)


def _check_http_client_kwargs(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, Mapping | None):
        raise TypeError(f"`http_client_kwargs` must be a dict, not {type(value).__name__}.")
    if value is None:
        return None
    _check_timeout(value.get("timeout"))
    return _credentials.redact(value)


def _check_default_query(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, Mapping | None):
        raise TypeError(f"`default_query` must be a dict, not {type(value).__name__}.")
    return None if value is None else dict(_credentials.redact({"default_query": value})["default_query"])


def _as_given(value: Any) -> Any:
    return value


_SETTINGS: Mapping[str, Callable[[Any], Any]] = {
    "api_base_url": _check_address,
    "api_key": _check_api_key,
    "timeout": _check_timeout,
    "max_retries": _check_max_retries,
    "http_client_kwargs": _check_http_client_kwargs,
    "default_headers": lambda value: _credentials.redact({"default_headers": value})["default_headers"],
    "default_query": _check_default_query,
    "server_version": _as_given,
    "allow_unknown": _as_given,
}
"""What connects a component, and how its values are checked."""


def _reject_beside_server(server: VLLMServer, name: str, value: Any) -> None:
    """Raise for a setting that a given server has already.

    Raises:
        ValueError: It is set.
    """
    if name == "api_base_url":
        VLLMServer.connect(server, value)
        return
    unset = {
        "api_key": API_KEY,
        "timeout": server.client.vllm.timeouts,
        "max_retries": server.client.max_retries,
    }.get(name)
    if name == "timeout" and value is not None:
        value = Timeouts(**value) if isinstance(value, dict) else Timeouts.of(value)
    if name != "allow_unknown" and value not in (None, {}, unset):
        raise ValueError(f"`{name}` cannot be set beside `server`, which has its own. Remove one of them.")


def _copy(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dict(item) if isinstance(item, dict) else item for name, item in value.items()}


# Documents


def check_documents(documents: Any, message: str) -> None:
    """Raise ``TypeError`` with a message if documents are not a list of ``Document``."""
    if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
        raise TypeError(message)


def check_fields(name: str, fields: Any) -> list[str]:
    """Return names of meta fields; none for ``None``.

    Raises:
        TypeError: They are not a list of str.
    """
    if isinstance(fields, str) or not isinstance(fields, Sequence | None):
        raise TypeError(f"`{name}` must be a list of str, not {type(fields).__name__}. Pass [field].")
    return list(fields or ())


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
