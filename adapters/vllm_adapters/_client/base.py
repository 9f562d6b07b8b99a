"""``BaseVLLMClient``: everything that ``VLLMClient`` and ``AsyncVLLMClient`` share, without I/O."""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import quote

import openai
from openai import NOT_GIVEN
from openai._base_client import HTTPX_DEFAULT_TIMEOUT
from openai._constants import RAW_RESPONSE_HEADER
from openai._models import FinalRequestOptions
from openai._types import NotGiven
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from packaging.version import Version
from pydantic import ValidationError

from vllm_adapters._client import checks
from vllm_adapters._client.discovery import LookUp, ServerInfo
from vllm_adapters._compat import http
from vllm_adapters._request import availability, compat, responses, system_messages
from vllm_adapters._request.constraints import reject_harmful
from vllm_adapters._request.counts import check_count
from vllm_adapters._request.encode import encoding_error
from vllm_adapters._response import error_mapping, logs
from vllm_adapters._response.error_mapping import RequestContext
from vllm_adapters._response.structured import FORM_NAMES, unenforced_constraint
from vllm_adapters._response.validate import decodes_as_float32, validate_types
from vllm_adapters._transport.credentials import (
    PLACEHOLDER_KEY,
    APIKey,
    RedactedStr,
    RedactedURL,
    normalize_api_key,
    normalize_base_url,
    normalize_headers,
    normalize_query,
    redact_values,
    request_key,
)
from vllm_adapters._transport.http import CALL, DEADLINE, AsyncHTTP, Deadline, HTTPClients, ReplyStream, SyncHTTP
from vllm_adapters._transport.pool import make_http_clients
from vllm_adapters._version import __version__
from vllm_adapters.errors import VLLMError
from vllm_adapters.timeouts import Timeouts

if TYPE_CHECKING:
    from vllm_adapters._client import telemetry

_JITTER = 0.1
"""Part of a wait by which it is extended at random, so that the clients of a server do not return all at once."""
OPENTELEMETRY = "opentelemetry.trace"
"""Without this module nothing is recorded, and nothing of ``telemetry`` is imported."""
_MAX_URLS = 64
"""Parsed URLs of a client that are kept."""
_SESSION_HEADER = "X-Session-ID"
_HEADER_SAFE = "!#$&'()*+,/:;=?@[]{}|"
_COMPLETIONS = (ChatCompletionChunk, ChatCompletion, Completion)


@dataclass(frozen=True)
class ClientState:
    """What our clients add to the SDK's, under ``client.vllm``.

    Args:
        address: The server's base URL, ending in ``/v1``.
        info: What is known of the server, shared with other clients of it.
        timeouts: Time limits of a call.
        max_connections: Connections at once.
        allow_unknown: Whether body fields pass that no vLLM version has.
        http_clients: The HTTP clients, shared with copies of the client.
        api_key_provider: The function that returns the current API key, if the user gave one.
        own_http_client: The user's HTTP client, if one was given.
        http_options: The user's arguments for the HTTP clients.
        run: Runs a look-up with the client.
    """

    address: str
    info: ServerInfo
    timeouts: Timeouts
    max_connections: int
    allow_unknown: bool
    http_clients: HTTPClients[Any]
    own_http_client: Any
    http_options: Mapping[str, Any] | None
    api_key_provider: Callable[[], Any] | None
    run: Callable[[LookUp[Any]], Any]

    @property
    def root(self) -> str:
        """The server's root, which has ``/version``, ``/health`` and ``/tokenize``."""
        return self.address.removesuffix("/v1")

    def context(self, options: FinalRequestOptions | None) -> RequestContext:
        """Return the request of ``options``, for errors."""
        if options is None:
            return RequestContext(self.address)
        body = options.json_data if isinstance(options.json_data, Mapping) else {}
        return RequestContext(self.address, availability.path_of(options.url), body.get("model") or self.info.model)


