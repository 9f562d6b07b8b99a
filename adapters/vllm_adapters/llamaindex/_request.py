"""Requests of a ``VLLM``: their parameters, what LlamaIndex's spans see of them, and how they are sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any, Generic, Literal, Self, TypeVar

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import active_instrument_tags
from pydantic import Field

from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters._request.body import request_body, set_fields
from vllm_adapters._request.compat import SESSION_ID
from vllm_adapters._request.system_messages import MERGE_SYSTEM_MESSAGES
from vllm_adapters.client import AsyncVLLMClient, VLLMClient
from vllm_adapters.llamaindex._messages import R, Reply
from vllm_adapters.params import ChatParams

F = TypeVar("F", bound=Callable[..., Any])

dispatcher = get_dispatcher(__name__)

_SECRET = frozenset({"extra_headers", "extra_query", "cache_salt"})
SECRETS = frozenset({*_SECRET, "extra_body", "llm_kwargs"})
"""Parameters of a call that are or may contain secrets."""
_WORKFLOW_RUN = "llamaindex.run_id"
"""LlamaIndex's tag of everything that a workflow's run does."""
_REDACTED = "**********"
_NO_MESSAGES = "`messages` must be a sequence of ChatMessage, not str. Use complete(), or pass [ChatMessage(text)]."


class LLMParams(ChatParams):
    """The parameters of OpenAI's API that vLLM has too, and vLLM's own."""

    temperature: float | None = Field(
        default=None, ge=0, description="0 is greedy; default: the model's own (generation_config.json), else 1."
    )
    max_tokens: int | None = Field(default=None, gt=0, description="Maximum tokens to generate; default: what fits.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Sample from this share of the probability.")
    seed: int | None = Field(default=None, description="Make sampling repeatable.")
    stop: str | list[str] | None = Field(default=None, description="Strings that end the reply.")
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, description="Avoid frequent tokens.")
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, description="Avoid tokens that have occurred.")
    logit_bias: dict[str, float] | None = Field(default=None, description="Token id to bias, -100 to 100.")
    user: str | None = Field(default=None, description="Name of the end user; vLLM makes no use of it.")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        default=None, description="How long to think, for chat templates that support it."
    )
    modalities: list[str] | None = Field(default=None, description="OpenAI-only: vLLM refuses it.")


# What spans, events and callbacks see of a call


class RedactedDict(dict[str, Any]):
    """A dict that shows its keys, and asterisks for its values.

    Attributes:
        secret: The values, which are sent.
    """

    __slots__ = ("secret",)

    def __init__(self, secret: Mapping[str, Any]) -> None:
        super().__init__(dict.fromkeys(secret, _REDACTED))
        self.secret = secret

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class RedactedText(str):
    """A str of asterisks.

    Attributes:
        secret: The text, which is sent.
    """

    __slots__ = ("secret",)
    secret: str

    @classmethod
    def of(cls, secret: str) -> Self:
        """Return the asterisks for a text."""
        redacted = cls(_REDACTED)
        redacted.secret = secret
        return redacted

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


def traced(method: F) -> F:
    """Put LlamaIndex's span around a method, without the secrets among the parameters of the call.

    The method raises a ``TypeError`` for ``messages`` that are a text.
    """
    span: Any = dispatcher.span(method)
    has_messages = "messages" in signature(method).parameters

    if iscoroutinefunction(method):

        @wraps(span)
        async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if has_messages and isinstance(args[0] if args else kwargs.get("messages"), str):
                raise TypeError(_NO_MESSAGES)
            if not SECRETS.isdisjoint(kwargs):
                kwargs = _redact(kwargs)
            return await span.__get__(self)(*args, **kwargs)
    else:

        @wraps(span)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if has_messages and isinstance(args[0] if args else kwargs.get("messages"), str):
                raise TypeError(_NO_MESSAGES)
            if not SECRETS.isdisjoint(kwargs):
                kwargs = _redact(kwargs)
            return span.__get__(self)(*args, **kwargs)

    return call  # type: ignore[return-value]


def _redact(call: Mapping[str, Any]) -> dict[str, Any]:
    redacted = dict(call)
    for name in SECRETS & call.keys():
        value = call[name]
        if isinstance(value, RedactedDict | RedactedText):
            continue
        if isinstance(value, Mapping):
            redacted[name] = RedactedDict(value) if name in _SECRET else _redact(value)
        elif isinstance(value, str) and name in _SECRET:
            redacted[name] = RedactedText.of(value)
    return redacted


def with_secrets(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of a call as the caller gave them."""
    given = dict(call)
    for name in SECRETS & call.keys():
        value = call[name]
        if isinstance(value, RedactedDict | RedactedText):
            given[name] = value.secret
        elif isinstance(value, Mapping):
            given[name] = with_secrets(value)
    return given


