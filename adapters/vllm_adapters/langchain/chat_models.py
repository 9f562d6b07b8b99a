"""``ChatVLLM``: LangChain's chat model on vLLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Literal, Self, TypeVar, cast, overload

import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.tools import BaseTool
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import BaseModel, Field, SecretStr, model_validator

from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters._request import compat
from vllm_adapters._request.body import deep_merge, request_body, set_fields
from vllm_adapters._request.system_messages import MERGE_SYSTEM_MESSAGES
from vllm_adapters._response.text_chunks import SimpleChunk, TextChunk
from vllm_adapters._response.tool_calls import parse_tool_calls
from vllm_adapters._response.validate import CHOICE_FIELDS, RESPONSE_FIELDS, pick_fields
from vllm_adapters._version import __version__
from vllm_adapters.errors import UnknownParameter
from vllm_adapters.langchain._binding import BoundChatVLLM
from vllm_adapters.langchain._chunks import (
    TEXT_CHUNK,
    StreamState,
    aprotocol_events,
    complete_chunk,
    copy_text_chunk,
    protocol_events,
)
from vllm_adapters.langchain._connection import (
    ServerConnection,
    drop_credentials_of_another_server,
    is_valid,
    move_call_parameters,
    reject_openai_settings,
    reject_unknown_arguments,
)
from vllm_adapters.langchain._messages import (
    convert_content,
    reasoning_of,
    refusal_content,
    replayable,
    restore_message,
    set_tool_calls,
)
from vllm_adapters.langchain._schemas import Schema, convert_response_format, convert_tool_choice, convert_tools
from vllm_adapters.langchain._secrets import SECRETS, digest, hide, redact, reveal
from vllm_adapters.langchain._structured import Method, structured_output
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.params import ChatParams, TokenizeParams
from vllm_adapters.timeouts import Timeouts

__all__ = ["ChatVLLM"]

R = TypeVar("R")

_PROFILE = ModelProfile(
    text_inputs=True,
    text_outputs=True,
    tool_calling=True,
    tool_choice=True,
    tool_call_streaming=True,
    structured_output=True,
    temperature=True,
)
"""What vLLM can do with every chat model; LangChain's agents read it."""

_TEXT_CHUNKS: dict[str | None, ChatGenerationChunk] = {}
"""LangChain's chunk for ``TEXT_CHUNK``, by ``output_version``."""