class BaseVLLMClient:
    """The part of both clients that does no I/O: how they are made and copied, what they send, what they accept."""

    _http_class: type[SyncHTTP] | type[AsyncHTTP]
    _state_class: type[ClientState]
    user_agent = f"vllm-adapters/{__version__} openai/{openai.__version__}"
    """The ``User-Agent`` header."""
    organization: str | None
    project: str | None
    webhook_secret: str | None
    _base_url: http.URL
    _custom_headers: Mapping[str, str]
    _custom_query: Mapping[str, object]
    vllm: ClientState
    """What this class adds to the SDK's, under one name that no release of the SDK can collide with."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: APIKey | None = None,
        timeout: float | Timeouts | http.Timeout | NotGiven | None = NOT_GIVEN,
        max_retries: int = openai.DEFAULT_MAX_RETRIES,
        max_connections: int = 1000,
        server_version: str | Version | None = None,
        allow_unknown: bool = False,
        default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        http_client: Any = None,
        http_options: Mapping[str, Any] | None = None,
        server_info: ServerInfo | None = None,
        http_clients: HTTPClients[Any] | None = None,
    ) -> None:
        address = normalize_base_url(base_url)
        if http_client is not None and http_options:
            raise ValueError("`http_client` and `http_options` exclude each other. Pass one of them.")
        check_count("max_retries", max_retries, least=0)
        self._urls: dict[str, http.URL] = {}
        timeouts = _given_timeouts(timeout, http_client, http_options)
        self._timeout = timeouts.transport()
        self.vllm = self._state_class(
            address,
            info=ServerInfo.of(address, server_version, server_info),
            timeouts=timeouts,
            max_connections=max_connections,
            allow_unknown=allow_unknown,
            http_clients=http_clients
            or make_http_clients(self._http_class, http.URL(address).host, max_connections, http_options),
            own_http_client=http_client,
            http_options=redact_values(http_options),
            api_key_provider=None,
            run=self._run,
        )
        sdk: Any = super()
        sdk.__init__(
            api_key=PLACEHOLDER_KEY,
            base_url=address,
            timeout=self._timeout,
            max_retries=max_retries,
            http_client=self._client,
        )
        self.api_key = api_key
        _drop_environment(self, default_headers, normalize_query(base_url, default_query))

    def _run(self, plan: LookUp[Any]) -> Any:
        raise NotImplementedError

    @property
    def _client(self) -> Any:
        return self.vllm.own_http_client or self.vllm.http_clients.current()

    @_client.setter
    def _client(self, client: Any) -> None:
        pass  # the SDK hands back what it was given

    def _set_base_url(self, url: object) -> None:
        raise AttributeError(
            "`base_url` of a client cannot be changed: what it knows is of this server, and so is its API key. "
            "Make another client, or call client.with_options(base_url=..., api_key=...)."
        )

    base_url: Any = property(
        attrgetter("_base_url"),
        _set_base_url,
        doc="The server's base URL, ending in ``/v1/``. ``with_options(base_url=...)`` returns a client of another.",
    )

    def _set_api_key(self, api_key: Any) -> None:
        provider = api_key if callable(api_key) else None
        self._api_key = normalize_api_key(PLACEHOLDER_KEY if provider else api_key)
        if provider is not self.vllm.api_key_provider:
            self.vllm = replace(self.vllm, api_key_provider=provider)

    api_key: Any = property(
        attrgetter("_api_key"),
        _set_api_key,
        doc="The key that is sent. A key or a function that is assigned is used from the next request on.",
    )

    def _set_timeout(self, timeout: Any) -> None:
        if timeout is not self._timeout:  # the SDK's constructor hands back what it was given
            self.vllm = replace(self.vllm, timeouts=Timeouts.of(timeout))
            self._timeout = self.vllm.timeouts.transport()

    timeout: Any = property(
        attrgetter("_timeout"),
        _set_timeout,
        doc="Limits of the transport; ``client.vllm.timeouts`` has the total limit, too.",
    )

    def is_closed(self) -> bool:
        """Return whether the connections of this process and event loop were closed, and not used since."""
        own = self.vllm.own_http_client
        return self.vllm.http_clients.is_closed() if own is None else bool(own.is_closed)

    platform_headers = staticmethod(dict[str, str])
    """None of the SDK's six headers about this machine: no vLLM reads them, and each costs CPU."""

    def copy(
        self,
        *,
        base_url: str | http.URL | None = None,
        api_key: APIKey | None = None,
        timeout: float | Timeouts | http.Timeout | NotGiven | None = NOT_GIVEN,
        max_retries: int | NotGiven = NOT_GIVEN,
        max_connections: int | None = None,
        server_version: str | Version | None = None,
        allow_unknown: bool | None = None,
        default_headers: Mapping[str, str] | None = None,
        set_default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        set_default_query: Mapping[str, object] | None = None,
        http_client: Any = None,
        http_options: Mapping[str, Any] | None = None,
        organization: str | None = None,
        project: str | None = None,
        webhook_secret: str | None = None,
        _extra_kwargs: Mapping[str, Any] = MappingProxyType({}),
        **others: Any,
    ) -> Self:
        """Return the same client with other options; connections are shared.

        What is known of the server is shared too, unless the key or the HTTP client differ: another server may respond
        to them.

        Args:
            base_url: Another server. Key, headers and query are kept, as in the SDK; connections and server info are
                not shared.
            api_key: As for the constructor, like all options that are not listed here.
            default_headers: Headers in addition to the client's.
            set_default_headers: Headers in place of the client's.
            default_query: Query parameters in addition to the client's.
            set_default_query: Query parameters in place of the client's.
            organization: Sent as a header for gateways that read it; vLLM does not.
            project: Likewise.
            webhook_secret: For ``client.webhooks``.
            others: The SDK's other options, such as ``provider``; they are for OpenAI, and must not be set.

        Raises:
            TypeError: An option is for OpenAI only, or does not exist.
            ValueError: Headers or query parameters are both added and replaced.
        """
        if name := next((name for name, value in others.items() if value not in (None, NOT_GIVEN)), None):
            raise TypeError(f"`{name}` is not an option of a client for vLLM. Remove it.")
        for name, added, replaced in (
            ("headers", default_headers, set_default_headers),
            ("query", default_query, set_default_query),
        ):
            if added is not None and replaced is not None:
                raise ValueError(f"`default_{name}` and `set_default_{name}` exclude each other. Pass one of them.")
        given = {
            "base_url": base_url,
            "api_key": api_key,
            "max_connections": max_connections,
            "server_version": server_version,
            "allow_unknown": allow_unknown,
            "http_client": http_client,
            "http_options": http_options,
        }
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        for name, value in (("timeout", timeout), ("max_retries", max_retries)):
            if not isinstance(value, NotGiven):
                changes[name] = value
        own_headers, own_query = self._custom_headers, self._custom_query
        if base_url is not None:
            own_query = {**own_query, **normalize_query(base_url, None)}
        headers = {**own_headers, **(default_headers or {})} if set_default_headers is None else set_default_headers
        query = {**own_query, **(default_query or {})} if set_default_query is None else set_default_query
        if headers != own_headers:
            changes["default_headers"] = headers
        if query != self._custom_query:
            changes["default_query"] = query
        new = type(self)(**_copy_arguments(self, {**changes, **_extra_kwargs}))
        sdk: Any = new
        sdk.organization, sdk.project = organization or self.organization, project or self.project
        sdk.webhook_secret = webhook_secret or self.webhook_secret
        return new

    with_options = copy

    def __repr__(self) -> str:
        address = self.vllm.address if "vllm" in vars(self) else "..."  # a traceback shows half-made objects too
        return f"{type(self).__name__}({address!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self  # safe to share: nothing of it changes but the server info

    def __copy__(self) -> Any:
        return self  # not by way of __reduce__, which drops the key

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle contains no key and no headers: the process that loads it reads VLLM_API_KEY itself.
        state = self.vllm
        config = {
            "timeout": state.timeouts,
            "max_retries": self.max_retries,  # type: ignore[attr-defined]
            "max_connections": state.max_connections,
            "server_version": str(state.info.version) if state.info.version_given else None,
            "allow_unknown": state.allow_unknown,
        }
        return _unpickle, (type(self), state.address, config)

    # Requests

    def _recorded(self, options: FinalRequestOptions, *, stream: bool, sdk: bool) -> telemetry.Call | None:
        """Return the call to record, ``None`` without a provider of OpenTelemetry; see ``telemetry.start``."""
        traces, metrics = sys.modules[OPENTELEMETRY], sys.modules.get("opentelemetry.metrics")
        provider = traces.get_tracer_provider()
        if type(provider) is traces.ProxyTracerProvider and (
            metrics is None or type(metrics.get_meter_provider()).__name__ == "_ProxyMeterProvider"
        ):
            return None
        call: telemetry.Call | None = _telemetry().start(self, options, provider, stream=stream, sdk=sdk)
        return call

    def _use_key(self, key: object, options: FinalRequestOptions) -> None:
        """Send the key that the user's function returned, with this request: others may get another meanwhile."""
        self._api_key = api_key = request_key(key)
        headers = options.headers if isinstance(options.headers, Mapping) else {}
        if not any(name.lower() == "authorization" for name in (*headers, *self._custom_headers)):
            options.headers = {"Authorization": RedactedStr(f"Bearer {api_key}"), **headers}

    def _start(self, options: FinalRequestOptions) -> Deadline:
        """Set the limits of a request, and start its deadline."""
        if isinstance(options.headers, Mapping) and options.headers.keys() != {RAW_RESPONSE_HEADER}:
            options.headers = normalize_headers(options.headers)
        if options.params:
            options.params = redact_values(options.params)
        given, outer = options.timeout, DEADLINE.get()
        if outer is not None and isinstance(given, NotGiven):  # a look-up within another call, in its time
            options.timeout = outer.limits.transport()
            return outer
        if isinstance(given, NotGiven):
            options.timeout = self.timeout  # of the same limits
            return Deadline.start(self.vllm.timeouts, outer)
        limits = Timeouts.of(given)
        options.timeout = limits.transport()
        return Deadline.start(limits, outer)

    def _prepared(self, options: FinalRequestOptions) -> tuple[str, dict[str, Any], LookUp[None] | None] | None:
        """Check the names in a body, and find what has to be looked up before it is translated.

        Returns:
            Endpoint, body with the caller's ``extra_body``, and the look-up, ``None`` if everything is known; all
            ``None`` for requests that are not translated.
        """
        endpoint, body = availability.endpoint_of(options.url), options.json_data
        if endpoint is None and availability.is_responses(options.url) and isinstance(body, Mapping):
            self._prepare_responses(body, options)
        if endpoint is None or not isinstance(body, Mapping | None) or options.method.lower() != "post":
            return None
        merged = {**(body or {}), **cast("Mapping[str, Any]", options.extra_json or {})}
        if not self.vllm.allow_unknown:
            compat.reject_unknown(endpoint, merged)
        if not compat.CONSTRAINT_NAMES.isdisjoint(merged):
            reject_harmful(merged)
        info = self.vllm.info
        model = not merged.get("model") and "model" in availability.names(endpoint)
        if model and info.model:
            merged["model"], model = info.model, False
        version = not info.version_known and compat.needs_version(endpoint, merged)
        look_up = self._look_up(merged, model=model, version=version) if model or version else None
        return endpoint, merged, look_up

    def _prepare_responses(self, body: Mapping[str, Any], options: FinalRequestOptions) -> None:
        """Check the names in a body of ``/v1/responses``, and merge the caller's ``extra_body`` into it."""
        merged = {**body, **cast("Mapping[str, Any]", options.extra_json or {})}
        if not self.vllm.allow_unknown:
            responses.reject_unknown(merged)
        merged.pop(compat.ALLOW_UNKNOWN, None)
        if "cache_salt" in merged:
            _redact_salt(merged)
        if compat.SESSION_ID in merged:
            _add_session_header(merged[compat.SESSION_ID], options)
        options.json_data, options.extra_json = merged, None

    def _look_up(self, body: dict[str, Any], *, model: bool, version: bool) -> LookUp[None]:
        if model:
            body["model"] = yield from self.vllm.info.look_up_model()
        if version:
            yield from self.vllm.info.look_up_version()

    def _translate(self, endpoint: str, body: dict[str, Any], options: FinalRequestOptions) -> None:
        """Put the body into ``options`` as the server's version understands it."""
        if (body.get("embed_dtype") or body.get("endianness")) and decodes_as_float32(options.post_parser):
            body["encoding_format"] = "float"
        info = self.vllm.info
        if "cache_salt" in body:
            _redact_salt(body)
        if compat.SESSION_ID in body:
            _add_session_header(body[compat.SESSION_ID], options)
        if not FORM_NAMES.isdisjoint(body) and (error := unenforced_constraint(endpoint, body, info.version)):
            raise error
        options.json_data = compat.translate(
            endpoint,
            body,
            version=info.version,
            allow_unknown=self.vllm.allow_unknown,
            merge_system=info.merge_system,
        )
        options.extra_json = None

    def _with_merged_system_messages(self, error: VLLMError, options: FinalRequestOptions) -> Any:
        """Return the request to send in place of one whose system messages the chat template refused.

        Returns:
            ``None`` if that is not why it failed, or the caller wants them as they are; the error then says so.
        """
        body = {
            **cast("Mapping[str, Any]", options.json_data or {}),
            **cast("Mapping[str, Any]", options.extra_json or {}),
        }
        if not system_messages.needs_merging(body.get("messages")) or not system_messages.is_refused(error.reason):
            return None
        given = body.get(system_messages.MERGE_SYSTEM_MESSAGES)
        if given is None and not self.vllm.info.merge_system:
            merged = {**body, system_messages.MERGE_SYSTEM_MESSAGES: True}
            if (call := CALL.get()) is not None:
                call.retry("system messages are merged")
            return options.model_copy(update={"json_data": merged, "extra_json": None})
        if given is False:
            error.replace_hint("The chat template takes one system message, the first: merge_system_messages=True")
        return None

    def _prepare_url(self, url: str) -> http.URL:
        # Most requests go to a few paths, and parsing their URLs takes a tenth of the time of a short call.
        if (prepared := self._urls.get(url)) is None:
            parent: Any = super()
            prepared = cast(http.URL, parent._prepare_url(url))
            if len(self._urls) < _MAX_URLS:
                self._urls[url] = prepared
        return prepared

    def _build_request(self, options: FinalRequestOptions, **how: Any) -> http.Request:
        parent: Any = super()
        try:
            request = cast(http.Request, parent._build_request(options, **how))
        except (TypeError, ValueError) as error:
            raise encoding_error(options.json_data, error) from error
        if (api := sys.modules.get(OPENTELEMETRY)) is not None and api.get_current_span() is not api.INVALID_SPAN:
            _telemetry().inject(request)
        if logs.log.isEnabledFor(logging.DEBUG):
            logs.log_sending(request)
        if request.url.query and not self._has_foreign_transport:
            _redact_url(request)
        return request

    @property
    def _has_foreign_transport(self) -> bool:
        """Whether a transport may send the text of a URL, as aiohttp's does; httpx's own sends its parts."""
        options = self.vllm.http_options or {}
        return self.vllm.own_http_client is not None or not options.keys().isdisjoint(("transport", "mounts"))

    def _deadline(self) -> Deadline:
        return DEADLINE.get() or Deadline.start(self.vllm.timeouts)

    def _should_retry(self, response: http.Response) -> bool:
        """Do not retry what cannot succeed, or when the call must be over before the server's ``Retry-After``."""
        if response.status_code == 501 or error_mapping.unsupported_construct(response):  # 501: not implemented
            return False
        parent: Any = super()
        at, wait = self._deadline().at, error_mapping.retry_after(response) or 0
        return bool(parent._should_retry(response)) and (at is None or time.monotonic() + wait < at)

    def _calculate_retry_timeout(self, remaining_retries: int, options: Any, response_headers: Any = None) -> float:
        """Return the seconds until the next attempt, at most until the call must be over."""
        parent: Any = super()
        wait, left = (
            float(parent._calculate_retry_timeout(remaining_retries, options, response_headers)),
            self._deadline().left(),
        )
        if wait == parent._parse_retry_after_header(response_headers):
            wait *= 1 + _JITTER * random.random()  # noqa: S311  # the SDK has none where the server says how long
        wait = wait if left is None else min(wait, left)
        if (call := CALL.get()) is not None:
            call.retry(_failure_name(), wait)
        if logs.log.isEnabledFor(logging.INFO):
            logs.log_retry(
                f"{options.method.upper()} {self.vllm.root}{availability.path_of(options.url)}", _failure_name(), wait
            )
        return wait

    # Responses

    def _process_response_data(self, *, data: object, cast_to: Any, response: http.Response) -> Any:
        if cast_to in _COMPLETIONS:
            with suppress(ValidationError):  # vLLM has finish reasons that OpenAI's types do not list
                # The SDK's lenient constructor visits every field's type in Python: ten times the cost of Pydantic's.
                return cast_to.model_validate(data)
            validate_types(data)
        parent: Any = super()
        return parent._process_response_data(data=data, cast_to=cast_to, response=response)

    def _make_status_error(self, err_msg: str, *, body: object, response: Any) -> Any:
        return error_mapping.from_status(response.status_code, body, checks.sent_context(self.vllm, response), response)

    def _map_error(
        self, failure: openai.OpenAIError | http.RequestError, options: FinalRequestOptions
    ) -> VLLMError | None:
        """Return an error of a request as ours, with its context; ``None`` for one that the server did not cause."""
        if isinstance(failure, VLLMError):
            error = failure
        elif isinstance(failure, openai.APIConnectionError | http.RequestError):  # bare: of an error's own body
            error = error_mapping.from_transport(failure.__cause__ or failure, failure.request)
        else:
            return None
        if (request := getattr(error, "request", None)) is not None:
            _redact_url(request)
        context = self.vllm.context(options)
        if logs.log.isEnabledFor(logging.DEBUG):
            logs.log_failure(self.vllm.root + availability.path_of(options.url), error)
        return error.add_context(address=context.address, model=context.model)

    def _before_processing(
        self, options: FinalRequestOptions, response: http.Response, stream: bool, cast_to: Any
    ) -> bool:
        """Arrange that the response is checked before the SDK's own helpers convert it.

        Returns:
            Whether the SDK's raw response must be parsed at once to be checked.
        """
        _redact_url(response.request)  # it has been sent
        if logs.log.isEnabledFor(logging.DEBUG):
            logs.log_response(response, stream=stream)
        if stream:
            if (call := CALL.get()) is not None:
                call.await_stream(response)
            if response.request.headers.get(RAW_RESPONSE_HEADER) == "stream":  # for a caller who reads bytes
                response.stream = ReplyStream(
                    response.stream, map_errors=lambda: checks.response_errors(self.vllm, response)
                )
            return False
        checked = checks.is_checked(options.url, cast_to)
        if checked:
            options.post_parser = checks.checked_parser(self.vllm, options, response)
        return checked


