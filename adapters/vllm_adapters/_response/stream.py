"""Whole streams or an error; one kind of delta per chunk; chunks made cheaply.

``ChunkReader`` does all the work on bytes, without I/O; ``WholeStream`` and ``AsyncWholeStream`` feed it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Generic, TypeVar

import openai
from openai import AsyncStream, Stream
from pydantic_core import from_json

from vllm_adapters._compat import http
from vllm_adapters._request.availability import endpoint_of
from vllm_adapters._response import error_mapping, structured
from vllm_adapters._response.error_mapping import RequestContext
from vllm_adapters._response.sse import EventSplitter
from vllm_adapters._response.tool_calls import ToolCallDeltas
from vllm_adapters._response.validate import expected_choices, validate_shape
from vllm_adapters.errors import IncompleteStream, ServerTimeout, VLLMError

T = TypeVar("T")

_DONE = b"[DONE]"
_LAST_EVENTS = {"response.completed", "response.incomplete", "response.failed"}


class ChunkReader:
    """The chunks of one streamed reply, and whether it was whole.

    Args:
        body: The request's JSON body: how many choices to expect, which constraint to check.
        call: What was asked, for the texts of errors.
        idle: Seconds that may pass with nothing but comments; ``None`` for any number.
    """

    def __init__(self, body: Mapping[str, Any], call: RequestContext, *, idle: float | None = None) -> None:
        self._events = EventSplitter()
        self._idle = idle
        self._silence = 0.0
        self._waits_since = time.monotonic()
        self._call = call
        self._endpoint = endpoint_of(call.path)
        self._constraint = structured.requested_constraint(body)
        self._expected = expected_choices(body)
        self._texts: dict[int, list[str]] = {}
        self._reasoning: list[str] = []
        self._calls: dict[int, ToolCallDeltas] = {}
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._ended = False
        self.done = False

    def feed(self, received: bytes, response: http.Response) -> Iterator[dict[str, Any]]:
        """The chunks that ``received`` completes, as dicts with one kind of delta each.

        Raises:
            VLLMError: The server sent an error event, or something that is not an event.
            ConstraintNotEnforced: A choice finished and breaks the constraint that was asked for.
            ServerTimeout: For the idle limit there have been only comments.
        """
        waited = time.monotonic() - self._waits_since
        yield from self._read(received, response)
        self._mind_silence(waited)
        self._waits_since = time.monotonic()  # the caller's own time between two pieces is no silence of the server

    def _mind_silence(self, waited: float) -> None:
        self._silence = 0.0 if self._events.said_something else self._silence + waited
        if self._idle is not None and self._silence > self._idle:
            silent = http.ReadTimeout("only comments")
            silent.seconds = self._idle  # type: ignore[attr-defined]
            raise self.broken(silent)

    def _read(self, received: bytes, response: http.Response) -> Iterator[dict[str, Any]]:
        for data in self._events.feed(received):
            if data.startswith(_DONE):
                self.done = True
                return
            try:
                event = from_json(data)  # a third of the cost of json's, and no half characters
            except ValueError as error:
                raise error_mapping.invalid_response(
                    f"An event of the stream is not JSON ({error}): {data[:80]!r}", call=self._call, response=response
                ) from None
            if not isinstance(event, dict) or event.get("error"):
                raise self._failed(event, response)
            if "choices" not in event and self._endpoint not in ("chat", "completions"):
                self._ended = self._ended or event.get("type") in _LAST_EVENTS
                yield event
                continue
            if not event.get("choices") and (event.get("message") or event.get("detail")):  # an error in another shape
                raise self._failed(event, response)
            validate_shape(event, call=self._call, response=response)
            self._fill(event)
            chunks = split_chunk(event)
            for chunk in chunks:
                for choice in chunk["choices"]:
                    self._note(choice, response)
            yield from chunks

    def check_whole(self) -> None:
        """Raise unless every choice has had its finish reason.

        Raises:
            IncompleteStream: The stream ended early.
        """
        if self._ended or (not self._open and len(self._finished) >= self._expected):
            return
        raise self.broken(None)

    def broken(self, failure: BaseException | None, request: http.Request | None = None) -> VLLMError:
        """The error for a stream that ended early, by itself or with a transport's ``failure``."""
        if isinstance(failure, VLLMError):  # named already, for a caller who reads bytes
            failure = failure.__context__
        if failure is not None and "Timeout" in type(failure).__name__:
            timeout = error_mapping.from_transport(failure, call=self._call, request=request)
            timeout.partial = self.partial
            return timeout
        reason = "it ended without a finish reason" if failure is None else str(failure) or type(failure).__name__
        return IncompleteStream(
            f"The stream broke off: {reason}",
            hint="What had arrived is in .partial; it is not the whole reply",
            address=self._call.address,
            model=self._call.model,
            request=request,
            partial=self.partial,
            partials={index: "".join(texts) for index, texts in self._texts.items()},
            partial_reasoning="".join(self._reasoning),
        )

    @property
    def partial(self) -> str:
        """The text of the first choice, as far as it has arrived."""
        return "".join(self._texts[min(self._texts)]) if self._texts else ""

    def _failed(self, event: object, response: http.Response) -> VLLMError:
        error = error_mapping.from_event(event, call=self._call, response=response)
        error.partial = self.partial
        return error

    def _fill(self, event: dict[str, Any]) -> None:
        """What a chunk may leave out and readers reach for without asking."""
        event["choices"] = event.get("choices") or []  # gateways in Go write an empty list as null
        if self._endpoint == "chat":
            event["object"] = "chat.completion.chunk"  # the SDK's helper skips all others
        for choice in event["choices"]:
            choice["index"] = choice.get("index") or 0
            if self._endpoint == "completions":
                choice["text"] = choice.get("text") or ""
            else:
                choice["delta"] = choice.get("delta") or {}

    def _refuse(self, what: str | None, response: http.Response) -> None:
        if what is not None:
            raise error_mapping.invalid_response(f"The stream holds {what}", call=self._call, response=response)

    def _note(self, choice: dict[str, Any], response: http.Response) -> None:
        index, delta = choice["index"], choice.get("delta")
        if isinstance(delta, dict):
            if index in self._open:
                delta.pop("role", None)  # some servers repeat it, and the SDK's helper would add it up
            text = delta.get("content")
            if calls := delta.get("tool_calls"):
                own = self._calls.setdefault(index, ToolCallDeltas())
                for call in calls:
                    self._refuse(own.settle(call), response)
            if thought := delta.get("reasoning"):
                self._reasoning.append(thought)
        else:
            text = choice.get("text")
        if choice.get("message"):
            self._refuse("a whole message, not a piece of one", response)
        if text:
            self._texts.setdefault(index, []).append(text)
        if reason := choice.get("finish_reason"):
            if index in self._finished:
                choice["finish_reason"] = None  # said once more by a gateway; frameworks would add the two up
            self._open.discard(index)
            self._finished.add(index)
            more = len(self._open) + len(self._finished) > self._expected
            self._refuse(f"more choices than the {self._expected} asked for" if more else None, response)
            error_mapping.raise_if_aborted(
                reason, "".join(self._texts.get(index, [])), call=self._call, response=response
            )
            if self._constraint is not None and index not in self._calls:
                structured.check_constraint(
                    self._constraint,
                    "".join(self._texts.get(index, [])),
                    finish_reason=reason,
                    stop_reason=choice.get("stop_reason"),
                    call=self._call,
                )
        elif index not in self._finished:
            self._open.add(index)