class ChatVLLM(ChatParams, ServerConnection, BaseChatOpenAI):
    """LangChain's chat model for a vLLM server, with everything that vLLM adds to OpenAI's API.

    Setup:
        ``pip install 'vllm-adapters[langchain]'``, and a server: ``vllm serve MODEL``. Tool calls require its flags
        ``--enable-auto-tool-choice --tool-call-parser ...``, reasoning ``--reasoning-parser ...``; errors name the
        flag that is missing.

    Key init args:
        model: Served model name, or that of a LoRA adapter; default: the one base model that is served.
        base_url: As for ``VLLMClient``; default ``VLLM_BASE_URL``, else ``http://localhost:8000/v1``.
        api_key: As for ``VLLMClient``; default ``VLLM_API_KEY``. The environment's ``OPENAI_*`` are not read.
        server: A ``VLLMServer`` to use instead of address, key, timeout and retries of its own.
        timeout: ``Timeouts(connect=30, idle=600, total=3600)`` in seconds, or one number for all three.
        max_retries: Further attempts after connection errors, 408, 409, 429 and 5xx; default 2.
        server_version: The server's vLLM version, for gateways that do not pass on ``/version``.
        allow_unknown: Let ``extra_body`` contain fields that no vLLM version has; default False.
        default_headers: Headers of every request.
        default_query: Query parameters of every request.
        http_client: An ``httpx.Client`` to use; its pool, proxies and redirects are then its own.
        http_async_client: The same for async calls.
        replay_reasoning: Send the reasoning of earlier replies back with them, for models trained to keep it across
            tool calls; default False.
        merge_system_messages: Send the system messages of a conversation as one, the first. Default: from when the
            model's chat template has first refused one elsewhere; False: never.
        tools_strict: Have vLLM enforce the schemas of all tools (True) or none (False), unless a tool or ``bind_tools``
            says otherwise. Default: of forced tools, and of tools beside a schema. Agents offer tools without force.
        session: ``"auto"`` sends LangGraph's ``thread_id`` as the ``session_id`` of each call that has none of its own:
            routers keep a session on one replica. Default: only a ``session_id`` that is given.
        validate_model_on_init: Ask the server in the constructor whether it serves the model, and for its context
            length, which ``profile`` then has; default False.

        Every parameter of vLLM (``top_k``, ``min_p``, ``structured_outputs``, ``chat_template_kwargs``, ...) is
        passed flat, under vLLM's own name: here, to ``bind``, and per call. A call takes precedence over ``bind``, and
        ``bind`` over the constructor; dicts merge deeply. A name that no vLLM version has is refused; one that the
        server's version does not have is translated or refused.

    Instantiate:
        >>> from vllm_adapters.langchain import ChatVLLM
        >>> llm = ChatVLLM(base_url="http://localhost:8000", temperature=0, top_k=20)  # vllm serve MODEL
        >>> llm.profile.get("max_input_tokens")  # the constructor sends no request
        >>> llm = ChatVLLM.from_server("http://localhost:8000", temperature=0)  # this does
        >>> llm.profile["max_input_tokens"]
        2048

    Invoke:
        >>> llm.invoke("What is the capital of France?").content
        'The capital of France is Paris.'
        >>> llm.bind(top_k=1).invoke("Yes or no?", structured_outputs={"choice": ["yes", "no"]}).content
        'no'

    Stream:
        >>> for chunk in llm.stream("What is the capital of France?"):
        ...     print(chunk.text, end="")
        The capital of France is Paris.

    Async:
        >>> import asyncio
        >>> asyncio.run(llm.ainvoke("Hello")).text  # also: astream, abatch
        'Hello! I am a tiny test model.'

    Tool calling:
        >>> def get_weather(city: str) -> str:
        ...     '''The weather in a city.'''
        ...     return "sunny"
        >>> message = llm.bind_tools([get_weather]).invoke("What is the weather in Rome?")
        >>> message.tool_calls[0]["args"]
        {'city': 'Rome'}

        A call that the token limit truncated, or whose arguments are not a JSON object, is in
        ``message.invalid_tool_calls`` instead, streamed or not.

    Structured output:
        >>> from typing import Literal
        >>> from pydantic import BaseModel
        >>> class City(BaseModel):
        ...     city: str
        ...     n: int
        >>> llm.with_structured_output(City).invoke("Give me Rome as json")
        City(city='Rome', n=1)
        >>> llm.with_structured_output(Literal["yes", "no"]).invoke("Yes or no?")
        'no'

    Reasoning:
        >>> message = llm.invoke("What is the capital of France?", chat_template_kwargs={"enable_thinking": True})
        >>> [block["type"] for block in message.content_blocks]
        ['reasoning', 'text']

    Image input:
        Content blocks of type ``image``, ``audio`` and ``video``, by ``url`` or ``base64``, also in tool messages.

        >>> llm.invoke([("user", [{"type": "image", "url": "https://example.org/cat.png"}])])
        Traceback (most recent call last):
        vllm_adapters.langchain.errors.InvalidRequest: tiny is not a multimodal model ...

    Token usage:
        >>> message = llm.invoke("Hello")
        >>> message.usage_metadata["input_tokens"] == llm.get_num_tokens_from_messages([("user", "Hello")])
        True

    Logprobs:
        >>> message = llm.invoke("Hello", logprobs=True)
        >>> message.response_metadata["logprobs"]["content"][0]["token"]
        'Hello'

    Response metadata:
        >>> llm.invoke("Hello", return_token_ids=True, stop=["!"]).response_metadata["stop_reason"]
        '!'

        It has ``finish_reason``, ``model_name``, ``logprobs``, and vLLM's own fields: ``stop_reason``, ``token_ids``,
        ``prompt_logprobs``, ``metrics``, ...

    Raises:
        VLLMError: On every failure, as a class of ``vllm_adapters.langchain.errors`` that is also LangChain's own
            error (``ContextOverflowError``, ``ModelRateLimitError``, ...).
    """

    model_name: str = Field(default="", alias="model")
    openai_api_base: str | None = Field(default=None, alias="base_url")
    openai_api_key: SecretStr | Callable[[], Any] | None = Field(default=None, alias="api_key")
    openai_organization: str | None = Field(default=None, alias="organization", exclude=True)
    openai_proxy: str | None = Field(default=None, exclude=True)
    request_timeout: Any = Field(default=Timeouts(), alias="timeout", exclude=True)
    use_responses_api: bool | None = False
    stream_usage: bool | None = True
    stream_chunk_timeout: float | None = None  # the client's idle limit holds, for sync and async streams
    replay_reasoning: bool = False
    merge_system_messages: bool | None = None
    tools_strict: bool | None = None
    session: Literal["auto"] | None = None

    _setting_fields: ClassVar = ("model_name", "openai_api_base", "openai_api_key", "request_timeout")
    _endpoint: ClassVar = "chat"

    # Construction. Validators named like the base class's replace them.

    @model_validator(mode="before")
    @classmethod
    def build_extra(cls, values: dict[str, Any]) -> Any:
        """Reject unknown arguments, which LangChain would move to ``model_kwargs`` with a warning."""
        with langchain_errors():
            values = compat.normalize_max_tokens(values)
        values = drop_credentials_of_another_server(cls, move_call_parameters(cls, "chat", values))
        reject_unknown_arguments(cls, "chat", values)
        return values

    @model_validator(mode="before")
    @classmethod
    def validate_temperature(cls, values: dict[str, Any]) -> Any:
        """Return the arguments without OpenAI's rules for the temperature, which go by the model's name."""
        return values

    @model_validator(mode="after")
    def validate_environment(self) -> Self:
        """Reject settings that vLLM does not have; the clients exist already, and the environment is not read."""
        reject_openai_settings(self)
        if self.n is not None and self.n > 1 and self.streaming:
            raise ValueError("`n` must be 1 when streaming. Remove streaming=True to request several choices.")
        if name := next((n for n in ("use_responses_api", "use_previous_response_id") if getattr(self, n)), None):
            with langchain_errors():
                raise UnknownParameter(
                    f"`{name}` cannot be set: ChatVLLM uses chat completions, whose replies keep all that vLLM sends",
                    hint="Use VLLMClient(...).responses, or pass our clients to ChatOpenAI(use_responses_api=True)",
                    param=name,
                )
        self.use_responses_api = False  # None would let LangChain decide by the model's name
        return self

    @model_validator(mode="after")
    def _set_vllm_adapters_version(self) -> Self:
        self._add_version("vllm-adapters", __version__)
        return self

    def _connect(self) -> None:
        super()._connect()
        client, async_client = self._connected.client, self._connected.async_client
        self.root_client, self.client = client, RawCompletions(client)
        self.root_async_client, self.async_client = async_client, RawCompletions(async_client)

    def _use_context_length(self, length: int | None) -> None:
        self._with_profile(length)

    # Identity

    @property
    def _llm_type(self) -> str:
        return "vllm-chat"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="vllm",
            ls_model_type="chat",
            ls_model_name=kwargs.get("model") or self._model_name,
            ls_temperature=kwargs.get("temperature", self.temperature),
        )
        if limit := kwargs.get("max_tokens") or kwargs.get("max_completion_tokens") or self.max_tokens:
            params["ls_max_tokens"] = limit
        if stops := stop or kwargs.get("stop") or self.stop:
            params["ls_stop"] = [stops] if isinstance(stops, str) else stops
        return params

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        # LangChain's own collects the parameters three times.
        params = {**self._default_params, "_type": "vllm-chat", "stop": stop or self.stop, **kwargs}
        params["model"] = params["model_name"] = params.get("model") or self._model_name
        params["base_url"] = self.openai_api_base
        return params if SECRETS.isdisjoint(params) else redact(params)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """Return the key of LangChain's cache for everything but the messages: all that may change the answer."""
        params = self._get_invocation_params(stop=stop, **kwargs)
        params.pop(compat.SESSION_ID, None)  # it chooses the replica, which changes no answer
        shaping = (self.output_version, self.replay_reasoning, self.include_response_headers, self.server_version)
        credentials = digest(
            *self._credentials,
            *(level.get(name) for level in (self.model_kwargs, kwargs) for name in ("extra_headers", "extra_query")),
        )
        return str([*sorted(params.items(), key=lambda item: item[0]), shaping, credentials])

    def _is_valid(self, call: Mapping[str, Any]) -> bool:
        return self.allow_unknown or is_valid("chat", call, lambda **params: self._get_request_payload([], **params))

    # Calls, which traces and caches begin with the model's name, and which know their session

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Return ``BaseChatModel.invoke``, in the session of the config."""
        return super().invoke(
            input, config, stop=stop, **(self._in_session(config, kwargs) if self.session else kwargs)
        )

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Async version of ``invoke``."""
        kwargs = self._in_session(config, kwargs) if self.session else kwargs
        return await super().ainvoke(input, config, stop=stop, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Return ``BaseChatModel.generate``, once the model's name is known."""
        kwargs = self._in_session(None, kwargs) if self.session else kwargs
        return super(ChatVLLM, self._with_known_model(kwargs)).generate(*args, **kwargs)

    async def agenerate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Async version of ``generate``."""
        kwargs = self._in_session(None, kwargs) if self.session else kwargs
        return await super(ChatVLLM, await self._awith_known_model(kwargs)).agenerate(*args, **kwargs)

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Return ``BaseChatModel.stream``, once the model's name is known."""
        kwargs = self._in_session(config, kwargs) if self.session else kwargs
        return super(ChatVLLM, self._with_known_model(kwargs)).stream(input, config, **kwargs)

    def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """Async version of ``stream``."""
        kwargs = self._in_session(config, kwargs) if self.session else kwargs
        if self._knows_model(kwargs):
            return super().astream(input, config, **kwargs)
        return self._astream_once_known(input, config, **kwargs)

    async def _astream_once_known(self, *args: Any, **kwargs: Any) -> AsyncIterator[AIMessageChunk]:
        known = await self._awith_known_model(kwargs)
        stream = super(ChatVLLM, known).astream(*args, **kwargs)
        async with aclosing(cast("AsyncGenerator[AIMessageChunk]", stream)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _chat_model_stream_v3(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        kwargs = self._in_session(config, kwargs) if self.session else kwargs
        return super(ChatVLLM, self._with_known_model(kwargs))._chat_model_stream_v3(input, config, **kwargs)

    async def _achat_model_stream_v3(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        kwargs = self._in_session(config, kwargs) if self.session else kwargs
        known = await self._awith_known_model(kwargs)
        return await super(ChatVLLM, known)._achat_model_stream_v3(input, config, **kwargs)

    def _in_session(self, config: RunnableConfig | None, call: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters of a call with LangGraph's thread as its session, unless it has one."""
        thread = ensure_config(config)["configurable"].get("thread_id")
        return call if thread in (None, "") or compat.SESSION_ID in call else {**call, compat.SESSION_ID: str(thread)}

    # Requests

    @property
    def _default_params(self) -> dict[str, Any]:
        """The constructor's parameters, flat, as they were given."""
        params = {**set_fields(self, ChatParams), **super()._default_params}
        if self.model_kwargs:  # LangChain has replaced dicts with those in it
            fields = {**set_fields(self, ChatParams), "extra_body": self.extra_body or {}}
            params = deep_merge(fields, params)
        if self.allow_unknown:
            params[compat.ALLOW_UNKNOWN] = True
        if self.merge_system_messages is not None:
            params[MERGE_SYSTEM_MESSAGES] = self.merge_system_messages
        return params

    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        messages = self._convert_input(input_).to_messages()
        for index, message in enumerate(messages):
            if isinstance(message, AIMessage):
                messages[index] = replayable(message)
            elif not isinstance(message.content, str):
                messages[index] = convert_content(message)
        constructor = super()._get_request_payload(messages)
        if self.replay_reasoning:
            for message, sent in zip(messages, constructor["messages"], strict=True):
                if reasoning := reasoning_of(message):
                    sent["reasoning"] = reasoning
        if stop is not None:
            kwargs["stop"] = stop
        if not (SECRETS.isdisjoint(kwargs) and SECRETS.isdisjoint(constructor)):
            constructor, kwargs = reveal(constructor), reveal(kwargs)
        payload = request_body(constructor, kwargs)
        if not payload.get("stream"):
            payload.pop("stream_options", None)  # of the streams of the same object; else vLLM rejects it
        if "tools" in payload:
            payload["tools"] = convert_tools(payload["tools"] or (), self.tools_strict)
        if "tool_choice" in payload:
            payload["tool_choice"] = convert_tool_choice(payload["tool_choice"], payload.get("tools") or ())
        if "response_format" in payload:
            # With one at the top, LangChain calls the SDK's helpers, which lose reasoning and truncated text.
            payload["extra_body"] = {"response_format": convert_response_format(payload.pop("response_format"))}
        return payload

    def _stream_payload(
        self, messages: list[BaseMessage], stop: list[str] | None, stream_usage: bool | None, params: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the body of a streamed request; the user's ``stream_options`` are merged with the usage."""
        payload = self._get_request_payload(messages, stop=stop, **{**params, "stream": True})
        usage = self.stream_usage if stream_usage is None else stream_usage
        options = {**({"include_usage": True} if usage else {}), **(payload.get("stream_options") or {})}
        if stream_usage is not None:
            options["include_usage"] = stream_usage
        payload.pop("stream_options", None)
        return {**payload, "stream_options": options} if options else payload

    def _stream_state(self, payload: dict[str, Any], params: dict[str, Any]) -> StreamState:
        usage_follows = bool((payload.get("stream_options") or {}).get("include_usage"))
        return StreamState(usage_follows=usage_follows, parsed_class=self._parsed_class(params))

    def _parsed_class(self, params: Mapping[str, Any]) -> type[BaseModel] | None:
        """Return the class that a call gives as its ``response_format``."""
        requested = params.get("response_format", self.model_kwargs.get("response_format"))
        return requested if isinstance(requested, type) and issubclass(requested, BaseModel) else None

    # Responses

    def _create_chat_result(
        self, response: dict[str, Any] | openai.BaseModel, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        reply = response if isinstance(response, dict) else response.model_dump(warnings=False)
        result = super()._create_chat_result(_without_tool_calls(reply), generation_info)
        for generation, choice in zip(result.generations, reply["choices"], strict=True):
            finish_reason, fields = choice.get("finish_reason"), choice["message"]
            info = {"finish_reason": finish_reason, **pick_fields(choice, CHOICE_FIELDS | {"logprobs"})}
            generation.generation_info = {**(generation.generation_info or {}), **info}
            message = cast(AIMessage, generation.message)
            message.additional_kwargs.setdefault("refusal", fields.get("refusal"))
            if refusal := fields.get("refusal"):
                message.content = refusal_content(refusal)
            if reasoning := fields.get("reasoning"):
                message.additional_kwargs["reasoning_content"] = reasoning
            if calls := fields.get("tool_calls"):
                set_tool_calls(message, parse_tool_calls(calls, finish_reason))
            if generation is not result.generations[0]:
                message.usage_metadata = None  # the usage is the request's: tracers add up all generations
        output = {name: value for name, value in (result.llm_output or {}).items() if value not in (None, "")}
        result.llm_output = {**output, **pick_fields(reply, RESPONSE_FIELDS), "model_provider": "vllm"}
        if len(result.generations) > 1:  # LangChain puts the output on the message of a single choice only
            metadata = {name: value for name, value in result.llm_output.items() if name != "token_usage"}
            for generation in result.generations:
                generation.message.response_metadata.update(metadata)
        return result

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None]) -> dict[str, Any]:
        models = [name for output in llm_outputs if output and (name := output.get("model_name"))]
        return {**super()._combine_llm_outputs(llm_outputs), **({"model_name": models[0]} if models else {})}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with self._call_errors():
            return self._add_parsed(super()._generate(messages, stop, run_manager, **kwargs), kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with self._call_errors():
            return self._add_parsed(await super()._agenerate(messages, stop, run_manager, **kwargs), kwargs)

    def _add_parsed(self, result: ChatResult, params: Mapping[str, Any]) -> ChatResult:
        """Add the objects of a class that was given as ``response_format``, where stock models have them."""
        if (cls := self._parsed_class(params)) is not None:
            for generation in result.generations:
                message = cast(AIMessage, generation.message)
                if not (message.tool_calls or message.invalid_tool_calls or message.additional_kwargs.get("refusal")):
                    message.additional_kwargs["parsed"] = cls.model_validate_json(str(message.text))
        return result

    def _generate_with_cache(self, *args: Any, **kwargs: Any) -> ChatResult:
        return _restored(super()._generate_with_cache(*args, **kwargs))

    async def _agenerate_with_cache(self, *args: Any, **kwargs: Any) -> ChatResult:
        return _restored(await super()._agenerate_with_cache(*args, **kwargs))

    # Streaming

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        *,
        stream_usage: bool | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        # LangChain's own replaces `stream_options`, and knows nothing of the reply but the current chunk.
        with self._call_errors():
            payload = self._stream_payload(messages, stop, stream_usage, kwargs)
            state, info = self._stream_state(payload, kwargs), {}
            if self.include_response_headers:
                raw = self.client.with_raw_response.create(**payload)
                info, stream = {"headers": dict(raw.headers)}, raw.parse()
            else:
                stream = self.client.create(**payload)
            with stream:
                for event in stream:
                    chunk = self._convert_chunk(event, info, state)
                    info = {}
                    if run_manager:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk, **_logprobs(chunk))
                    yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        *,
        stream_usage: bool | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with self._call_errors():
            payload = self._stream_payload(messages, stop, stream_usage, kwargs)
            state, info = self._stream_state(payload, kwargs), {}
            if self.include_response_headers:
                raw = await self.async_client.with_raw_response.create(**payload)
                info, stream = {"headers": dict(raw.headers)}, raw.parse()
            else:
                stream = await self.async_client.create(**payload)
            async with stream:
                async for event in stream:
                    chunk = self._convert_chunk(event, info, state)
                    info = {}
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk, **_logprobs(chunk))
                    yield chunk

    def _convert_chunk(self, chunk: dict[str, Any], info: dict[str, Any], state: StreamState) -> ChatGenerationChunk:
        choice = chunk["choices"][0] if chunk.get("choices") else {}
        if state.parsed_class is not None and choice:
            state.texts.append(choice["delta"].get("content") or "")
        if type(chunk) is TextChunk and not info:
            return copy_text_chunk(_TEXT_CHUNKS.get(self.output_version) or self._make_text_chunk(), chunk)
        if isinstance(chunk, SimpleChunk) and (copied := state.copy(chunk)) is not None:
            return copied
        if choice and choice["delta"].get("role"):
            choice["delta"]["role"] = "assistant"  # `vllm serve --response-role` may name it otherwise
        state.prepare(chunk, choice)
        converted = super()._convert_chunk_to_generation_chunk(chunk, AIMessageChunk, info)
        return state.last.keep(chunk, complete_chunk(cast(ChatGenerationChunk, converted), chunk, choice, state))

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk:
        return self._convert_chunk(chunk, base_generation_info or {}, StreamState())

    def _make_text_chunk(self) -> ChatGenerationChunk:
        converted = super()._convert_chunk_to_generation_chunk(TEXT_CHUNK, AIMessageChunk, None)
        chunk = complete_chunk(
            cast(ChatGenerationChunk, converted), TEXT_CHUNK, TEXT_CHUNK["choices"][0], StreamState()
        )
        return _TEXT_CHUNKS.setdefault(self.output_version, chunk)

    def _stream_chat_model_events(
        self, messages: list[BaseMessage], *, run_manager: CallbackManagerForLLMRun, **kwargs: Any
    ) -> Iterator[Any]:
        return protocol_events(self._stream(messages, run_manager=run_manager, **kwargs), run_manager)

    def _astream_chat_model_events(
        self, messages: list[BaseMessage], *, run_manager: AsyncCallbackManagerForLLMRun, **kwargs: Any
    ) -> AsyncIterator[Any]:
        return aprotocol_events(self._astream(messages, run_manager=run_manager, **kwargs), run_manager)

    # Bindings

    def bind(self, **kwargs: Any) -> BoundChatVLLM:  # type: ignore[override]  # LangChain's is private
        """Bind parameters for every call, also of what ``bind_tools`` and ``with_structured_output`` return."""
        return BoundChatVLLM(bound=self, kwargs=hide(kwargs), config={})

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        response_format: Any = None,
        **kwargs: Any,
    ) -> BoundChatVLLM:
        """Bind tools.

        Args:
            tools: Functions, classes, schemas or LangChain tools.
            tool_choice: A tool's name, ``"auto"``, ``"none"``, ``"any"`` / ``"required"`` / True, or a dict.
            strict: Have vLLM enforce the tools' schemas. Default: when ``tool_choice`` forces a call; without strict
                it enforces the envelope only (https://github.com/vllm-project/vllm/issues/49661).
            parallel_tool_calls: False for at most one call.
            response_format: A class or JSON schema for replies that are not tool calls, or vLLM's own form.
            kwargs: Parameters to bind.
        """
        bound: Any = super().bind_tools(
            convert_tools(tools, strict), tool_choice=tool_choice, parallel_tool_calls=parallel_tool_calls, **kwargs
        )
        form = {"response_format": convert_response_format(response_format)} if response_format else {}
        return self.bind(**bound.kwargs, **form)  # not LangChain's conversion, which rewrites schemas as well

    # Structured output

    @overload
    def with_structured_output(
        self,
        schema: type[R],
        *,
        method: Method | None = None,
        include_raw: Literal[False] = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, R]: ...

    @overload
    def with_structured_output(
        self,
        schema: list[R] | tuple[R, ...],
        *,
        method: Literal["choice"] | None = None,
        include_raw: Literal[False] = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, R]: ...

    @overload
    def with_structured_output(
        self,
        schema: Schema = None,
        *,
        method: Method | None = None,
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]: ...

    def with_structured_output(
        self,
        schema: Schema = None,
        *,
        method: Method | None = None,
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a runnable whose replies are objects of ``schema``, which vLLM enforces while it generates.

        Streams yield growing dicts for TypedDict classes and JSON schemas, pieces of text for grammars and structural
        tags, and one complete object for all others.

        Args:
            schema: A Pydantic class (replies are its instances), a TypedDict class or a JSON schema (dicts), an Enum
                class (its members), a ``Literal`` or a list of choices (one of them), a compiled regex (str), or as
                ``method`` requires (str).
            method: ``json_schema``, the default for classes and dicts; ``function_calling`` forces a strict tool
                call; ``json_mode`` requests any JSON object. vLLM's own: ``choice``, the default for choices;
                ``regex``; ``grammar``, in EBNF; ``structural_tag``, as a dict or its JSON.
            include_raw: Return ``{"raw", "parsed", "parsing_error"}`` instead of raising parse errors.
            strict: For ``function_calling``: enforce the schema; default True.
            kwargs: Parameters to bind, and ``tools`` to offer beside the schema. A reply that calls one of these is
                parsed to ``None``; ``include_raw=True`` returns the call.

        Raises:
            TruncatedOutput: The token limit truncated the reply; its text is in ``.partial``.
            ConstraintNotEnforced: The server ignored the schema.
        """
        return structured_output(self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs)

    # Server info

    @classmethod
    def from_server(cls, base_url: str | None = None, **arguments: Any) -> Self:
        """Return a ``ChatVLLM`` with ``model`` and ``profile`` set to what the server reports.

        Middleware that summarizes at a fraction of the context length requires the profile. The constructor sends
        no request.

        Args:
            base_url: As for the constructor.
            arguments: The constructor's other arguments; ``model`` may name a LoRA adapter.

        Raises:
            ModelNotServed: The server does not serve ``model``, or serves several and none is named.
        """
        llm = cls(base_url=base_url, **arguments)
        with langchain_errors():
            llm.model_name = llm.model_name or llm.root_client.vllm.served_model()
            return llm._with_profile(llm._server.context_length())

    @classmethod
    async def afrom_server(cls, base_url: str | None = None, **arguments: Any) -> Self:
        """Async version of ``from_server``."""
        llm = cls(base_url=base_url, **arguments)
        with langchain_errors():
            llm.model_name = llm.model_name or await llm.root_async_client.vllm.served_model()
            return llm._with_profile(await llm._server.acontext_length())

    def _with_profile(self, context_length: int | None) -> Self:
        served = ModelProfile(name=self.model_name, **({"max_input_tokens": context_length} if context_length else {}))
        self.profile = ModelProfile(**{**_PROFILE, **served, **(self.profile or {})})
        return self

    def _resolve_model_profile(self) -> ModelProfile:
        return _PROFILE.copy()

    def get_token_ids(self, text: str) -> list[int]:
        """Return the model's token ids of a text, without those that the chat template adds; cached."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        with langchain_errors():
            return self._tokenizer(add_special_tokens=False).encode(text)

    def get_num_tokens_from_messages(
        self,
        messages: Sequence[BaseMessage],
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
        **parameters: Any,
    ) -> int:
        """Return the number of tokens of messages in the model's chat template: the input tokens of a reply's usage.

        Args:
            messages: The conversation.
            tools: Tools offered with it.
            parameters: As for a call; ``chat_template_kwargs`` and others change the count.
        """
        with langchain_errors():
            payload = self._get_request_payload(list(messages), **parameters)
            names = (*TokenizeParams.model_fields, MERGE_SYSTEM_MESSAGES)
            rendering = {name: payload[name] for name in names if name in payload}
            tokenizer = self._tokenizer(add_special_tokens=False)
            return tokenizer.count_messages(payload["messages"], convert_tools(tools or (), None), **rendering)


def _logprobs(chunk: ChatGenerationChunk) -> dict[str, Any]:
    return {"logprobs": (chunk.generation_info or {}).get("logprobs")}


def _restored(result: ChatResult) -> ChatResult:
    """Return a result whose messages have invalid tool calls as they arrived, also those that were streamed."""
    for generation in result.generations:
        generation.message = restore_message(generation.message)
    return result


def _without_tool_calls(reply: dict[str, Any]) -> dict[str, Any]:
    """Return a reply as LangChain can read it.

    It fails on tool calls whose arguments are not an object, and on roles that ``vllm serve --response-role`` renames.
    """
    changes = {"tool_calls": None, "role": "assistant"}
    choices = [{**choice, "message": {**choice["message"], **changes}} for choice in reply["choices"]]
    return {**reply, "choices": choices}