@cache
def _telemetry() -> Any:
    """Return the module, imported when there is something to record."""
    from vllm_adapters._client import telemetry

    return telemetry


def _failure_name() -> str:
    """Return the HTTP status, or the exception's name, of the failure that the SDK is handling."""
    failure = sys.exc_info()[1]
    response = getattr(failure, "response", None)
    return type(failure).__name__ if response is None else str(response.status_code)


def _redact_url(request: http.Request) -> None:
    """Redact the query of a request in texts, logs and errors."""
    if request.url.query and not isinstance(request.url, RedactedURL):
        request.url = RedactedURL(request.url)


def _redact_salt(body: dict[str, Any]) -> None:
    """Redact the secret of a body in the SDK's debug log."""
    if isinstance(salt := body.get("cache_salt"), str):
        body["cache_salt"] = RedactedStr(salt)


def _add_session_header(session: object, options: FinalRequestOptions) -> None:
    """Send the session as a header, too: routers that keep it on one replica do not read the body."""
    headers = options.headers if isinstance(options.headers, Mapping) else {}
    if isinstance(session, str) and session and not any(name.lower() == _SESSION_HEADER.lower() for name in headers):
        options.headers = {**headers, _SESSION_HEADER: quote(session, safe=_HEADER_SAFE)}


