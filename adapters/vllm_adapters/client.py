"""``VLLMClient`` and ``AsyncVLLMClient``: the OpenAI SDK clients, taught to speak vLLM.

They override hooks that the SDK's own resources go through (``request``, ``_prepare_options``,
``_process_response``, ``_make_status_error``, ``_client``); a canary test on both openai majors fails when one of
them moves.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from inspect import isawaitable
from sys import modules
from typing import TYPE_CHECKING, Any, cast

import openai
from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream
from openai._legacy_response import LegacyAPIResponse
from openai._models import FinalRequestOptions
from openai._response import APIResponse, AsyncAPIResponse

from vllm_adapters._client.base import OPENTELEMETRY, BaseVLLMClient, ClientState
from vllm_adapters._client.checks import checked_stream_class, is_event_stream, not_a_stream, response_errors
from vllm_adapters._client.discovery import LookUp, R, arun_plan, run_plan
from vllm_adapters._compat import http
from vllm_adapters._response import logs
from vllm_adapters._response.stream import AsyncCheckedStream, CheckedStream
from vllm_adapters._transport.credentials import key_errors
from vllm_adapters._transport.http import CALL, DEADLINE, AsyncHTTP, SyncHTTP
from vllm_adapters.errors import VLLMError

if TYPE_CHECKING:
    from openai.resources.beta import AsyncBeta, Beta
    from openai.resources.chat import AsyncChat, Chat
    from openai.resources.responses import AsyncResponses, Responses

__all__ = ["AsyncVLLMClient", "VLLMClient"]

logs.set_up()


def _get(url: str) -> FinalRequestOptions:
    return FinalRequestOptions.construct(method="get", url=url)


class _SyncState(ClientState):
    """``client.vllm`` of the sync client."""

    def served_model(self) -> str:
        """Return the name of the one base model that is served; requests without a model use it. Looked up once.

        Raises:
            ModelNotServed: The server does not serve exactly one.
        """
        return cast(str, self.run(self.info.look_up_model()))


class _AsyncState(ClientState):
    """``client.vllm`` of the async client."""

    async def served_model(self) -> str:
        """Async version of the sync client's ``served_model``."""
        return cast(str, await self.run(self.info.look_up_model()))


