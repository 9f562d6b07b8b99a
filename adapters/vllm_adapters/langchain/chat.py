"""``ChatVLLM``: LangChain's chat model on vLLM."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self, cast

import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import ConfigDict, Field, SecretStr, model_validator

from vllm_adapters import dialect
from vllm_adapters._version import __version__
from vllm_adapters.answers import CHOICE_FIELDS, REPLY_FIELDS, added_fields
from vllm_adapters.client import AsyncVLLMClient, VLLMClient
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.langchain import chunks
from vllm_adapters.langchain.binding import BoundChatVLLM
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.langchain.structured import Schema, structured
from vllm_adapters.merging import merged, settled
from vllm_adapters.params import ChatParams, wire
from vllm_adapters.plain import PlainCompletions
from vllm_adapters.server import VLLMServer
from vllm_adapters.speaker import normal_address
from vllm_adapters.transport import Timeouts


class ChatVLLM(ChatParams, BaseChatOpenAI):
    """LangChain's chat model for a vLLM server, with everything that vLLM adds to OpenAI's API.

    >>> from vllm_adapters.langchain import ChatVLLM
    >>> llm = ChatVLLM(base_url="http://localhost:8000", temperature=0, top_k=20)  # vllm serve MODEL
    >>> llm.invoke("What is the capital of France?").content
    'The capital of France is Paris.'
    >>> llm.bind(top_k=1).invoke("Yes or no?", structured_outputs={"choice": ["yes", "no"]}).content
    'no'

    Every parameter of vLLM is given flat, under vLLM's own name: here, in ``bind``, and per call. Call beats
    bind beats constructor; ``chat_template_kwargs``, ``extra_body`` and other dicts merge deeply. A name that
    no vLLM version has is refused; one that the connected server's version does not have is translated or
    refused.

    Tool calls need ``vllm serve --enable-auto-tool-choice --tool-call-parser ...``, reasoning needs
    ``--reasoning-parser ...``; errors name the flag that is missing.

    Args:
        model: Served model name; default: the one base model that the server serves.
        base_url: As for ``VLLMClient``; default ``VLLM_BASE_URL``, else ``http://localhost:8000/v1``.
        api_key: As for ``VLLMClient``; default ``VLLM_API_KEY``. ``OPENAI_*`` is never read.
        server: A ``VLLMServer`` to use instead of url, key, timeout and retries.
        timeout: Seconds, or ``Timeouts(connect, idle, total)``; default 30 / 600 / 3600 s.
        max_retries: Further attempts after connection failures, 429 and 5xx; default 2.
        server_version: The server's vLLM version, where ``/version`` does not tell it.
        allow_unknown: Let ``extra_body`` carry fields that no vLLM version has.
        replay_reasoning: Send the reasoning of earlier replies back with them, for models trained to think on
            across tool calls; default False.

    Raises:
        VLLMError: On every failure, as a class of ``vllm_adapters.langchain.errors`` that is LangChain's own
            error too (``ContextOverflowError``, ``ModelRateLimitError``, ...).
    """

    model_name: str = Field(default="", alias="model")
    openai_api_base: str | None = Field(default=None, alias="base_url")
    openai_api_key: SecretStr | None = Field(default=None, alias="api_key")
    openai_organization: str | None = Field(default=None, alias="organization", exclude=True)
    openai_proxy: str | None = Field(default=None, exclude=True)
    request_timeout: Any = Field(default=Timeouts(), alias="timeout", exclude=True)
    max_retries: int | None = openai.DEFAULT_MAX_RETRIES
    default_headers: Mapping[str, str] | None = Field(default=None, repr=False, exclude=True)
    stream_usage: bool | None = True
    stream_chunk_timeout: float | None = None  # the client's idle limit does this, in sync and async
    server: VLLMServer | None = Field(default=None, exclude=True)
    server_version: str | None = None
    allow_unknown: bool = False
    replay_reasoning: bool = False

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    # Construction. Validators named like the base class's take their place.

    @model_validator(mode="before")
    @classmethod
    def build_extra(cls, values: dict[str, Any]) -> Any:
        """Refuse keywords that are no parameter, instead of moving them to ``model_kwargs`` with a warning."""
        known = set(cls.model_fields) | {field.alias for field in cls.model_fields.values()}
        for name in values:
            if name not in known:
                with langchain_errors():
                    raise dialect.unknown_parameter("chat", name)
        for name in ("api_key", "openai_api_key"):
            if not isinstance(values.get(name), str | SecretStr | None):
                # Not left to Pydantic, whose error would show the value.
                raise TypeError(f"{name} must be a str or a SecretStr, not {type(values[name]).__name__}")
        return values

    @model_validator(mode="before")
    @classmethod
    def validate_temperature(cls, values: dict[str, Any]) -> Any:
        """Leave the temperature alone, whatever OpenAI model the served name reminds of."""
        return values

    @model_validator(mode="after")
    def validate_environment(self) -> Self:
        """Connect the clients; nothing is sent."""
        if self.n is not None and self.n > 1 and self.streaming:
            raise ValueError("n must be 1 when streaming.")
        if self.openai_proxy:
            raise ValueError("openai_proxy is not supported: set HTTPS_PROXY, or give an http_client with a proxy.")
        self._connect()
        return self

    @model_validator(mode="after")
    def _set_vllm_adapters_version(self) -> Self:
        self._add_version("vllm-adapters", __version__)
        return self

    def _connect(self) -> None:
        if self.server is not None:
            client, aclient = self.server.client, self.server.async_client
            self.openai_api_base = client.address
            self.model_name = self.model_name or self.server.model or ""
        else:
            self.openai_api_base = normal_address(self.openai_api_base)
            options: dict[str, Any] = {
                "api_key": self.openai_api_key,
                "timeout": self.request_timeout,
                "max_retries": openai.DEFAULT_MAX_RETRIES if self.max_retries is None else self.max_retries,
                "default_headers": self.default_headers,
                "default_query": self.default_query,
                "server_version": self.server_version,
                "allow_unknown": self.allow_unknown,
            }
            client = VLLMClient(self.openai_api_base, **options, http_client=self.http_client)
            aclient = AsyncVLLMClient(
                self.openai_api_base, **options, http_client=self.http_async_client, facts=client.facts
            )
        self.root_client, self.client = client, PlainCompletions(client)
        self.root_async_client, self.async_client = aclient, PlainCompletions(aclient)

    def __getstate__(self) -> dict[Any, Any]:
        # No key, header or connection leaves the process in a pickle; VLLM_API_KEY is read where it is opened.
        state = super().__getstate__()
        gone = ("client", "async_client", "root_client", "root_async_client", "openai_api_key", "default_headers")
        state["__dict__"] = {**state["__dict__"], **dict.fromkeys((*gone, "http_client", "http_async_client"))}
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._connect()

    # Who it is

    @property
    def _llm_type(self) -> str:
        return "vllm-chat"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        served = params.get("ls_model_name") or self.root_client.facts.model or ""
        return LangSmithParams(**{**params, "ls_provider": "vllm", "ls_model_name": served})

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        # Part of the key of LangChain's cache: two servers may serve different models under one name.
        return {"base_url": self.openai_api_base, **super()._get_invocation_params(stop=stop, **kwargs)}

    # Requests

    def _use_responses_api(self, payload: dict[str, Any]) -> bool:
        return self.use_responses_api is True

    @property
    def _default_params(self) -> dict[str, Any]:
        defaults = {k: v for k, v in super()._default_params.items() if k not in self.model_kwargs}
        sdk, added = dialect.sdk_and_body(self.model_kwargs)
        body = merged(wire(self, ChatParams), self.extra_body, added)
        return {**defaults, **sdk, **({"extra_body": body} if body else {})}

    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        sdk, added = dialect.sdk_and_body(kwargs)
        payload = super()._get_request_payload(input_, stop=stop, **sdk)
        body = settled(self._default_params.get("extra_body"), added)
        if "response_format" in payload:
            # Out of the SDK's parsing helpers, which lose reasoning and the text of a reply that is cut short.
            body["response_format"] = dialect.response_format(payload.pop("response_format"))
        if self.allow_unknown:
            body[dialect.ALLOW_UNKNOWN] = True
        payload.pop("extra_body", None)
        if self.replay_reasoning:
            for message, sent in zip(self._convert_input(input_).to_messages(), payload["messages"], strict=True):
                if thought := _reasoning_of(message):
                    sent["reasoning"] = thought
        return {**payload, "extra_body": body} if body else payload

    # Replies

    def _create_chat_result(
        self, response: dict[str, Any] | openai.BaseModel, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        result = super()._create_chat_result(response, generation_info)
        reply = response if isinstance(response, dict) else response.model_dump(warnings=False)
        for generation, choice in zip(result.generations, reply["choices"], strict=True):
            info = {"finish_reason": choice.get("finish_reason"), **added_fields(choice, CHOICE_FIELDS | {"logprobs"})}
            generation.generation_info = {**(generation.generation_info or {}), **info}
            generation.message.additional_kwargs.setdefault("refusal", choice["message"].get("refusal"))
            if thought := choice["message"].get("reasoning"):
                generation.message.additional_kwargs["reasoning_content"] = thought
        added = {k: v for k, v in (result.llm_output or {}).items() if v not in (None, "")}
        result.llm_output = {**added, **added_fields(reply, REPLY_FIELDS), "model_provider": "vllm"}
        return result

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        choice = chunk["choices"][0] if chunk.get("choices") else {}
        if choice and choice.get("delta") is None:
            return None
        made: ChatGenerationChunk | None
        if choice and not base_generation_info and chunks.is_text_only(chunk, choice, default_chunk_class):
            made = chunks.like(self._text_chunk, choice["delta"].get("content") or "")
        else:
            made = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        if made is None:
            return None
        if added := added_fields(choice, CHOICE_FIELDS) | added_fields(chunk, REPLY_FIELDS):
            made.generation_info = {**(made.generation_info or {}), **added}
        if made.generation_info and choice and (self.stream_usage or not choice.get("finish_reason")):
            # Chunks are added up, text to text: what every chunk repeats may stand on one of them only,
            # the usage chunk behind the choice's last if there is one.
            made.generation_info.pop("system_fingerprint", None)
        if thought := (choice.get("delta") or {}).get("reasoning"):
            made.message.additional_kwargs["reasoning_content"] = thought
        made.message.response_metadata["model_provider"] = "vllm"
        return made

    @property
    def _text_chunk(self) -> ChatGenerationChunk:
        if self.output_version not in _TEXT_CHUNKS:
            made = super()._convert_chunk_to_generation_chunk(chunks.PATTERN, AIMessageChunk, None)
            _TEXT_CHUNKS[self.output_version] = cast(ChatGenerationChunk, made)
        return _TEXT_CHUNKS[self.output_version]

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            return super()._generate(messages, stop, run_manager, **kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            return await super()._agenerate(messages, stop, run_manager, **kwargs)

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        with langchain_errors():
            self._one_choice(kwargs)
            yield from super()._stream(*args, **kwargs)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        with langchain_errors():
            self._one_choice(kwargs)
            async for chunk in super()._astream(*args, **kwargs):
                yield chunk

    def _one_choice(self, kwargs: Mapping[str, Any]) -> None:
        if (kwargs.get("n") or self.n or 1) > 1:
            raise InvalidRequest(
                "A LangChain stream is one message: n must be 1 when streaming",
                hint="Use generate() for several choices",
                address=self.openai_api_base,
                param="n",
            )

    # Bindings

    def bind(self, **kwargs: Any) -> BoundChatVLLM:
        """Bind parameters; they hold for every call, and for ``bind_tools`` and ``with_structured_output``."""
        return BoundChatVLLM(bound=self, kwargs=kwargs, config={})

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        response_format: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools, as LangChain's base class does.

        Args:
            tools: Functions, classes, schemas or LangChain tools.
            tool_choice: A tool's name, ``"auto"``, ``"none"``, ``"any"`` / ``"required"`` / True, or a dict.
            strict: Have vLLM enforce the tools' schemas. Default: when ``tool_choice`` forces a call; without
                it vLLM only enforces the envelope (https://github.com/vllm-project/vllm/issues/49661).
            parallel_tool_calls: False for at most one call.
            response_format: A schema for replies that are no tool call.
            kwargs: Parameters to bind.
        """
        forced = bool(tool_choice) and tool_choice not in ("auto", "none")
        bound: Any = super().bind_tools(
            tools,
            tool_choice=tool_choice,
            strict=True if strict is None and forced else strict,
            parallel_tool_calls=parallel_tool_calls,
            response_format=response_format,
            **kwargs,
        )
        return self.bind(**bound.kwargs)

    def with_structured_output(
        self,
        schema: Schema | None = None,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Replies as objects of ``schema``, which vLLM enforces while it generates.

        Args:
            schema: A Pydantic class (replies are its instances), a TypedDict class or a JSON schema (dicts).
            method: ``json_schema``; ``function_calling`` forces a strict tool call; ``json_mode`` only asks
                for some JSON.
            include_raw: Return ``{"raw", "parsed", "parsing_error"}`` instead of raising parse errors.
            strict: For ``function_calling``: enforce the schema, default True.
            kwargs: Parameters to bind, and ``tools`` for ``json_schema``.

        Raises:
            TruncatedOutput: The token limit cut the reply; its text is in ``.partial``.
            ConstraintNotEnforced: The server ignored the schema.
        """
        return structured(self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs)


_TEXT_CHUNKS: dict[str | None, ChatGenerationChunk] = {}


def _reasoning_of(message: BaseMessage) -> str:
    if not isinstance(message, AIMessage):
        return ""
    if thought := message.additional_kwargs.get("reasoning_content"):
        return str(thought)
    blocks = message.content if isinstance(message.content, list) else []
    return "".join(
        str(block.get("reasoning") or "")
        for block in blocks
        if isinstance(block, dict) and block.get("type") == "reasoning"
    )
