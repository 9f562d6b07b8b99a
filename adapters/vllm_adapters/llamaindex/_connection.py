"""Connection settings that ``VLLM``, ``VLLMEmbedding`` and ``VLLMRerank`` share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar, copy_context
from multiprocessing.reduction import ForkingPickler
from threading import Thread
from typing import Annotated, Any, ClassVar, Self

import openai
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    SecretStr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from vllm_adapters._client.endpoint import parse_models
from vllm_adapters._request import compat
from vllm_adapters._transport.credentials import (
    PLACEHOLDER_KEY,
    normalize_api_key,
    normalize_base_url,
    normalize_headers,
)
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.server import VLLMServer
from vllm_adapters.timeouts import Timeouts

SERVED_MODEL = "served_model"
"""Key of a dump: which model it was whose name is not given. Caches of LlamaIndex compare dumps."""

_OF_THE_SERVER = ("timeout", "max_retries", "server_version", "allow_unknown")
"""Settings that are taken over from ``server``, so that dumps contain them."""

_PRIVATE = ("api_key", "default_headers", "default_query", "http_client", "async_http_client")
"""Settings that no dump and no pickle contains."""

_SETTINGS = frozenset({"api_base", "base_url", "server", *_OF_THE_SERVER, *_PRIVATE})

SECONDS_IN_A_LOOP = 0.1
"""How long LlamaIndex's synchronous hooks may stop an event loop, in seconds."""

_FOR_A_CHILD_PROCESS: ContextVar[bool] = ContextVar("_FOR_A_CHILD_PROCESS", default=False)


