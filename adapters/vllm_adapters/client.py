"""``VLLMClient`` and ``AsyncVLLMClient``: the OpenAI SDK clients, taught to speak vLLM.

They override only hooks that the SDK's own resources go through (``request``, ``_prepare_options``,
``_process_response``, ``_make_status_error``, ``_client``); a canary test on both openai majors says when one
of them moves.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, cast, get_args

import openai
from openai import AsyncOpenAI, OpenAI
from openai._legacy_response import LegacyAPIResponse
from openai._models import FinalRequestOptions
from openai._response import APIResponse, AsyncAPIResponse
from packaging.version import Version
from pydantic import BaseModel, SecretStr

from vllm_adapters._client.base import BaseVLLMClient, R, as_answer, is_event_stream
from vllm_adapters._client.discovery import Discovery, ServerInfo, make_server_info
from vllm_adapters._compat import http
from vllm_adapters._request import availability
from vllm_adapters._request.encode import encoding_error
from vllm_adapters._response.error_mapping import retry_after
from vllm_adapters._response.stream import AsyncCheckedStream, CheckedStream
from vllm_adapters._transport.credentials import normalize_api_key, normalize_base_url, normalize_headers
from vllm_adapters._transport.http import DEADLINE, AsyncHTTP, Deadline, SyncHTTP
from vllm_adapters._transport.pool import make_http_clients
from vllm_adapters.errors import VLLMError
from vllm_adapters.timeouts import Timeouts

if TYPE_CHECKING:
    from openai.resources.beta import AsyncBeta, Beta
    from openai.resources.chat import AsyncChat, Chat


class _Connected(BaseVLLMClient):
    """How both clients are made and copied."""

    _http_class: type[SyncHTTP] | type[AsyncHTTP]

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | SecretStr | None = None,
        timeout: float | Timeouts | http.Timeout | None = Timeouts(),  # noqa: B008  # frozen
        max_retries: int = openai.DEFAULT_MAX_RETRIES,
        max_connections: int = 1000,
        server_version: str | Version | None = None,
        allow_unknown: bool = False,
        default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        http_client: Any = None,
        http_options: Mapping[str, Any] | None = None,
        facts: ServerInfo | None = None,
        transports: Any = None,
    ) -> None:
        address, self.facts = normalize_base_url(base_url), make_server_info(server_version, facts)
        self.time_limits, self.max_connections = Timeouts.of(timeout), max_connections
        self.allow_unknown, self._http_options = allow_unknown, http_options
        self._transports = transports or make_http_clients(
            self._http_class, http.URL(address).host, max_connections, http_options
        )
        self._own_http = http_client
        sdk: Any = super()
        sdk.__init__(
            api_key=normalize_api_key(api_key),
            base_url=address,
            timeout=self.time_limits.transport(),
            max_retries=max_retries,
            http_client=self._client,
        )
        _forget_environment(self, default_headers, default_query)

    @property
    def _client(self) -> Any:
        return self._own_http or self._transports.current()

    @_client.setter
    def _client(self, client: Any) -> None:
        pass  # the SDK hands back what it was given

    def _make_status_error(self, err_msg: str, *, body: object, response: Any) -> Any:
        return self._status_error(body, response)

    def _build_request(self, options: FinalRequestOptions, **how: Any) -> http.Request:
        parent: Any = super()
        try:
            return cast(http.Request, parent._build_request(options, **how))
        except (TypeError, ValueError) as error:
            raise encoding_error(options.json_data, error, call=self.call_of(options)) from error

    def _deadline(self) -> Deadline:
        return DEADLINE.get() or Deadline.start(self.time_limits, self.call_of(None))

    def _should_retry(self, response: http.Response) -> bool:
        """Not when the call must be over before the server wants to be asked again: then its error is the answer."""
        parent: Any = super()
        at, wait = self._deadline().at, retry_after(response) or 0
        return bool(parent._should_retry(response)) and (at is None or time.monotonic() + wait < at)

    def _calculate_retry_timeout(self, *given: Any, **options: Any) -> float:
        """Seconds until the next attempt, at most until the call must be over."""
        parent: Any = super()
        wait, left = float(parent._calculate_retry_timeout(*given, **options)), self._deadline().left()
        return wait if left is None else min(wait, left)

    def copy(self, **changes: Any) -> Self:
        """The same client with other options; what is known of the server and the connections are shared."""
        return type(self)(**_same_but(self, changes))

    with_options = copy


class VLLMClient(_Connected, OpenAI):
    """A drop-in ``openai.OpenAI`` for one vLLM server of any version from 0.8.5 on.

    >>> from vllm_adapters import VLLMClient
    >>> client = VLLMClient("http://localhost:8000")  # vllm serve MODEL
    >>> reply = client.chat.completions.create(
    ...     model="",  # the one model that is served
    ...     messages=[{"role": "user", "content": "What is the capital of France?"}],
    ...     extra_body={"top_k": 1, "chat_template_kwargs": {"enable_thinking": True}},
    ... )
    >>> reply.choices[0].message.content.strip()
    'The capital of France is Paris.'
    >>> bool(reply.choices[0].message.reasoning)  # vllm serve MODEL --reasoning-parser ...
    True

    Args:
        base_url: The server: ``http://host:8000``, with or without ``/v1``. Default: ``VLLM_BASE_URL``, else
            ``http://localhost:8000/v1``. Nothing of the environment's ``OPENAI_*`` is read.
        api_key: Key of ``vllm serve --api-key``; default: ``VLLM_API_KEY``, else a placeholder.
        timeout: ``Timeouts(connect=30, idle=600, total=3600)`` in seconds, or one number for all three.
        max_retries: Further attempts after connection failures, 408, 409, 429 and 5xx; never after a first
            token. A call sends at most ``1 + max_retries`` requests.
        max_connections: Connections at once; more calls than that wait their turn.
        server_version: The server's vLLM version, where ``/version`` does not tell it (behind a gateway).
        allow_unknown: Let body fields pass that no vLLM version has, for servers with plugins; for one
            request: ``extra_body={"allow_unknown": True, ...}``.
        default_headers: Headers of every request.
        default_query: Query parameters of every request.
        http_client: An own HTTP client of the SDK's kind; its pool, proxies and redirects are then its own.
        http_options: Arguments for the HTTP clients that are made here, such as ``proxy`` or ``verify``.
        facts: What another client of the same server has learned of it already, to share.
        transports: The connections of another client, to share.

    Raises:
        VLLMError: On every failure, see ``vllm_adapters.errors``; nothing is sent by the constructor.
    """

    _http_class = SyncHTTP

    @cached_property
    def chat(self) -> Chat:
        """The SDK's resource: ``chat.completions.create``, ``.parse``, ``.stream``."""
        from vllm_adapters._client.sdk_helpers import CheckedChat  # takes time, as the SDK's own resources do

        return CheckedChat(self)

    @cached_property
    def beta(self) -> Beta:
        """The SDK's resource."""
        beta = super().beta
        vars(beta)["chat"] = self.chat  # the helpers were there once, and still are
        return beta

    def _run(self, steps: Discovery[R]) -> R:
        try:
            url = next(steps)
            while True:
                try:
                    with self._transports.asking(self._deadline()):
                        answer = self.facts.answers.get(url)  # others may forget it meanwhile
                        if answer is None:
                            answer = as_answer(self.get(url, cast_to=dict[str, object]))
                            self.facts.answers[url] = answer
                except VLLMError as error:
                    url = steps.throw(error)
                else:
                    url = steps.send(answer)
        except StopIteration as end:
            return cast(R, end.value)

    def served_model(self) -> str:
        """The name of the one base model that is served, asked once; requests without a model go to it.

        Raises:
            ModelNotServed: There is not exactly one.
        """
        return self._run(self._served_model())

    def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """The SDK's one door of every call, with our time limits, streams and errors."""
        token = DEADLINE.set(self._begin(options))
        try:
            return super().request(cast_to, options, stream=stream, stream_cls=_whole(stream_cls, CheckedStream))
        except (openai.OpenAIError, http.RequestError) as failure:
            error = self._failed(failure)
            if error is None:
                raise
            if options.method.lower() == "post":
                with suppress(VLLMError):  # no explanation to be had: the error as it is
                    error = self._run(self._explain(error))
            raise error from failure.__cause__
        finally:
            DEADLINE.reset(token)

    def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        return self._run(self._prepare(super()._prepare_options(options)))

    def _process_response(self, *, options: FinalRequestOptions, response: Any, stream: bool, **how: Any) -> Any:
        if stream and not is_event_stream(response):
            with self.reading(response):
                response.read()
            raise self._not_a_stream(response)
        if stream:
            self._name_failures_of_bytes(response)
        checked = not stream and _is_checked(options.url, how["cast_to"])
        if checked:
            self._checking(options, response)
        with self.reading(response):
            answer = super()._process_response(options=options, response=response, stream=stream, **how)
            if checked and isinstance(answer, LegacyAPIResponse | APIResponse):
                answer.parse()  # the SDK keeps it, so the caller's own parse() costs nothing
        return answer


