"""``VLLM``: LlamaIndex's LLM for vLLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from llama_index.core.base.llms.generic_utils import prompt_to_messages
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.instrumentation.events.llm import LLMStructuredPredictEndEvent
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from llama_index.llms.openai import OpenAI
from llama_index.llms.openai_like import OpenAILike
from pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    field_serializer,
    field_validator,
)

from vllm_adapters._response.structured import truncation_error
from vllm_adapters._transport.credentials import normalize_headers
from vllm_adapters.client import AsyncVLLMClient, VLLMClient
from vllm_adapters.llamaindex._connection import Connection
from vllm_adapters.llamaindex._messages import (
    ChatReply,
    CompletionReply,
    messages_to_json,
    reject_media,
    tool_selections,
)
from vllm_adapters.llamaindex._metadata import ContextLengths, LazyMetadata
from vllm_adapters.llamaindex._request import SECRETS, LLMParams, Request, request_parameters, traced, with_secrets
from vllm_adapters.llamaindex._structured import ObjectRequest, dispatcher, emit_start, tool_of, without_tool_options
from vllm_adapters.server import VLLMServer

if TYPE_CHECKING:
    from llama_index.core.tools.types import BaseTool

M = TypeVar("M", bound=BaseModel)

_CREDENTIALS = frozenset({"extra_headers", "extra_query"})
"""Parameters of every call that no dump and no pickle contains."""


class VLLM(LLMParams, Connection, OpenAILike):  # type: ignore[misc]  # None means "not sent"
    """LlamaIndex's LLM for a vLLM server, with everything that vLLM adds to OpenAI's API.

    >>> from vllm_adapters.llamaindex import VLLM
    >>> llm = VLLM(api_base="http://localhost:8000", temperature=0, top_k=20)  # vllm serve MODEL
    >>> llm.complete("What is the capital of France?").text
    'The capital of France is Paris.'
    >>> llm.complete("Yes or no?", structured_outputs={"choice": ["yes", "no"]}).text
    'no'

    Pass any parameter of vLLM flat, under vLLM's own name, to the constructor or per call. The call overrides the
    constructor, also for ``max_tokens`` and ``stop``; ``chat_template_kwargs``, ``extra_body`` and other dicts are
    merged deeply. A name that no vLLM version has is refused; one that the connected server's version does not have
    is translated or refused.

    Responses have ``finish_reason``, ``stop_reason`` and token counts in ``additional_kwargs``, thinking as a
    ``ThinkingBlock`` (in streams also as ``additional_kwargs["thinking_delta"]``, from ``complete`` as
    ``additional_kwargs["thinking"]``), and the server's reply in ``raw``, a dict. An invalid tool call is in the
    message's ``additional_kwargs["invalid_tool_calls"]``, and raises where it would be run.

    Tool calls need ``vllm serve --enable-auto-tool-choice --tool-call-parser ...``, reasoning needs
    ``--reasoning-parser ...``; errors name the missing flag.

    Args:
        model: Served model name, also of a LoRA adapter; default: the one base model that is served.
        api_base: The server, as for ``VLLMClient``; also as ``base_url``. ``OPENAI_*`` is never read.
        fields: The fields of the class: connection, OpenAI's parameters, vLLM's parameters.

    Raises:
        UnknownParameter: A ``TypeError``: there is no such argument.
        VLLMError: From calls, on every failure; it is also the openai error that is usual for it.
    """

    _endpoint: ClassVar[str] = "chat"

    model: str = Field(default="", description="Served model name; default: the one base model that is served.")
    context_window: int | None = Field(  # type: ignore[assignment]
        default=None, gt=0, description="Tokens of prompt and reply; default: looked up when it is needed."
    )
    is_chat_model: bool = Field(default=True, description="False: `/v1/completions`, without a chat template.")
    is_function_calling_model: bool = Field(default=True, description="The server is started with a tool parser.")
    should_use_structured_outputs: bool = Field(default=True, description="Request objects by their JSON schema.")
    strict: bool = Field(default=True, description="Let vLLM enforce the schemas of LlamaIndex's tools.")
    tools_strict: bool | None = Field(
        default=None, description="The same for every tool, also of a dict that `chat` gets; it overrides `strict`."
    )
    extra_body: dict[str, Any] = Field(default_factory=dict, description="Further fields of every request.")
    merge_system_messages: bool | None = Field(
        default=None,
        description="Send system messages as one, the first; default: from when a chat template has first refused one.",
    )
    replay_reasoning: bool = Field(
        default=False, description="Send the thinking of earlier messages, for models that need it."
    )

    session: Literal["auto"] | None = Field(
        default=None,
        description='"auto": send the tag `session_id` of instrument_tags, else the workflow run, as the session.',
    )

    _context_lengths: ContextLengths = PrivateAttr(default_factory=ContextLengths)

    if not TYPE_CHECKING:  # type checkers derive it from the fields

        def __init__(self, model: str = "", **fields: Any) -> None:
            self._reject_arguments(fields)
            fields["additional_kwargs"] = fields.get("additional_kwargs") or {}
            # Skips OpenAI's constructor, which reads OPENAI_* and changes settings by OpenAI's model names.
            super(OpenAI, self).__init__(model=model, **fields)
            self._client = self._aclient = self._http_client = self._async_http_client = None
            self._connect()

    @classmethod
    def from_server(cls, server: VLLMServer | str | None = None, **fields: Any) -> Self:
        """Return a ``VLLM`` with its model's name and context length, which are looked up now.

        Args:
            server: A ``VLLMServer``, or an address as for ``base_url``.
            fields: Further arguments of the constructor.

        Raises:
            VLLMError: The server cannot be reached.
            ModelNotServed: It serves several models, and none was named.
        """
        where: dict[str, Any] = {"server": server} if isinstance(server, VLLMServer) else {"api_base": server}
        llm = cls(**where, **fields)
        llm.model = llm.model or llm._server.client.vllm.served_model()
        llm.context_window = llm.context_window or llm._served.context_length() or DEFAULT_CONTEXT_WINDOW
        return llm

    @field_serializer("tokenizer")
    def _serialize_tokenizer(self, tokenizer: Any) -> str | None:
        return tokenizer if isinstance(tokenizer, str) else None  # an object cannot be serialized

    @field_validator("additional_kwargs")
    @classmethod
    def _redact_headers(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        if (headers := parameters.get("extra_headers")) is None:
            return parameters
        return {**parameters, "extra_headers": normalize_headers(headers)}  # repr does not show their values

    @field_serializer("additional_kwargs")
    def _serialize_additional_kwargs(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in parameters.items() if name not in _CREDENTIALS}

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        if not self._keeps_credentials():
            parameters = self._serialize_additional_kwargs(self.additional_kwargs)
            state["__dict__"] = {**state["__dict__"], "additional_kwargs": parameters}
        return state

    # Identity and metadata

    @classmethod
    def class_name(cls) -> str:
        """``"VLLM"``, for serialization."""
        return "VLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """Metadata for LlamaIndex; the context length is looked up when it is first read.

        A server that does not tell it, such as a gateway, has LlamaIndex's default, with a warning. So has, until it
        is known, one that does not tell it within 0.1 s while an event loop runs, which would stand still meanwhile.
        """
        return LazyMetadata.of(self.to_payload(), self._context_length)

    def to_payload(self) -> dict[str, Any]:
        """Return the payload of instrumentation events: the metadata, as far as it is known without a request."""
        payload = {
            "class_name": "VLLM",
            "num_output": self.max_tokens or -1,
            "is_chat_model": self.is_chat_model,
            "is_function_calling_model": self._calls_functions,
            "model_name": self.model or self._server.model_name or "unknown",
            "system_role": MessageRole.SYSTEM,
        }
        if context_window := self.context_window or self._context_lengths.known.get(self.model):
            payload["context_window"] = context_window
        return payload

    @property
    def _calls_functions(self) -> bool:
        return self.is_function_calling_model and self.is_chat_model  # completions have no tools

    def _context_length(self, *, kept: bool = False) -> int:
        return self._context_lengths.of(self._served, self.model, kept=kept)

    def _validate_model(self) -> int | None:
        if found := super()._validate_model():
            self._context_lengths.known[self.model] = found
        return found

    def _reset(self) -> None:
        super()._reset()
        self._context_lengths = ContextLengths()

    # The base class must not make clients of its own, which would connect to api.openai.com.

    def _get_client(self) -> VLLMClient:
        return self._server.client

    def _get_aclient(self) -> AsyncVLLMClient:
        return self._server.async_client

    # Requests

    def _get_model_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        """Return the body of a request without its messages or prompt: LlamaIndex's hook, which can be overridden.

        Args:
            kwargs: Parameters of the call; ``stream`` if it is streamed, ``use_chat_completions`` if the call chooses
                the endpoint.
        """
        chat = kwargs.pop("use_chat_completions", self.is_chat_model)
        endpoint: Literal["chat", "completions"] = "chat" if chat else "completions"
        return request_parameters(self, endpoint, kwargs, stream=kwargs.pop("stream", False))

    def _chat_request(
        self, messages: Sequence[ChatMessage], call: Mapping[str, Any], *, stream: bool = False
    ) -> Request[ChatResponse]:
        """Return the request for a reply to messages; it goes to either endpoint."""
        if call.get("use_chat_completions", self.is_chat_model):
            call = call if SECRETS.isdisjoint(call) else with_secrets(call)
            body = self._get_model_kwargs(**{**call, "stream": stream})
            body["messages"] = messages_to_json(messages, replay_reasoning=self.replay_reasoning)
            return Request("/chat/completions", body, ChatReply)
        reject_media(messages)
        prompt = self.messages_to_prompt(messages)  # type: ignore[misc]  # the constructor sets it
        return Request("/completions", self._completion_body(prompt, call, stream), ChatReply)

    def _completion_request(
        self, prompt: str, formatted: bool, call: Mapping[str, Any], *, stream: bool = False
    ) -> Request[CompletionResponse]:
        """Return the request for a reply to a prompt; it goes to either endpoint."""
        if not formatted:
            prompt = self.completion_to_prompt(prompt)  # type: ignore[misc]  # the constructor sets it
        if call.get("use_chat_completions", self.is_chat_model):
            call = call if SECRETS.isdisjoint(call) else with_secrets(call)
            body = self._get_model_kwargs(**{**call, "stream": stream})
            body["messages"] = messages_to_json(prompt_to_messages(prompt), replay_reasoning=self.replay_reasoning)
            return Request("/chat/completions", body, CompletionReply)
        return Request("/completions", self._completion_body(prompt, call, stream), CompletionReply)

    def _completion_body(self, prompt: str, call: Mapping[str, Any], stream: bool) -> dict[str, Any]:
        call = call if SECRETS.isdisjoint(call) else with_secrets(call)
        body = self._get_model_kwargs(**{**call, "stream": stream})
        body["prompt"] = prompt
        if "max_tokens" not in body:
            self._update_max_tokens(body, prompt)
        return body

    # Chat and completion. These methods call none of the base class's, which would emit LlamaIndex's events again.

    @traced
    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the reply to messages.

        Args:
            messages: The conversation.
            kwargs: Parameters of this call; also ``tools``.
        """
        return self._chat_request(messages, kwargs).send(self._server.client)

    @traced
    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Async version of ``chat``."""
        return await self._chat_request(messages, kwargs).asend(self._server.async_client)

    @traced
    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Yield the reply so far at each chunk; arguments are those of ``chat``.

        Raises:
            IncompleteStream: The stream ended before the reply.
        """
        return self._chat_request(messages, kwargs, stream=True).stream(self._server.client)

    @traced
    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Async version of ``stream_chat``."""
        return self._chat_request(messages, kwargs, stream=True).astream(self._server.async_client)

    @traced
    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the reply to a prompt, which is sent as one user message unless ``is_chat_model=False``.

        Args:
            prompt: The prompt.
            formatted: Whether ``completion_to_prompt`` has been applied to it.
            kwargs: Parameters of this call.
        """
        return self._completion_request(prompt, formatted, kwargs).send(self._server.client)

    @traced
    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Async version of ``complete``."""
        return await self._completion_request(prompt, formatted, kwargs).asend(self._server.async_client)

    @traced
    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Yield the reply so far at each chunk; arguments are those of ``complete``.

        Raises:
            IncompleteStream: The stream ended before the reply.
        """
        return self._completion_request(prompt, formatted, kwargs, stream=True).stream(self._server.client)

    @traced
    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Async version of ``stream_complete``."""
        return self._completion_request(prompt, formatted, kwargs, stream=True).astream(self._server.async_client)

    # Tools

    @traced
    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if isinstance(tools, str):
            raise TypeError("`tools` must be a sequence of tools, not str. Pass [tool].")
        prepared = super()._prepare_chat_with_tools(
            tools,
            user_msg=user_msg,
            chat_history=list(chat_history or ()),  # the base class appends to it
            verbose=verbose,
            allow_parallel_tool_calls=allow_parallel_tool_calls,
            tool_required=tool_required,
            tool_choice=tool_choice,
            strict=self.tools_strict if strict is None else strict,
            **kwargs,
        )
        if tools:  # whichever of OpenAI's models has the same name
            prepared["parallel_tool_calls"] = allow_parallel_tool_calls
            for tool, sent in zip(tools, prepared["tools"], strict=True):
                arguments = tool.metadata.fn_schema
                if arguments is not None and arguments.model_config.get("extra") == "allow":
                    allowed = arguments.model_json_schema()["additionalProperties"]  # the base class forbids them
                    sent["function"]["parameters"]["additionalProperties"] = allowed
        return prepared

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the tool calls of a response; while it streams, those that are complete.

        Args:
            response: The response.
            error_on_no_tool_call: Raise if there is none.
            kwargs: Not used.

        Raises:
            TruncatedOutput: The token limit truncated a call, or the reply before any.
            InvalidResponse: The arguments of a call are not a JSON object.
            ValueError: There is none.
        """
        selections = tool_selections(response)
        if not selections and error_on_no_tool_call:
            text = response.message.content or ""
            raise truncation_error(response.additional_kwargs.get("finish_reason"), text) or ValueError(
                f"The reply does not contain a tool call: {text[:200]!r}. "
                "Pass tool_required=True to force one, or error_on_no_tool_call=False."
            )
        return selections

    # Structured prediction. `as_structured_llm` and LlamaIndex's programs are built on these four methods.

    def _object_request(
        self, output_cls: type[BaseModel], prompt: PromptTemplate, llm_kwargs: dict[str, Any] | None, prompt_args: Any
    ) -> ObjectRequest | None:
        """Return the request for an object: by JSON schema, or as a forced tool call.

        Returns:
            ``None`` if ``pydantic_program_mode`` names one of LlamaIndex's own programs.
        """
        default = self.pydantic_program_mode == PydanticProgramMode.DEFAULT
        by_schema = default and self.should_use_structured_outputs
        by_tool_call = self.pydantic_program_mode == PydanticProgramMode.FUNCTION
        if not (by_schema or by_tool_call or (default and self._calls_functions)):
            return None
        messages = self._extend_messages(prompt.format_messages(llm=self, **prompt_args))
        parameters = without_tool_options(llm_kwargs)
        if by_schema:
            arguments = {"messages": messages, **parameters, "response_format": output_cls}
        else:
            arguments = self._prepare_chat_with_tools(
                [tool_of(output_cls)], chat_history=messages, tool_required=True, **parameters
            )
        return ObjectRequest(output_cls, arguments, by_tool_call=not by_schema)

    @traced
    def structured_predict(
        self,
        output_cls: type[M],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> M:
        """Return an object of ``output_cls``, whose schema vLLM enforces while it generates.

        ``pydantic_program_mode`` chooses how it is requested: ``DEFAULT`` by JSON schema, ``FUNCTION`` as a forced
        tool call, others by LlamaIndex's own programs.

        Args:
            output_cls: A Pydantic class.
            prompt: The prompt; the system prompt goes before it.
            llm_kwargs: Parameters of this call.
            prompt_args: Values of the prompt's variables.

        Raises:
            TruncatedOutput: The token limit truncated the object.
            ConstraintNotEnforced: The server ignored the schema.
        """
        request = self._object_request(output_cls, prompt, llm_kwargs, prompt_args)
        if request is None:
            # Skips OpenAI's method, which forces a tool choice on programs without tools. The prompt is copied
            # because programs attach their parser to it.
            by_program: M = super(OpenAI, self).structured_predict(
                output_cls, prompt.model_copy(), llm_kwargs=llm_kwargs, **prompt_args
            )
            return by_program
        emit_start(output_cls, prompt, prompt_args)
        output: M = request.parse(self.chat(**request.arguments))
        dispatcher.event(LLMStructuredPredictEndEvent(output=output))
        return output

    @traced
    async def astructured_predict(
        self,
        output_cls: type[M],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> M:
        """Async version of ``structured_predict``."""
        request = self._object_request(output_cls, prompt, llm_kwargs, prompt_args)
        if request is None:
            by_program: M = await super(OpenAI, self).astructured_predict(
                output_cls, prompt.model_copy(), llm_kwargs=llm_kwargs, **prompt_args
            )
            return by_program
        emit_start(output_cls, prompt, prompt_args)
        output: M = request.parse(await self.achat(**request.arguments))
        dispatcher.event(LLMStructuredPredictEndEvent(output=output))
        return output

    predict_and_call = traced(OpenAILike.predict_and_call)
    apredict_and_call = traced(OpenAILike.apredict_and_call)
    stream_structured_predict = traced(OpenAILike.stream_structured_predict)
    astream_structured_predict = traced(OpenAILike.astream_structured_predict)

    def _structured_stream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        request = self._object_request(output_cls, prompt, llm_kwargs, prompt_args)
        if request is None:
            yield from super(OpenAI, self)._structured_stream_call(
                output_cls, prompt.model_copy(), llm_kwargs, **prompt_args
            )
            return
        partial, response = None, ChatResponse(message=ChatMessage())
        for response in self.stream_chat(**request.arguments):
            if response.additional_kwargs.get("finish_reason") is None:
                partial = request.parse_partial(response, partial)
                yield partial
        yield request.parse(response)

    async def _structured_astream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        request = self._object_request(output_cls, prompt, llm_kwargs, prompt_args)
        if request is None:
            return await super(OpenAI, self)._structured_astream_call(
                output_cls, prompt.model_copy(), llm_kwargs, **prompt_args
            )

        async def objects() -> AsyncGenerator[Any, None]:
            partial, response = None, ChatResponse(message=ChatMessage())
            async for response in await self.astream_chat(**request.arguments):
                if response.additional_kwargs.get("finish_reason") is None:
                    partial = request.parse_partial(response, partial)
                    yield partial
            yield request.parse(response)

        return objects()