class FixedDict(dict[str, Any]):
    """A dict that cannot be changed in place, which the clients would not notice."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("`default_headers` and `default_query` cannot be changed in place. Assign a new dict.")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _headers(headers: Mapping[str, Any] | None) -> FixedDict | None:
    return FixedDict(normalize_headers(headers)) if headers is not None else None


class Connection(BaseModel):
    """Fields that say where the server is and how to connect to it. Nothing is sent before the first call.

    A field that is assigned later, or changed by ``model_copy(update=...)``, is validated as by the constructor, and
    the next call follows it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    api_base: str | None = Field(
        default=None, description="Base URL; default: `VLLM_BASE_URL`, else http://localhost:8000/v1."
    )
    base_url: str | None = Field(default=None, description="The same as `api_base`.", exclude=True)
    api_key: SecretStr | Callable[[], Any] | None = Field(
        default=None,
        description="Key of `vllm serve --api-key`, or a function that returns it; default: `VLLM_API_KEY`.",
        exclude=True,
        repr=False,
    )
    timeout: Timeouts | float | None = Field(
        default=Timeouts(), description="Seconds, or `Timeouts(connect=30, idle=600, total=3600)`."
    )
    max_retries: int = Field(
        default=openai.DEFAULT_MAX_RETRIES, ge=0, description="Further attempts after connection errors, 429 and 5xx."
    )
    default_headers: Annotated[dict[str, str] | None, PlainValidator(_headers)] = Field(
        default=None, description="Headers of every request.", exclude=True, repr=False
    )
    default_query: Annotated[dict[str, Any], AfterValidator(FixedDict)] | None = Field(
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
    validate_model_on_init: bool = Field(
        default=False, description="Ask the server in the constructor whether it serves the model.", exclude=True
    )

    _server: VLLMServer = PrivateAttr()
    _unknown_model: str = PrivateAttr(default_factory=lambda: f"unknown-{uuid.uuid4().hex}")
    _endpoint: ClassVar[str]
    _model_field: ClassVar[str] = "model"

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        ForkingPickler.register(cls, _reduce_for_a_child_process)

    @classmethod
    def _reject_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """Raise for arguments that Pydantic would ignore, or whose value its error would show.

        Raises:
            UnknownParameter: There is no field of that name.
            TypeError: The API key is neither a text nor a function.
        """
        for name in arguments:
            if name not in cls.model_fields:
                raise compat.unknown_parameter(cls._endpoint, name)
        key = arguments.get("api_key")
        if not isinstance(key, str | SecretStr | None) and not callable(key):
            raise TypeError(
                f"`api_key` must be a str, a SecretStr or a function, not {type(key).__name__}. Pass the key as text."
            )

    # Connecting, at first and when a setting changes

    def _connect(self) -> None:
        """Set the server, and fill in its address, its settings and its model's name.

        Raises:
            InvalidRequest: ``api_base`` and ``base_url`` are different addresses.
            ValueError: ``server`` is given with another address, or with settings that it has itself.
        """
        fields = vars(self)
        self._server = _make_server(fields, self._model_field, given=self.model_fields_set)
        fields[self._model_field] = self._server.model or ""
        if self.validate_model_on_init:
            self._validate_model()

    def _validate_model(self) -> int | None:
        """Return the context length of the model.

        Raises:
            VLLMError: The server cannot be reached.
            ModelNotServed: It does not serve the model; or, if none is named, not exactly one.
        """
        client = self._served.client.vllm
        if not getattr(self, self._model_field):
            client.served_model()
        cards = client.run(client.info.look_up_models())  # the client keeps the list: one request
        return self._served._context_length(parse_models(cards))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).model_fields:
            self._assign({name: value})
        else:
            super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values, which are validated.

        Args:
            update: Values by name.
            deep: Whether values are copied, too.

        Raises:
            UnknownParameter: There is no field of that name.
            pydantic.ValidationError: A value is of the wrong type or out of bounds.
        """
        copied = super().model_copy(deep=deep)
        if update:
            copied._assign(update)
        return copied

    def _assign(self, changes: Mapping[str, Any]) -> None:
        """Set fields to new values, all of them or, if one is invalid, none; connect again if a setting changes."""
        self._reject_arguments(changes)
        values = self._validated(changes)
        if not _SETTINGS.isdisjoint(changes) and "_server" in (self.__pydantic_private__ or ()):
            for name, other in (("api_base", "base_url"), ("base_url", "api_base")):
                if name in changes and other not in changes:
                    values[other] = values[name]
            model, before, before_server = self._model_field, self._server, self.server
            if values["server"] is not before_server:
                if values["server"] is not None:
                    values.update(dict.fromkeys({"api_base", "base_url"} - changes.keys()))
                if values[model] == (before.model or "") and model not in changes:
                    values[model] = ""
            self._server = _make_server(values, model, given=changes)
            values[model] = values[model] or self._server.model or ""
            self._reset()
        vars(self).update(values)
        self.__pydantic_fields_set__.update(changes)

    def _reset(self) -> None:
        """Forget what is known of the server."""
        self._unknown_model = f"unknown-{uuid.uuid4().hex}"

    def _validated(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of all fields with changes, validated as by the constructor."""
        cls = type(self)
        draft = cls.__new__(cls)  # validation changes the object, and one of several changes may be invalid
        object.__setattr__(draft, "__dict__", dict(vars(self)))
        object.__setattr__(draft, "__pydantic_fields_set__", set())
        object.__setattr__(draft, "__pydantic_extra__", None)
        object.__setattr__(draft, "__pydantic_private__", None)
        for name, value in changes.items():
            cls.__pydantic_validator__.validate_assignment(draft, name, value)
        return vars(draft)

    @property
    def _served(self) -> VLLMServer:
        """The server with the model that is named now: the field can be set, and copies can name another one."""
        model = getattr(self, self._model_field)
        return self._server if model == (self._server.model or "") else self._server.serving(model)

    # Dumps and pickles

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Add LlamaIndex's class name; and the served model, by which its caches tell models apart, if none is named.

        ``IngestionCache`` finds vectors by the dump of the embedding model. A model that is not known yet has a value
        that no other object has.
        """
        data: dict[str, Any] = handler(self)
        data["class_name"] = self.class_name()  # type: ignore[attr-defined]
        if not getattr(self, self._model_field):
            data[SERVED_MODEL] = self._server.model_name or self._unknown_model
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Return the object of a dump; fields that are not part of it can be given, such as ``api_key``."""
        fields = {name: value for name, value in data.items() if name != SERVED_MODEL}
        found: Self = super().from_dict(fields, **kwargs)  # type: ignore[misc]
        return found

    def __getstate__(self) -> dict[Any, Any]:
        # A pickle contains no key, no headers and no connection: VLLM_API_KEY is read where it is loaded.
        copied = super().model_copy()
        left_out = self._credentials() if self._keeps_credentials() else dict.fromkeys(_PRIVATE)
        vars(copied).update(left_out, validate_model_on_init=False)  # nothing is sent where it is loaded
        return super(Connection, copied).__getstate__()

    @staticmethod
    def _keeps_credentials() -> bool:
        """Return whether an object is pickled for a child process of this one."""
        return _FOR_A_CHILD_PROCESS.get()

    def _credentials(self) -> dict[str, Any]:
        """Return what a child process of this one needs to connect as this one does."""
        client = self._server.client
        return {
            "api_base": self._server.base_url,
            "api_key": client.vllm.api_key_provider or SecretStr(str(client.api_key)),
            "default_headers": dict(client._custom_headers) or None,
            "default_query": dict(client._custom_query) or None,
            "http_client": None,
            "async_http_client": None,
            "server": None,
        }


