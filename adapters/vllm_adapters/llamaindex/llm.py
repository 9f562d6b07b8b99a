"""``VLLM``: LlamaIndex's LLM on vLLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

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
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.llms.openai import OpenAI
from pydantic import Field, PrivateAttr, field_serializer

from vllm_adapters.client import AsyncVLLMClient, VLLMClient
from vllm_adapters.llamaindex._connection import Connection
from vllm_adapters.llamaindex._messages import refuse_media, to_wire
from vllm_adapters.llamaindex._request import Request, asend, astream, send, stream
from vllm_adapters.llamaindex._structured import StructuredPredict
from vllm_adapters.llamaindex.bodies import OpenAIParams, body_of
from vllm_adapters.llamaindex.responses import ChatReply, CompletionReply, as_chat, as_completion
from vllm_adapters.params import ChatParams
from vllm_adapters.server import VLLMServer
from vllm_adapters.types import context_length


class VLLM(ChatParams, OpenAIParams, Connection, StructuredPredict):  # type: ignore[misc]  # None is "not sent"
    """LlamaIndex's LLM for a vLLM server, with everything that vLLM adds to OpenAI's API.

    >>> from vllm_adapters.llamaindex import VLLM
    >>> llm = VLLM(api_base="http://localhost:8000", temperature=0, top_k=20)  # vllm serve MODEL
    >>> llm.complete("What is the capital of France?").text
    'The capital of France is Paris.'
    >>> llm.complete("Yes or no?", structured_outputs={"choice": ["yes", "no"]}).text
    'no'

    Every parameter of vLLM is given flat, under vLLM's own name: here and per call. The call beats the
    constructor, for ``max_tokens`` and ``stop`` too; ``chat_template_kwargs``, ``extra_body`` and other dicts
    merge deeply. A name that no vLLM version has is refused; one that the connected server's version does not
    have is translated or refused.

    Responses have ``finish_reason``, ``stop_reason`` and the counts of tokens in ``additional_kwargs``, thinking
    as a ``ThinkingBlock`` (in streams as ``additional_kwargs["thinking_delta"]`` too, of ``complete`` as
    ``additional_kwargs["thinking"]``), and the server's reply in ``raw``, a dict. A broken tool call is found in
    the message's ``additional_kwargs["invalid_tool_calls"]``, and is an error where it would be run.

    Tool calls need ``vllm serve --enable-auto-tool-choice --tool-call-parser ...``, reasoning needs
    ``--reasoning-parser ...``; errors name the flag that is missing.

    Args:
        model: Served model name, a LoRA adapter's too; default: the one base model that the server serves.
        api_base: The server, as for ``VLLMClient``; also as ``base_url``. ``OPENAI_*`` is never read.
        fields: See the fields of the class: connection, OpenAI's parameters, vLLM's parameters.

    Raises:
        UnknownParameter: A ``TypeError``: no such argument.
        VLLMError: From calls, on every failure; also the openai error that is usual for it.
    """

    _endpoint: ClassVar[str] = "chat"

    model: str = Field(default="", description="Served model name; default: the one base model that is served.")
    context_window: int | None = Field(  # type: ignore[assignment]  # None: the server's
        default=None, gt=0, description="Tokens for prompt and reply; default: what the server says, asked when needed."
    )
    is_chat_model: bool = Field(default=True, description="False: `/v1/completions`, with no chat template.")
    is_function_calling_model: bool = Field(default=True, description="The server is started with a tool parser.")
    should_use_structured_outputs: bool = Field(default=True, description="Ask for objects by JSON schema.")
    strict: bool = Field(default=True, description="Have vLLM enforce the schemas of tools.")
    extra_body: dict[str, Any] = Field(default_factory=dict, description="Further fields of every request.")
    replay_reasoning: bool = Field(
        default=False, description="Send thinking back with the messages it belongs to, for models that want it."
    )

    _served_windows: dict[str, int] = PrivateAttr(default_factory=dict)

    if not TYPE_CHECKING:  # type checkers make it from the fields

        def __init__(self, model: str = "", **fields: Any) -> None:
            fields = self._checked({"model": model, **fields})
            if (server := fields.get("server")) is not None:
                fields["model"] = model or server.model or ""
            fields["additional_kwargs"] = fields.get("additional_kwargs") or {}
            # Past OpenAI's constructor, which fills in from the environment's OPENAI_* and by OpenAI's model names.
            super(OpenAI, self).__init__(**fields)
            self._client = self._aclient = self._http_client = self._async_http_client = None
            self._connect(self.model)

    @classmethod
    def from_server(cls, server: VLLMServer | str | None = None, **fields: Any) -> Self:
        """A ``VLLM`` that knows its model's name and context length: the server is asked now.

        Args:
            server: A ``VLLMServer``, or an address as for ``base_url``.
            fields: Further arguments of the constructor.

        Raises:
            VLLMError: The server cannot be reached.
            ModelNotServed: It serves several models, and none was named.
        """
        where: dict[str, Any] = {"server": server} if isinstance(server, VLLMServer) else {"api_base": server}
        llm = cls(**where, **fields)
        llm.model = llm.model or llm._server.client.served_model()
        llm.context_window = llm.context_window or llm._ask_window()
        return llm

    @field_serializer("tokenizer")
    def _name_of(self, tokenizer: Any) -> str | None:
        return tokenizer if isinstance(tokenizer, str) else None  # an object cannot be written down

    # Who it is

    @classmethod
    def class_name(cls) -> str:
        """``"VLLM"``, for serialization."""
        return "VLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex wants to know of a model; the server is asked for the context length when it is read."""
        return _Metadata.of(
            self._ask_window,
            context_window=self.context_window or self._served_windows.get(self.model),
            num_output=self.max_tokens or -1,
            is_chat_model=self.is_chat_model,
            is_function_calling_model=self.is_function_calling_model,
            model_name=self.model or self._server.client.facts.model or "",
        )

    def to_payload(self) -> dict[str, Any]:
        """What observers of events get to see; nothing is asked for it."""
        return {"class_name": self.class_name(), **vars(self.metadata)}

    def _ask_window(self) -> int:
        if self.model not in self._served_windows:  # copies may name another one
            length = context_length(self._server.models(), self.model, self._server.base_url)
            self._served_windows[self.model] = length or DEFAULT_CONTEXT_WINDOW
        return self._served_windows[self.model]

    def _get_client(self) -> VLLMClient:
        return self._server.client

    def _get_aclient(self) -> AsyncVLLMClient:
        return self._server.async_client

    # Requests

    def _chat_request(
        self, messages: Sequence[ChatMessage], given: dict[str, Any], *, stream: bool
    ) -> Request[ChatResponse]:
        if not given.pop("use_chat_completions", self.is_chat_model):
            refuse_media(messages)
            prompt = self.messages_to_prompt(messages)  # type: ignore[misc]  # None becomes LlamaIndex's own
            return self._text_request(prompt, given, stream=stream).then(as_chat)
        body = body_of(self, "chat", given, stream=stream)
        body["messages"] = to_wire(messages, replay_reasoning=self.replay_reasoning)
        return Request("/chat/completions", body, ChatReply)

    def _text_request(self, prompt: str, given: Mapping[str, Any], *, stream: bool) -> Request[CompletionResponse]:
        body = {**body_of(self, "completions", given, stream=stream), "prompt": prompt}
        if "max_tokens" not in body:
            self._update_max_tokens(body, prompt)
        return Request("/completions", body, CompletionReply)

    def _completion_request(
        self, prompt: str, formatted: bool, given: dict[str, Any], *, stream: bool
    ) -> Request[CompletionResponse]:
        if not formatted:
            prompt = self.completion_to_prompt(prompt)  # type: ignore[misc]  # None becomes LlamaIndex's own
        if given.pop("use_chat_completions", self.is_chat_model):
            return self._chat_request(prompt_to_messages(prompt), given, stream=stream).then(as_completion)
        return self._text_request(prompt, given, stream=stream)

    # The eight ways to ask. They call nothing of the base class's that would emit LlamaIndex's events again.

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer messages; ``kwargs`` are parameters of this call, and ``tools``."""
        return send(self._get_client(), self._chat_request(messages, kwargs, stream=False))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """``chat``, to await."""
        return await asend(self._get_aclient(), self._chat_request(messages, kwargs, stream=False))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """``chat``, piece by piece: each response is the reply so far.

        Raises:
            IncompleteStream: The stream ended before the reply.
        """
        return stream(self._get_client(), self._chat_request(messages, kwargs, stream=True))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """``stream_chat``, to await."""
        return astream(self._get_aclient(), self._chat_request(messages, kwargs, stream=True))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, as one user message unless ``is_chat_model=False``."""
        return send(self._get_client(), self._completion_request(prompt, formatted, kwargs, stream=False))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """``complete``, to await."""
        return await asend(self._get_aclient(), self._completion_request(prompt, formatted, kwargs, stream=False))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """``complete``, piece by piece: each response is the reply so far.

        Raises:
            IncompleteStream: The stream ended before the reply.
        """
        return stream(self._get_client(), self._completion_request(prompt, formatted, kwargs, stream=True))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """``stream_complete``, to await."""
        return astream(self._get_aclient(), self._completion_request(prompt, formatted, kwargs, stream=True))


class _Metadata(LLMMetadata):
    """Metadata whose context length is asked for when somebody reads it.

    LlamaIndex looks at metadata at every turn, also inside a running event loop, and mostly at other fields.
    """

    _ask: Callable[[], int] = PrivateAttr()

    @classmethod
    def of(cls, ask: Callable[[], int], *, context_window: int | None, **known: Any) -> _Metadata:
        made = cls(context_window=context_window or 0, **known)
        made._ask = ask
        if context_window is None:
            del made.__dict__["context_window"]
        return made

    def __getattr__(self, name: str) -> Any:
        if name == "context_window":
            self.__dict__[name] = self._ask()
            return self.__dict__[name]
        return super().__getattr__(name)  # type: ignore[misc]  # Pydantic's, for private attributes