class VLLMClient(BaseVLLMClient, OpenAI):
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

    What it adds to the SDK's client is under ``client.vllm``: ``address``, ``info.version``, ``served_model()``, ...

    Args:
        base_url: The server: ``http://host:8000``, with or without ``/v1``. Default: ``VLLM_BASE_URL``, else
            ``http://localhost:8000/v1``. A query in it is sent with every request. The environment's ``OPENAI_*``
            are not read.
        api_key: Key of ``vllm serve --api-key``; default: ``VLLM_API_KEY``, else a placeholder. A function returns
            the current key before each request; of an async client it may be a coroutine function.
        timeout: ``Timeouts(connect=30, idle=600, total=3600)`` in seconds, or one number for all three. Default:
            that of ``http_client`` or ``http_options``, if they have one.
        max_retries: Further attempts after connection errors, 408, 409, 429 and 5xx; never after a first token.
            A call sends at most ``1 + max_retries`` requests.
        max_connections: Connections at once, at least 1; further calls wait.
        server_version: The server's vLLM version, for gateways that do not pass on ``/version``.
        allow_unknown: Let body fields pass that no vLLM version has, for servers with plugins; for one request:
            ``extra_body={"allow_unknown": True, ...}``.
        default_headers: Headers of every request.
        default_query: Query parameters of every request.
        http_client: An HTTP client of the SDK's kind; its pool, proxies and redirects are then its own.
        http_options: Arguments for the HTTP clients that are made here, such as ``proxy`` or ``verify``.
        server_info: What another client of the same server knows of it, to share.
        http_clients: The HTTP clients of another client, to share.

    Raises:
        VLLMError: On every failure, see ``vllm_adapters.errors``; the constructor sends nothing.
    """

    vllm: _SyncState
    _http_class = SyncHTTP
    _state_class = _SyncState

    @cached_property
    def chat(self) -> Chat:
        """The SDK's resource: ``chat.completions.create``, ``.parse``, ``.stream``."""
        from vllm_adapters._client.sdk_helpers import CheckedChat  # takes time, as the SDK's own resources do

        return CheckedChat(self)

    @cached_property
    def responses(self) -> Responses:
        """The SDK's resource: ``responses.create``, ``.parse``, ``.stream``."""
        from vllm_adapters._client.sdk_responses import CheckedResponses

        return CheckedResponses(self)

    @cached_property
    def beta(self) -> Beta:
        """The SDK's resource."""
        beta = super().beta
        from vllm_adapters._client.sdk_helpers import CheckedChat

        vars(beta)["chat"] = CheckedChat(self)  # not the same object: who wraps both would wrap it twice
        return beta

    def _run(self, plan: LookUp[R]) -> R:
        return run_plan(plan, self._get_json)

    def _get_json(self, url: str) -> dict[str, Any]:
        """GET a URL once; later calls return the same JSON, ``{}`` for a gateway's response of another shape."""
        with self.vllm.http_clients.discovery_lock(self._deadline()):
            known = self.vllm.info.responses
            found = known.get(url)  # others may clear them meanwhile
            if found is None:
                response = self.request(dict[str, object], _get(url), _traced=False)
                found = known[url] = response if isinstance(response, dict) else {}
            return found

    def request(
        self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None, _traced: bool = True
    ) -> Any:
        """Send a request: the SDK's single entry of every call, with our time limits, streams and errors.

        Args:
            cast_to: As in the SDK.
            options: As in the SDK.
            stream: As in the SDK.
            stream_cls: As in the SDK.
            _traced: Whether instrumentation that wraps the SDK's class sees the request. It takes each for a call of
                a language model, so look-ups and vLLM's own endpoints go past it.
        """
        if OPENTELEMETRY in modules and CALL.get() is None:
            traced = _traced and cast_to is not object  # instrumentation makes nothing of a framework's plain dicts
            if (call := self._recorded(options, stream=stream, sdk=traced)) is not None:
                with call:
                    return self.request(cast_to, options, stream=stream, stream_cls=stream_cls, _traced=traced)
        token = DEADLINE.set(self._start(options))
        try:
            sdk: Any = super() if _traced else super(OpenAI, self)
            return sdk.request(cast_to, options, stream=stream, stream_cls=stream_cls)
        except (openai.OpenAIError, http.RequestError) as failure:
            error = self._map_error(failure, options)
            if error is None:
                raise
            if error.status_code == 400 and (merged := self._with_merged_system_messages(error, options)) is not None:
                response = self.request(cast_to, merged, stream=stream, stream_cls=stream_cls, _traced=_traced)
                self.vllm.info.merge_system = True  # from now on at once
                return response
            if options.method.lower() == "post":
                with suppress(VLLMError):  # no explanation is available: the error as it is
                    error = self._run(self.vllm.info.explain(error))
            raise error from failure.__cause__
        finally:
            DEADLINE.reset(token)

    def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        if (provider := self.vllm.api_key_provider) is not None:
            with key_errors():
                key = provider()
            self._use_key(key, options)
        options = super()._prepare_options(options)
        if prepared := self._prepared(options):
            endpoint, body, look_up = prepared
            if look_up is not None:
                self._run(look_up)
            self._translate(endpoint, body, options)
        return options

    def _process_response(self, *, options: FinalRequestOptions, response: Any, stream: bool, **how: Any) -> Any:
        if stream and not is_event_stream(response):
            with response_errors(self.vllm, response):
                response.read()
            raise not_a_stream(self.vllm, response)
        if stream:  # here, after all instrumentation: what others make of the class cannot take the checks away
            how["stream_cls"] = checked_stream_class(how["stream_cls"], CheckedStream, Stream)
        checked = self._before_processing(options, response, stream, how["cast_to"])
        with response_errors(self.vllm, response):
            parsed = super()._process_response(options=options, response=response, stream=stream, **how)
            if checked and isinstance(parsed, LegacyAPIResponse | APIResponse):
                parsed.parse()  # the SDK keeps it, so the caller's own parse() costs nothing
        return parsed