# Parameters


def request_parameters(
    llm: Any, endpoint: Literal["chat", "completions"], call: Mapping[str, Any], *, stream: bool
) -> dict[str, Any]:
    """Return the body of a request without its messages or prompt.

    Args:
        llm: A ``VLLM``, whose fields the call overrides.
        endpoint: The endpoint that the request is for.
        call: Parameters of one call.
        stream: Whether the reply is streamed.

    Raises:
        InvalidRequest: A value is of the wrong type, out of bounds, or cannot be streamed.
    """
    fields = {"stream": stream, **set_fields(llm, LLMParams)}
    if stream:
        fields["stream_options"] = {"include_usage": True}
    if llm.logprobs:
        fields["logprobs"] = True
    if llm.merge_system_messages is not None and endpoint == "chat":
        fields[MERGE_SYSTEM_MESSAGES] = llm.merge_system_messages
    if llm.audio_config:
        fields["audio"] = llm.audio_config
    if llm.session and (session := _current_session()):
        fields[SESSION_ID] = session
    extra = {"extra_body": llm.extra_body} if llm.extra_body else None
    levels = filter(None, (fields, llm.additional_kwargs, extra, call))
    body = {"model": llm.model, **request_body(*levels, endpoint=endpoint), "stream": stream}
    if not stream:
        body.pop("stream_options", None)
    if llm.tools_strict is not None and body.get("tools"):
        body["tools"] = [
            {**tool, "function": {"strict": llm.tools_strict, **tool["function"]}} if "function" in tool else tool
            for tool in body["tools"]
        ]
    if isinstance(body.get("logprobs"), bool):
        _convert_logprobs(body, endpoint, llm.top_logprobs)
    return body


def _current_session() -> str | None:
    """Return the session that the caller has tagged, else the run of the workflow that makes this call."""
    tags = active_instrument_tags.get()
    session = tags.get(SESSION_ID) or tags.get(_WORKFLOW_RUN)
    return str(session) if session else None


def _convert_logprobs(body: dict[str, Any], endpoint: str, default: int) -> None:
    """Convert LlamaIndex's flag and number to what the endpoint takes: completions has the number alone."""
    number = body.pop("top_logprobs", default)
    if endpoint == "completions":
        wanted = body.pop("logprobs")
        if wanted:
            body["logprobs"] = number
    elif body["logprobs"]:
        body["top_logprobs"] = number


@dataclass(frozen=True)
class Request(Generic[R]):
    """One request.

    Args:
        path: ``"/chat/completions"`` or ``"/completions"``.
        body: Parameters, and messages or prompt.
        reply: Makes the builder of its responses.
    """

    path: str
    body: dict[str, Any]
    reply: Callable[[], Reply[R]]

    def send(self, client: VLLMClient) -> R:
        """Return the response."""
        response = RawCompletions(client, path=self.path).create(**self.body)
        return self.reply().complete(response)

    async def asend(self, client: AsyncVLLMClient) -> R:
        """Async version of ``send``."""
        response = await RawCompletions(client, path=self.path).create(**self.body)
        return self.reply().complete(response)

    def stream(self, client: VLLMClient) -> Generator[R, None, None]:
        """Yield the reply so far at each chunk; the request is sent when the first is taken."""
        reply = self.reply()
        with RawCompletions(client, path=self.path).create(**self.body) as chunks:
            for chunk in chunks:
                yield reply.add(chunk)

    async def astream(self, client: AsyncVLLMClient) -> AsyncGenerator[R, None]:
        """Async version of ``stream``."""
        reply = self.reply()
        async with await RawCompletions(client, path=self.path).create(**self.body) as chunks:
            async for chunk in chunks:
                yield reply.add(chunk)