class AsyncVLLMClient(_Connected, AsyncOpenAI):
    """``VLLMClient`` with ``await``: a drop-in ``openai.AsyncOpenAI`` for one vLLM server.

    One object serves any number of event loops, one after the other or side by side.

    >>> from vllm_adapters import AsyncVLLMClient
    >>> client = AsyncVLLMClient("http://localhost:8000")  # vllm serve MODEL

    Args and errors are those of ``VLLMClient``.
    """

    _http_class = AsyncHTTP

    @cached_property
    def chat(self) -> AsyncChat:
        """The SDK's resource: ``chat.completions.create``, ``.parse``, ``.stream``."""
        from vllm_adapters._client.sdk_helpers import AsyncCheckedChat

        return AsyncCheckedChat(self)

    @cached_property
    def beta(self) -> AsyncBeta:
        """The SDK's resource."""
        beta = super().beta
        vars(beta)["chat"] = self.chat  # the helpers were there once, and still are
        return beta

    async def _run(self, steps: Discovery[R]) -> R:
        try:
            url = next(steps)
            while True:
                try:
                    async with self._transports.asking_async(self._deadline()):
                        answer = self.facts.answers.get(url)
                        if answer is None:
                            answer = as_answer(await self.get(url, cast_to=dict[str, object]))
                            self.facts.answers[url] = answer
                except VLLMError as error:
                    url = steps.throw(error)
                else:
                    url = steps.send(answer)
        except StopIteration as end:
            return cast(R, end.value)

    async def served_model(self) -> str:
        """The name of the one base model that is served, asked once; requests without a model go to it."""
        return await self._run(self._served_model())

    async def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """The SDK's one door of every call, with our time limits, streams and errors."""
        token = DEADLINE.set(self._begin(options))
        try:
            stream_cls = _whole(stream_cls, AsyncCheckedStream)
            return await super().request(cast_to, options, stream=stream, stream_cls=stream_cls)
        except (openai.OpenAIError, http.RequestError) as failure:
            error = self._failed(failure)
            if error is None:
                raise
            if options.method.lower() == "post":
                with suppress(VLLMError):  # no explanation to be had: the error as it is
                    error = await self._run(self._explain(error))
            raise error from failure.__cause__
        finally:
            DEADLINE.reset(token)

    async def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        return await self._run(self._prepare(await super()._prepare_options(options)))

    async def _process_response(self, *, options: FinalRequestOptions, response: Any, stream: bool, **how: Any) -> Any:
        if stream and not is_event_stream(response):
            with self.reading(response):
                await response.aread()
            raise self._not_a_stream(response)
        if stream:
            self._name_failures_of_bytes(response)
        checked = not stream and _is_checked(options.url, how["cast_to"])
        if checked:
            self._checking(options, response)
        with self.reading(response):
            answer = await super()._process_response(options=options, response=response, stream=stream, **how)
            if checked and isinstance(answer, LegacyAPIResponse):
                answer.parse()  # the SDK keeps it, so the caller's own parse() costs nothing
            elif checked and isinstance(answer, AsyncAPIResponse):
                await answer.parse()
        return answer


