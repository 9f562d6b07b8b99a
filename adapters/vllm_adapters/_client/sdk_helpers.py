"""The SDK's helpers ``chat.completions.stream`` and ``with_streaming_response``: their errors as ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.resources.chat import AsyncChat, AsyncCompletions, Chat, Completions

from vllm_adapters._compat import http
from vllm_adapters._response.error_mapping import RequestContext, sdk_parse_errors


class RawEventStream(http.SyncByteStream, http.AsyncByteStream):
    """The bytes of an event stream whose caller reads them as they are, and must see to it that they are whole.

    Args:
        stream: The transport's.
        reading: Turns the transport's errors into ours.
    """

    def __init__(self, stream: Any, reading: Callable[[], AbstractContextManager[None]]) -> None:
        self._stream, self._reading = stream, reading

    def __iter__(self) -> Iterator[bytes]:
        with self._reading():
            yield from self._stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._reading():
            async for piece in self._stream:
                yield piece

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()


class _State(ChatCompletionStreamState[Any]):
    """What a stream's events are made of."""

    def __init__(self, stream: Any) -> None:
        asked, raw = stream._state, stream._raw_stream
        super().__init__(input_tools=asked._input_tools, response_format=asked._response_format)
        self._call: RequestContext = raw._client.call_of(raw._options)

    def handle_chunk(self, chunk: Any) -> Any:
        with sdk_parse_errors(lambda: self.current_completion_snapshot, self._call):
            return super().handle_chunk(chunk)

    def get_final_completion(self) -> Any:
        with sdk_parse_errors(lambda: self.current_completion_snapshot, self._call):
            return super().get_final_completion()


class _Opening:
    """The SDK's manager of a stream of events, sync or async."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def __enter__(self) -> Any:
        stream = self._manager.__enter__()
        stream._state = _State(stream)
        return stream

    def __exit__(self, *exc: object) -> None:
        self._manager.__exit__(*exc)

    async def __aenter__(self) -> Any:
        stream = await self._manager.__aenter__()
        stream._state = _State(stream)
        return stream

    async def __aexit__(self, *exc: object) -> None:
        await self._manager.__aexit__(*exc)


class _Completions(Completions):
    if not TYPE_CHECKING:  # the SDK's own signature holds

        def stream(self, **request: Any) -> Any:
            return _Opening(super().stream(**request))


class _AsyncCompletions(AsyncCompletions):
    if not TYPE_CHECKING:

        def stream(self, **request: Any) -> Any:
            return _Opening(super().stream(**request))


class CheckedChat(Chat):
    """``client.chat`` whose ``completions.stream`` raises errors of ours."""

    @cached_property
    def completions(self) -> Completions:
        """The SDK's resource, and its helpers."""
        return _Completions(self._client)


class AsyncCheckedChat(AsyncChat):
    """``HelpfulChat`` for the async client."""

    @cached_property
    def completions(self) -> AsyncCompletions:
        """The SDK's resource, and its helpers."""
        return _AsyncCompletions(self._client)