def _drop_environment(
    client: Any, default_headers: Mapping[str, str] | None, default_query: Mapping[str, object]
) -> None:
    """Undo what the SDK's constructor took from the environment's ``OPENAI_*``: none of it is for vLLM."""
    client.organization = client.project = client.webhook_secret = client.admin_api_key = None
    client._custom_headers = normalize_headers(default_headers)
    client._custom_query = default_query


def _copy_arguments(client: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments for a copy of ``client`` with ``changes``."""
    state = client.vllm
    arguments: dict[str, Any] = {
        "base_url": state.address,
        "api_key": state.api_key_provider or client.api_key,
        "timeout": state.timeouts,
        "max_retries": client.max_retries,
        "max_connections": state.max_connections,
        "allow_unknown": state.allow_unknown,
        "default_headers": client._custom_headers,
        "default_query": client._custom_query,
        "http_client": state.own_http_client,
        "http_options": state.http_options,
        "server_info": state.info,
        "http_clients": state.http_clients,
    }
    if "http_client" in changes:
        arguments["http_options"] = None
    elif "http_options" in changes:
        arguments["http_client"] = None
    if "base_url" in changes:
        arguments["server_info"] = None
    elif not changes.keys().isdisjoint(("api_key", "http_client", "http_options")):
        arguments["server_info"] = state.info.unknown()  # it may be another server, or serve others another model
    if not changes.keys().isdisjoint(("base_url", "max_connections", "http_options")):
        arguments["http_clients"] = None
    return {**arguments, **changes}


def _given_timeouts(timeout: Any, http_client: Any, http_options: Mapping[str, Any] | None) -> Timeouts:
    """Return the time limits: the client's, else those of the HTTP client that was given, else the default."""
    if not isinstance(timeout, NotGiven):
        return Timeouts.of(timeout)
    own = getattr(http_client, "timeout", None)
    if own is not None and own != HTTPX_DEFAULT_TIMEOUT:  # httpx's own default is 5 s, and nobody's choice
        return Timeouts.of(own)
    if http_options and "timeout" in http_options:
        return Timeouts.of(http_options["timeout"])
    return Timeouts()


def _unpickle(cls: Callable[..., Any], address: str, config: dict[str, Any]) -> Any:
    return cls(address, **config)