def run_briefly(function: Callable[..., object], *args: Any) -> bool:
    """Run a function that sends a request. While an event loop runs, which would stand still, wait 0.1 s at most.

    Returns:
        Whether it has ended. If not, it goes on in a thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        function(*args)
        return True
    thread = Thread(target=copy_context().run, args=(function, *args), daemon=True)
    thread.start()
    thread.join(SECONDS_IN_A_LOOP)
    return not thread.is_alive()


def _make_server(fields: dict[str, Any], model: str, *, given: Collection[str]) -> VLLMServer:
    """Return the server of some fields, and fill in its address and its settings.

    Args:
        fields: The values of a ``Connection``'s fields.
        model: The field with the model's name.
        given: The names of those that the user gave.

    Raises:
        InvalidRequest: ``api_base`` and ``base_url`` are different addresses.
        ValueError: ``server`` is given with another address, or with settings that it has itself.
    """
    addresses = {normalize_base_url(url) for url in (fields["api_base"], fields["base_url"]) if url}
    if len(addresses) > 1:
        raise InvalidRequest(
            f"`api_base` and `base_url` are different addresses: {', '.join(sorted(addresses))}",
            hint="Pass one of them",
        )
    if fields["server"] is not None:
        _take_over_settings(fields, given)
    names = (*_OF_THE_SERVER, *_PRIVATE)
    server = VLLMServer.connect(
        fields["server"],
        fields["api_base"] or fields["base_url"],
        model=fields[model],
        **{name: fields[name] for name in names if fields["server"] is None or name in _PRIVATE},
    )
    fields["api_base"] = fields["base_url"] = server.base_url
    return server


def _take_over_settings(fields: dict[str, Any], given: Collection[str]) -> None:
    """Set the settings that ``server`` has.

    Raises:
        ValueError: One was given and is another one.
    """
    client = fields["server"].client
    state = client.vllm
    found = {
        "timeout": state.timeouts,
        "max_retries": client.max_retries,
        "server_version": str(state.info.version) if state.info.version_given else None,
        "allow_unknown": state.allow_unknown,
    }
    own = {**fields, "timeout": Timeouts.of(fields["timeout"])}
    other = {name for name in found if name in given and own[name] is not None and own[name] != found[name]}
    key = fields["api_key"]
    if callable(key):
        other |= set() if key is state.api_key_provider else {"api_key"}
    elif key is not None and normalize_api_key(key) not in (PLACEHOLDER_KEY, client.api_key):
        other.add("api_key")
    if other:
        raise ValueError(
            f"`{min(other)}` cannot be set beside `server`, which has its own. "
            f"Pass it to VLLMServer, or remove one of them."
        )
    fields.update(found)


def _reduce_for_a_child_process(part: Connection) -> tuple[Any, ...]:
    """Pickle an object for ``multiprocessing``, which hands it to a process of this user: with its credentials."""
    token = _FOR_A_CHILD_PROCESS.set(True)
    try:
        return _load, (type(part), part.__getstate__())
    finally:
        _FOR_A_CHILD_PROCESS.reset(token)


def _load(cls: type[Connection], state: dict[Any, Any]) -> Connection:
    part = cls.__new__(cls)
    part.__setstate__(state)
    return part
