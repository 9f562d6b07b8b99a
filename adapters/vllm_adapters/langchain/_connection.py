"""The server of a LangChain object: the settings that all classes of this package share, and the connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Self

import openai
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, PrivateAttr, SecretStr

from vllm_adapters._client.endpoint import parse_models
from vllm_adapters._request import availability, compat
from vllm_adapters._request.body import SEND_OPTIONS
from vllm_adapters._transport.credentials import normalize_base_url, normalize_headers
from vllm_adapters.client import VLLMClient
from vllm_adapters.errors import InvalidRequest, VLLMError
from vllm_adapters.langchain._secrets import hide, without_secrets
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.server import VLLMServer
from vllm_adapters.timeouts import Timeouts
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
    validate_model_on_init: bool = Field(default=False, exclude=True)

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    _setting_fields: ClassVar[tuple[str, str, str, str]] = ("model", "base_url", "api_key", "timeout")
    _endpoint: ClassVar[str]
    _connected: VLLMServer = PrivateAttr()
    _failure: VLLMError | None = PrivateAttr(default=None)
    _tokenizers: dict[str, VLLMTokenizer] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any, /) -> None:
        """Make the clients; nothing is sent, unless ``validate_model_on_init``."""
        super().model_post_init(context)
        self._connect()
        if self.validate_model_on_init:
            with langchain_errors():
                self._use_context_length(self._validate_model())

    def _use_context_length(self, length: int | None) -> None:
        """Note the context length that the server tells; only chat models have a place for it."""

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
        vars(self)[self._setting_fields[0]] = server.model or ""
        vars(self)[self._setting_fields[1]] = server.base_url
        self._connected = server
        self._tokenizers = {}

    def _validate_model(self) -> int | None:
        """Return the context length of the model, after asking the server whether it serves it.

        Raises:
            VLLMError: The server cannot be reached.
            ModelNotServed: It does not serve the model; or, if none is named, not exactly one.
        """
        client, name = self._connected.client.vllm, self._setting_fields[0]
        vars(self)[name] = vars(self)[name] or client.served_model()
        return self._server._context_length(parse_models(client.run(client.info.look_up_models())))  # one request

    # Changes

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, which follows changes of address, key, timeout and the other connection settings.

        A key, headers and query parameters stay with the server that they were given for: a copy with another address
        has those of ``update`` only, or the environment's key.

        Args:
            update: Fields of the copy, under their names or those of the constructor's arguments.
            deep: Copy the values, too.

        Raises:
            UnknownParameter: ``update`` has a name that the class does not have.
            ValueError: Connection settings are changed beside a ``server``.
        """
        changes = self._by_field(update or {})
        settings = changes.keys() & (_CONNECTION_FIELDS | {*self._setting_fields[1:]})
        if not settings:
            return super().model_copy(update=changes, deep=deep)
        _, base_url, api_key, timeout = self._setting_fields
        credentials = {api_key: None, "default_headers": None, "default_query": None}
        if changes.get("server") is not None:
            others = {name: type(self).model_fields[name].default for name in _CONNECTION_FIELDS - {"allow_unknown"}}
            changes = {**others, base_url: None, timeout: Timeouts(), **credentials, **changes}
        elif self.server is not None and "server" not in changes and settings - {"allow_unknown"}:
            name = next(iter(settings - {"allow_unknown"}))
            raise ValueError(f"`{name}` cannot be set beside `server`, which has its own. Set another server.")
        elif "server" in changes or normalize_base_url(changes.get(base_url, self._address)) != self._address:
            changes = {**credentials, **changes}
        if isinstance(changes.get(api_key), str):
            changes[api_key] = SecretStr(changes[api_key])
        if "default_headers" in changes:
            changes["default_headers"] = normalize_headers(changes["default_headers"]) or None
        copied = super().model_copy(update=changes, deep=deep)
        copied._connect()
        return copied

    def _by_field(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values by field name, given by these or by the names of the constructor's arguments."""
        fields = type(self).model_fields
        names = {field.alias: name for name, field in fields.items() if field.alias}
        for name in values:
            if name not in fields and name not in names and name not in self.__private_attributes__:
                with langchain_errors():
                    raise _unknown_argument(type(self), self._endpoint, name)
        return {names.get(name, name): value for name, value in values.items()}

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CONNECTION_FIELDS or name in self._setting_fields[1:]:
            changed = self.model_copy(update={name: value})
            for attribute in ("__dict__", "__pydantic_private__", "__pydantic_fields_set__"):
                object.__setattr__(self, attribute, getattr(changed, attribute))
        else:
            super().__setattr__(name, value)

    @property
    def _credentials(self) -> tuple[Any, ...]:
        """The credentials of every request, for the key of a cache; the keys that a function returns are one."""
        client = self._connected.client
        key = "" if client.vllm.api_key_provider else client.api_key
        return key, client._custom_headers, client._custom_query

    @property
    def _address(self) -> str:
        return self._connected.base_url

    # Use

    @property
    def _server(self) -> VLLMServer:
        """The server, for the model that the object names now: a copy, or its user, may have changed it."""
        model: str = getattr(self, self._setting_fields[0])
        return self._connected if model == (self._connected.model or "") else self._connected.serving(model)

    def _with_known_model(self, call: Mapping[str, Any]) -> Self:
        """Return the object once its model's name is known: traces and caches have it from the first call on.

        Args:
            call: The call's parameters.

        Returns:
            The object; a copy whose calls raise if the look-up fails, so that traces have the error as the call's.
        """
        if vars(self)[self._setting_fields[0]] or self._knows_model(call):
            return self
        try:
            self._connected.client.vllm.served_model()
        except VLLMError as error:
            return self._failing(error)
        return self

    async def _awith_known_model(self, call: Mapping[str, Any]) -> Self:
        """Async version of ``_with_known_model``."""
        if vars(self)[self._setting_fields[0]] or self._knows_model(call):
            return self
        try:
            await self._connected.async_client.vllm.served_model()
        except VLLMError as error:
            return self._failing(error)
        return self

    def _knows_model(self, call: Mapping[str, Any]) -> bool:
        """Return whether a call knows its model, or is rejected before it asks for it."""
        return bool(call.get("model") or self._model_name or self._failure or not self._is_valid(call))

    @property
    def _model_name(self) -> str:
        """The model's name, as far as it is known without a request; else empty."""
        return vars(self)[self._setting_fields[0]] or self._connected.client.vllm.info.model or ""

    def _is_valid(self, call: Mapping[str, Any]) -> bool:
        raise NotImplementedError

    def _failing(self, error: VLLMError) -> Self:
        copied = self.model_copy()
        copied._failure = error
        return copied

    @contextmanager
    def _call_errors(self) -> Iterator[None]:
        """Raise errors of a call as LangChain's, also that of the look-up before it."""
        with langchain_errors():
            if self._failure is not None:
                raise self._failure
            yield

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
        for name in fields.keys() & {"model_kwargs", "extra_body"}:
            fields[name] = without_secrets(fields[name]) if fields[name] else fields[name]
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


_CONNECTION_FIELDS = frozenset(
    [
        "server",
        "server_version",
        "allow_unknown",
        "max_retries",
        "default_headers",
        "default_query",
        "http_client",
        "http_async_client",
    ]
)
"""The fields that ``_connect`` reads, besides those that each class names otherwise."""

RUN_ARGUMENTS = frozenset(["callbacks", "config", "metadata", "run_id", "run_name", "stop", "stream_usage", "tags"]) | {
    "ls_structured_output_format",
    "structured_output_format",
}
"""Arguments of LangChain's methods that are not sent, or not under this name."""


def is_valid(endpoint: str, call: Mapping[str, Any], make_body: Callable[..., Mapping[str, Any]]) -> bool:
    """Return whether a call's parameters are accepted; if not, the call itself tells why.

    Args:
        endpoint: A name of the availability table.
        call: The call's parameters.
        make_body: Returns the body for the parameters.
    """
    try:
        body = dict(make_body(**{name: value for name, value in call.items() if name not in RUN_ARGUMENTS}))
        body |= body.pop("extra_body", None) or {}
        compat.reject_unknown(endpoint, {name: body[name] for name in body.keys() - SEND_OPTIONS})
    except (VLLMError, ValueError, TypeError):
        return False
    return True


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
        UnknownParameter: One is not a parameter of vLLM either; the error has the nearest name.
        InvalidRequest: One is a parameter of single calls.
        TypeError: The API key is neither a str nor a SecretStr.
    """
    known = set(cls.model_fields) | {field.alias for field in cls.model_fields.values()}
    for name in arguments:
        if name not in known:
            with langchain_errors():
                raise _unknown_argument(cls, endpoint, name)
    for name in ("api_key", "openai_api_key"):
        key = arguments.get(name)
        if not (isinstance(key, str | SecretStr | None) or callable(key)):
            # Pydantic's own error would show the value.
            raise TypeError(f"`{name}` must be a str, a SecretStr or a function, not {type(key).__name__}.")


def move_call_parameters(cls: type[BaseModel], endpoint: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments with parameters of a request that are not fields in ``model_kwargs``.

    Args:
        cls: The class that is constructed.
        endpoint: A name of the availability table.
        arguments: The constructor's arguments.
    """
    fields = {*cls.model_fields, *(field.alias for field in cls.model_fields.values())}
    names = availability.names(endpoint) - _NOT_CONSTRUCTOR - fields
    moved = {name: value for name, value in arguments.items() if name in names}
    changed = {name: value for name, value in arguments.items() if name not in moved}
    given = changed.get("model_kwargs")
    if moved or given:
        changed["model_kwargs"] = hide({**moved, **(given or {})})
    return changed


_NOT_CONSTRUCTOR = frozenset({"messages", "prompt", "model", "stream"})


def drop_credentials_of_another_server(cls: type[ServerConnection], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments without the credentials of the object that they were taken from, if any.

    LangChain's ``configurable_fields`` constructs an object from the fields of another, with another address.

    Args:
        cls: The class that is constructed.
        arguments: The constructor's arguments.
    """
    client = getattr(arguments.get("client"), "_client", None)
    _, base_url, api_key, _ = cls._setting_fields
    address = arguments.get(base_url)
    if not isinstance(client, VLLMClient) or not address or normalize_base_url(address) == client.vllm.address:
        return dict(arguments)
    key = arguments.get(api_key)
    old = {
        api_key: key is client.vllm.api_key_provider
        or (isinstance(key, SecretStr) and key.get_secret_value().strip() == client.api_key),
        "default_headers": arguments.get("default_headers") == client._custom_headers,
        "default_query": arguments.get("default_query") == client._custom_query,
    }
    return {name: value for name, value in arguments.items() if not old.get(name)}


def _unknown_argument(cls: type[BaseModel], endpoint: str, name: str) -> InvalidRequest:
    if name not in availability.names(endpoint):
        return compat.unknown_parameter(endpoint, name)
    hint = "Pass it per call" if "model_kwargs" in cls.model_fields else "Remove it"
    if name == "stream":
        hint = "Pass streaming=True, or call stream()"
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