def split_chunk(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    """Split a chunk into chunks of one choice and one kind of delta each, in order; nothing is lost or doubled.

    Reasoning is named ``reasoning``, whatever the server's version calls it (``reasoning_content`` stays
    beside it). The finish reason, usage and all other fields stay on the last piece, the role on the first.
    """
    choices = chunk["choices"] or []
    pieces: list[dict[str, Any]] = []
    for choice in choices:
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            pieces.append(choice)
            continue
        if "reasoning_content" in delta and not delta.get("reasoning"):
            delta["reasoning"] = delta["reasoning_content"]
        calls = delta.get("tool_calls") or []
        if bool(delta.get("reasoning")) + bool(delta.get("content")) + len(calls) <= 1:
            pieces.append(choice)
        else:
            pieces.extend(_split_choice(choice, delta, calls))
    if len(pieces) <= 1:
        return [chunk]
    envelope = {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}
    chunks = [{**envelope, "choices": [piece]} for piece in pieces]
    chunks[-1] = {**chunk, "choices": [pieces[-1]]}
    return chunks


def _split_choice(choice: dict[str, Any], delta: dict[str, Any], calls: list[Any]) -> Iterator[dict[str, Any]]:
    deltas: list[dict[str, Any]] = []
    if delta.get("reasoning"):
        names = ("reasoning", "reasoning_content")
        deltas.append({name: delta[name] for name in names if name in delta})
    if delta.get("content"):
        deltas.append({"content": delta["content"]})
    deltas.extend({"tool_calls": [call]} for call in calls)
    rest = {k: v for k, v in delta.items() if k not in ("reasoning", "reasoning_content", "content", "tool_calls")}
    if "role" in rest:
        deltas[0]["role"] = rest.pop("role")
    deltas[-1].update(rest)
    for piece in deltas[:-1]:
        yield {"index": choice.get("index", 0), "delta": piece, "finish_reason": None, "logprobs": None}
    yield {**choice, "delta": deltas[-1]}


class _Reading(Generic[T]):
    """What both streams share: everything but the ``await``."""

    response: http.Response
    _client: Any
    _cast_to: type[T]
    _options: Any

    def _reader(self) -> ChunkReader:
        body = self._options.json_data if self._options is not None else None
        limit = getattr(self._options, "timeout", None)
        idle = getattr(limit, "read", None)
        return ChunkReader(body if isinstance(body, dict) else {}, self._client.call_of(self._options), idle=idle)

    def _chunks(self, reader: ChunkReader, received: bytes) -> Iterator[T]:
        for chunk in reader.feed(received, self.response):
            yield self._client._process_response_data(data=chunk, cast_to=self._cast_to, response=self.response)


class _Left(Iterator[Any], AsyncIterator[Any]):
    """What is left of a stream that was left before its end: not nothing, which would look like its end."""

    def __init__(self, stream: _Reading[Any]) -> None:
        self._stream = stream

    def __next__(self) -> Any:
        raise IncompleteStream(
            "The stream was left before its end, and that has closed it",
            hint="To look at the first chunk and go on, keep the iterator: chunks = iter(stream), or use next(stream)",
            address=self._stream._client.address,
            request=self._stream.response.request,
        )

    async def __anext__(self) -> Any:
        self.__next__()


_TRANSPORT_FAILURES = (http.RequestError, http.StreamError, openai.APIConnectionError)


class CheckedStream(_Reading[T], Stream[T]):
    """The SDK's stream, complete or in error; leaving the loop early closes the connection.

    >>> from vllm_adapters import VLLMClient
    >>> with VLLMClient() as client:  # vllm serve MODEL
    ...     for chunk in client.chat.completions.create(
    ...         model="", messages=[{"role": "user", "content": "Hello"}], stream=True
    ...     ):
    ...         text = chunk.choices[0].delta.content

    Raises:
        IncompleteStream: It ended before every choice had its finish reason.
        ServerFailed: The server gave the reply up (finish reason ``abort`` or ``error``).
        VLLMError: The server sent an error event, or a time limit passed.
    """

    def __stream__(self) -> Iterator[T]:
        """The chunks, read to the end of the reply."""
        reader = self._reader()
        try:
            for received in self.response.iter_bytes():
                yield from self._chunks(reader, received)
                if reader.done:
                    break
            reader.check_whole()
        except IncompleteStream:
            raise
        except ServerTimeout as timeout:
            timeout.partial = reader.partial
            raise
        except _TRANSPORT_FAILURES as failure:
            raise reader.broken(failure, self.response.request) from failure
        finally:
            self.response.close()

    def __iter__(self) -> Iterator[T]:
        chunks, self._iterator = self._iterator, _Left(self)
        try:
            yield from chunks
            self._iterator = chunks
        finally:
            # Without this, `break` would leave vLLM generating until the stream object is collected.
            self.close()


class AsyncCheckedStream(_Reading[T], AsyncStream[T]):
    """``WholeStream`` for the async client: the same promises."""

    async def __stream__(self) -> AsyncIterator[T]:
        """The chunks, read to the end of the reply."""
        reader = self._reader()
        try:
            async for received in self.response.aiter_bytes():
                for chunk in self._chunks(reader, received):
                    yield chunk
                if reader.done:
                    break
            reader.check_whole()
        except IncompleteStream:
            raise
        except ServerTimeout as timeout:
            timeout.partial = reader.partial
            raise
        except _TRANSPORT_FAILURES as failure:
            raise reader.broken(failure, self.response.request) from failure
        finally:
            await self.response.aclose()

    async def __aiter__(self) -> AsyncIterator[T]:
        chunks, self._iterator = self._iterator, _Left(self)
        try:
            async for chunk in chunks:
                yield chunk
            self._iterator = chunks
        finally:
            await self.close()
