"""The SDK's resource of chat completions: plain requests past its transform, and helpers with our errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, wraps
from inspect import signature
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

import openai
from openai import AsyncStream, Stream
from openai._base_client import make_request_options
from openai._types import not_given
from openai._utils import is_given
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.resources.chat import AsyncChat, AsyncCompletions, Chat, Completions
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from vllm_adapters._response.structured import truncation_error
from vllm_adapters.errors import ConstraintNotEnforced, InvalidResponse, VLLMError

_OPTIONS = ("extra_headers", "extra_query", "extra_body", "timeout")
_NAMES = frozenset(signature(Completions.create).parameters).difference(("self", *_OPTIONS))
_SCALARS = frozenset((str, int, float, bool, type(None)))


@contextmanager
def parse_errors(completion: Callable[[], Any]) -> Iterator[None]:
    """Map the errors of the SDK's helpers, which make objects of replies, to ours.

    Args:
        completion: Returns the reply, as far as it has arrived.

    Raises:
        TruncatedOutput: The token limit truncated the reply.
        FilteredOutput: A content filter did.
        InvalidResponse: Its choices or tool calls have indices with gaps.
        ConstraintNotEnforced: It does not fit the class, or a call's arguments do not fit their tool.
    """
    try:
        yield
    except openai.LengthFinishReasonError as error:
        if isinstance(error, VLLMError):
            raise
        fields: Any = error.completion.to_dict()
        plain = ChatCompletion.construct(**fields)  # pickle cannot find the class of a stream's own
        partial = _text_of(error.completion)
        raise cast(VLLMError, truncation_error("length", partial, completion=plain)) from None
    except openai.ContentFilterFinishReasonError:
        raise cast(VLLMError, truncation_error("content_filter", _text_of(completion()))) from None
    except IndexError as error:  # of the SDK's lists
        raise InvalidResponse(
            f"The choices or tool calls of the stream do not count from 0 ({error})",
            hint="Use client.chat.completions.create(..., stream=True), which returns them unchanged",
        ) from error
    except ValueError as error:  # Pydantic's is one
        raise misfit(error, _text_of(completion())) from error


def misfit(error: ValueError, text: str) -> ConstraintNotEnforced:
    """Return the error for a text that does not fit the requested class."""
    return ConstraintNotEnforced(
        f"The reply does not fit the requested class: {error}; reply: {text[:200]!r}",
        hint="A schema cannot express a class's own validators, "
        "and the arguments of tools fit theirs only where the tool is strict and forced",
        reply=text,
        constraint="json",
    )


def _text_of(completion: Any) -> str:
    if not hasattr(completion, "choices"):  # of /v1/responses
        return response_text(completion)
    message = completion.choices[0].message
    return message.content or (message.tool_calls[-1].function.arguments if message.tool_calls else "")


class _State(ChatCompletionStreamState[Any]):
    """The state of the SDK's stream of events, with our errors."""

    def __init__(self, stream: Any) -> None:
        state, raw = stream._state, stream._raw_stream
        super().__init__(input_tools=state._input_tools, response_format=state._response_format)
        self._raw = raw

    def handle_chunk(self, chunk: Any) -> Any:
        with self._errors():
            return super().handle_chunk(chunk)

    def get_final_completion(self) -> Any:
        with self._errors():
            return super().get_final_completion()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with parse_errors(lambda: self.current_completion_snapshot):
                yield
        except VLLMError as error:
            context = self._raw._client.vllm.context(self._raw._options)
            error.add_context(address=context.address, model=context.model)
            raise


def response_text(response: Any) -> str:
    """Return the text of a response, or the arguments of its tool call."""
    return response.output_text or next(
        (item.arguments for item in response.output if item.type == "function_call"), ""
    )


class StreamManager:
    """The SDK's manager of a stream of events, sync or async."""

    def __init__(self, manager: Any, state: Callable[[Any], Any]) -> None:
        self._manager = manager
        self._state = state

    def __enter__(self) -> Any:
        stream = self._manager.__enter__()
        stream._state = self._state(stream)
        return stream

    def __exit__(self, *exc: object) -> None:
        self._manager.__exit__(*exc)

    async def __aenter__(self) -> Any:
        stream = await self._manager.__aenter__()
        stream._state = self._state(stream)
        return stream

    async def __aexit__(self, *exc: object) -> None:
        await self._manager.__aexit__(*exc)


def _post_arguments(method: object, request: Mapping[str, Any], stream_cls: type) -> dict[str, Any] | None:
    """Return what the SDK's ``create`` would post, without its transform, which leaves plain data as it is.

    The transform walks through the types of all parameters, and takes a third of the CPU time of a call.

    Args:
        method: ``create`` of the SDK's class. Instrumentations put a function of theirs in its place, which must see
            the call.
        request: Its arguments.
        stream_cls: The class of a stream.

    Returns:
        ``None`` if ``method`` has to be called.
    """
    if type(method) is not FunctionType or not method.__globals__["__name__"].startswith("openai."):
        return None
    options: dict[str, Any] = {name: request.get(name) for name in _OPTIONS}
    options["timeout"] = request.get("timeout", not_given)
    body = {name: value for name, value in request.items() if name not in options and is_given(value)}
    if "messages" not in body or "model" not in body or not body.keys() <= _NAMES or not _is_plain(body):
        return None
    return {
        "body": body,
        "options": make_request_options(**options),
        "cast_to": ChatCompletion,
        "stream": bool(body.get("stream")),
        "stream_cls": stream_cls,
    }


def _is_plain(value: object) -> bool:
    kind = type(value)
    if kind is dict:
        return all(map(_is_plain, cast("dict[str, object]", value).values()))
    return all(map(_is_plain, cast("list[object]", value))) if kind is list else kind in _SCALARS


class _Completions(Completions):
    if not TYPE_CHECKING:  # the SDK's own signatures hold

        @wraps(Completions.create)
        def create(self, **request: Any) -> Any:
            found = _post_arguments(Completions.create, request, Stream[ChatCompletionChunk])
            return super().create(**request) if found is None else self._post("/chat/completions", **found)

        @wraps(Completions.stream)
        def stream(self, **request: Any) -> Any:
            return StreamManager(super().stream(**request), _State)


class _AsyncCompletions(AsyncCompletions):
    if not TYPE_CHECKING:

        @wraps(AsyncCompletions.create)
        async def create(self, **request: Any) -> Any:
            found = _post_arguments(AsyncCompletions.create, request, AsyncStream[ChatCompletionChunk])
            return await (super().create(**request) if found is None else self._post("/chat/completions", **found))

        @wraps(AsyncCompletions.stream)
        def stream(self, **request: Any) -> Any:
            return StreamManager(super().stream(**request), _State)


class CheckedChat(Chat):
    """``client.chat`` whose ``completions.stream`` raises our errors."""

    @cached_property
    def completions(self) -> Completions:
        """The SDK's resource, and its helpers."""
        return _Completions(self._client)


class AsyncCheckedChat(AsyncChat):
    """``CheckedChat`` of the async client."""

    @cached_property
    def completions(self) -> AsyncCompletions:
        """The SDK's resource, and its helpers."""
        return _AsyncCompletions(self._client)