class AsyncVLLMClient(BaseVLLMClient, AsyncOpenAI):
    """Async version of ``VLLMClient``: a drop-in ``openai.AsyncOpenAI`` for one vLLM server.

    One object works in any number of event loops, one after the other or concurrently.

    >>> from vllm_adapters import AsyncVLLMClient
    >>> client = AsyncVLLMClient("http://localhost:8000")  # vllm serve MODEL

    Args and errors are those of ``VLLMClient``.
    """

    vllm: _AsyncState
    _http_class = AsyncHTTP
    _state_class = _AsyncState

    @cached_property
    def chat(self) -> AsyncChat:
        """The SDK's resource: ``chat.completions.create``, ``.parse``, ``.stream``."""
        from vllm_adapters._client.sdk_helpers import AsyncCheckedChat

        return AsyncCheckedChat(self)

    @cached_property
    def responses(self) -> AsyncResponses:
        """The SDK's resource: ``responses.create``, ``.parse``, ``.stream``."""
        from vllm_adapters._client.sdk_responses import AsyncCheckedResponses

        return AsyncCheckedResponses(self)

    @cached_property
    def beta(self) -> AsyncBeta:
        """The SDK's resource."""
        beta = super().beta
        from vllm_adapters._client.sdk_helpers import AsyncCheckedChat

        vars(beta)["chat"] = AsyncCheckedChat(self)
        return beta

    async def _run(self, plan: LookUp[R]) -> R:
        return await arun_plan(plan, self._get_json)

    async def _get_json(self, url: str) -> dict[str, Any]:
        """Async version of the sync client's."""
        async with self.vllm.http_clients.adiscovery_lock(self._deadline()):
            known = self.vllm.info.responses
            found = known.get(url)
            if found is None:
                response = await self.request(dict[str, object], _get(url), _traced=False)
                found = known[url] = response if isinstance(response, dict) else {}
            return found

    async def request(
        self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None, _traced: bool = True
    ) -> Any:
        """Send a request: the SDK's single entry of every call, with our time limits, streams and errors.

        Args:
            cast_to: As in the SDK.
            options: As in the SDK.
            stream: As in the SDK.
            stream_cls: As in the SDK.
            _traced: Whether instrumentation that wraps the SDK's class sees the request. It takes each for a call of
                a language model, so look-ups and vLLM's own endpoints go past it.
        """
        if OPENTELEMETRY in modules and CALL.get() is None:
            traced = _traced and cast_to is not object  # instrumentation makes nothing of a framework's plain dicts
            if (call := self._recorded(options, stream=stream, sdk=traced)) is not None:
                with call:
                    return await self.request(cast_to, options, stream=stream, stream_cls=stream_cls, _traced=traced)
        token = DEADLINE.set(self._start(options))
        try:
            sdk: Any = super() if _traced else super(AsyncOpenAI, self)
            return await sdk.request(cast_to, options, stream=stream, stream_cls=stream_cls)
        except (openai.OpenAIError, http.RequestError) as failure:
            error = self._map_error(failure, options)
            if error is None:
                raise
            if error.status_code == 400 and (merged := self._with_merged_system_messages(error, options)) is not None:
                response = await self.request(cast_to, merged, stream=stream, stream_cls=stream_cls, _traced=_traced)
                self.vllm.info.merge_system = True  # from now on at once
                return response
            if options.method.lower() == "post":
                with suppress(VLLMError):  # no explanation is available: the error as it is
                    error = await self._run(self.vllm.info.explain(error))
            raise error from failure.__cause__
        finally:
            DEADLINE.reset(token)

    async def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        if (provider := self.vllm.api_key_provider) is not None:
            with key_errors():
                key = provider()
                if isawaitable(key):
                    key = await key
            self._use_key(key, options)
        options = await super()._prepare_options(options)
        if prepared := self._prepared(options):
            endpoint, body, look_up = prepared
            if look_up is not None:
                await self._run(look_up)
            self._translate(endpoint, body, options)
        return options

    async def _process_response(self, *, options: FinalRequestOptions, response: Any, stream: bool, **how: Any) -> Any:
        if stream and not is_event_stream(response):
            with response_errors(self.vllm, response):
                await response.aread()
            raise not_a_stream(self.vllm, response)
        if stream:  # here, after all instrumentation: what others make of the class cannot take the checks away
            how["stream_cls"] = checked_stream_class(how["stream_cls"], AsyncCheckedStream, AsyncStream)
        checked = self._before_processing(options, response, stream, how["cast_to"])
        with response_errors(self.vllm, response):
            parsed = await super()._process_response(options=options, response=response, stream=stream, **how)
            if checked and isinstance(parsed, LegacyAPIResponse):
                parsed.parse()  # the SDK keeps it, so the caller's own parse() costs nothing
            elif checked and isinstance(parsed, AsyncAPIResponse):
                await parsed.parse()
        return parsed