def _is_checked(url: str, cast_to: Any) -> bool:
    """Whether what comes from ``url`` must be an answer; not so texts, files and what users ask for by ``post``."""
    return cast_to is not str and bool(
        availability.endpoint_of(url) or (isinstance(cast_to, type) and issubclass(cast_to, BaseModel))
    )


def _whole(stream_cls: Any, whole: Any) -> Any:
    """Our stream for the type of chunk that the SDK's resource asked for."""
    chunk = get_args(stream_cls)
    return whole[chunk[0]] if chunk else stream_cls


def _forget_environment(
    client: Any, default_headers: Mapping[str, str] | None, default_query: Mapping[str, object] | None
) -> None:
    """Undo what the SDK's constructor took from the environment's ``OPENAI_*``: none of it is vLLM's."""
    client.organization = client.project = client.webhook_secret = client.admin_api_key = None
    client._custom_headers = normalize_headers(default_headers)
    client._custom_query = dict(default_query or {})


def _same_but(client: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments for a copy of ``client`` with ``changes``."""
    config: dict[str, Any] = {
        "base_url": client.address,
        "api_key": client.api_key,
        "timeout": client.time_limits,
        "max_retries": client.max_retries,
        "max_connections": client.max_connections,
        "allow_unknown": client.allow_unknown,
        "http_client": client._own_http,
        "http_options": client._http_options,
        "facts": client.facts,
        "transports": client._transports,
    }
    if "base_url" in changes:
        config["facts"] = None
    if not changes.keys().isdisjoint(("base_url", "max_connections", "http_options")):
        config["transports"] = None
    added = {
        "default_headers": {**client._custom_headers, **(changes.get("default_headers") or {})},
        "default_query": {**client._custom_query, **(changes.get("default_query") or {})},
    }
    return {**config, **changes, **added}
