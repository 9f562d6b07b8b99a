"""``ChatVLLM``: LangChain's chat model on vLLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, TypeVar, overload

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import model_validator

from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters._request import compat
from vllm_adapters._version import __version__
from vllm_adapters.langchain._binding import BoundChatVLLM
from vllm_adapters.langchain._connection import refuse_unknown
from vllm_adapters.langchain._structured import Method, Schema, structured_output
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.langchain.replies import ChatReplies
from vllm_adapters.langchain.requests import ChatRequests
from vllm_adapters.langchain.served import ServedModel

R = TypeVar("R")


class ChatVLLM(ChatRequests, ServedModel, ChatReplies):  # type: ignore[misc]  # fewer types of key
    """LangChain's chat model for a vLLM server, with everything that vLLM adds to OpenAI's API.

    Setup:
        ``pip install 'vllm-adapters[langchain]'``, and a server: ``vllm serve MODEL``. Tool calls need
        ``--enable-auto-tool-choice --tool-call-parser ...`` there, reasoning ``--reasoning-parser ...``; errors
        name the flag that is missing.

    Key init args:
        model: Served model name, or that of a LoRA adapter; default: the one base model that the server serves.
        base_url: As for ``VLLMClient``; default ``VLLM_BASE_URL``, else ``http://localhost:8000/v1``.
        api_key: As for ``VLLMClient``; default ``VLLM_API_KEY``. ``OPENAI_*`` is never read.
        server: A ``VLLMServer`` to use instead of url, key, timeout and retries.
        timeout: Seconds, or ``Timeouts(connect, idle, total)``; default 30 / 600 / 3600 s.
        max_retries: Further attempts after connection failures, 429 and 5xx; default 2.
        server_version: The server's vLLM version, where ``/version`` does not tell it.
        allow_unknown: Let ``extra_body`` carry fields that no vLLM version has.
        replay_reasoning: Send the reasoning of earlier replies back with them, for models trained to think on
            across tool calls; default False.

        Every parameter of vLLM (``top_k``, ``min_p``, ``structured_outputs``, ``chat_template_kwargs``, ...) is
        given flat, under vLLM's own name: here, in ``bind``, and per call. Call beats bind beats constructor;
        dicts merge deeply. A name that no vLLM version has is refused; one that the server's version does not
        have is translated or refused.

    Instantiate:
        >>> from vllm_adapters.langchain import ChatVLLM
        >>> llm = ChatVLLM(base_url="http://localhost:8000", temperature=0, top_k=20)  # vllm serve MODEL
        >>> llm.profile.get("max_input_tokens")  # nothing is asked of the server before the first call
        >>> llm = ChatVLLM.from_server("http://localhost:8000", temperature=0)  # but here
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

        A call that the token limit has cut, or whose arguments are no JSON object, is in
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

        It has ``finish_reason``, ``model_name``, ``logprobs``, and what vLLM adds: ``stop_reason``,
        ``token_ids``, ``prompt_logprobs``, ``metrics``, ...

    Raises:
        VLLMError: On every failure, as a class of ``vllm_adapters.langchain.errors`` that is LangChain's own
            error too (``ContextOverflowError``, ``ModelRateLimitError``, ...).
    """

    stream_usage: bool | None = True
    stream_chunk_timeout: float | None = None  # the client's idle limit does this, in sync and async

    # Construction. Validators named like the base class's take their place.

    @model_validator(mode="before")
    @classmethod
    def build_extra(cls, values: dict[str, Any]) -> Any:
        """Refuse keywords that are no parameter, instead of moving them to ``model_kwargs`` with a warning."""
        with langchain_errors():
            values = compat.normalize_max_tokens(values)
        refuse_unknown(cls, "chat", values)
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
        if self.use_responses_api or self.use_previous_response_id:
            raise ValueError("ChatVLLM speaks chat completions: VLLMClient(...).responses speaks /v1/responses.")
        self._connect()
        return self

    @model_validator(mode="after")
    def _set_vllm_adapters_version(self) -> Self:
        self._add_version("vllm-adapters", __version__)
        return self

    def _connect(self) -> None:
        super()._connect()
        client, aclient = self._vllm.client, self._vllm.async_client
        self.root_client, self.client = client, RawCompletions(client)
        self.root_async_client, self.async_client = aclient, RawCompletions(aclient)

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
        """Replies as objects of ``schema``, which vLLM enforces while it generates.

        Streams yield growing dicts for TypedDict classes and JSON schemas, pieces of text for grammars and
        structural tags, and one whole object for all others.

        Args:
            schema: A Pydantic class (replies are its instances), a TypedDict class or a JSON schema (dicts); an
                Enum class (its members), a ``Literal`` or a list of choices (one of them); a compiled regex, or
                what ``method`` says (text).
            method: ``json_schema``, the default for classes and dicts; ``function_calling`` forces a strict tool
                call; ``json_mode`` only asks for some JSON. vLLM's own: ``choice``, the default for choices;
                ``regex``; ``grammar``, in EBNF; ``structural_tag``, as a dict or its JSON.
            include_raw: Return ``{"raw", "parsed", "parsing_error"}`` instead of raising parse errors.
            strict: For ``function_calling``: enforce the schema, default True.
            kwargs: Parameters to bind, and ``tools`` to offer beside the schema. A reply that calls one of these
                is None; ``include_raw=True`` has the call.

        Raises:
            TruncatedOutput: The token limit cut the reply; its text is in ``.partial``.
            ConstraintNotEnforced: The server ignored the schema.
        """
        return structured_output(self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs)
