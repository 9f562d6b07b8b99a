"""Checked streams: complete or an error, with one kind of delta per chunk.

``ChunkReader`` does all the work on bytes, without I/O; ``CheckedStream`` and ``AsyncCheckedStream`` feed it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import openai
from openai import AsyncStream, Stream
from packaging.version import Version
from pydantic_core import ValidationError, from_json

from vllm_adapters._compat import http
from vllm_adapters._request.compat import StrictStreamOptions
from vllm_adapters._response import error_mapping, logs
from vllm_adapters._response.error_mapping import RequestContext
from vllm_adapters._response.requirements import Requirements
from vllm_adapters._response.sse import EventSplitter
from vllm_adapters._response.text_chunks import LastText, SimpleChunk, TextChunk, TextTemplate, copy_model
from vllm_adapters._response.tool_calls import ToolCallDeltas
from vllm_adapters._response.validate import COMPLETION, expected_choices, malformed, validate_output
from vllm_adapters.errors import IncompleteStream, InvalidResponse, ServerTimeout, VLLMError

T = TypeVar("T")

_DONE = b"[DONE]"
_SENDS_FINGERPRINT = Version("0.23.0")
"""From here on, the chunk with the usage has a ``system_fingerprint``; one that a gateway made up has none."""
_ENDS = {"response.completed", "response.incomplete", "message_stop", "transcript.text.done"}
"""Last events of ``/v1/responses``, of ``/v1/messages``, and of transcriptions as OpenAI streams them."""
_FAILURES = {"response.failed", "error"}
"""Events of ``/v1/responses`` that say why a response failed."""
_TRANSCRIPTS = ("transcriptions", "translations")
"""Endpoints whose streams have a finish reason for each half minute of audio, and no other end than ``[DONE]``."""
_MAX_TEMPLATES = 8
"""Templates of a stream: one for its reasoning and one for its text, unless other fields change as well."""
_ENVELOPE = ("id", "object", "created", "model")
_REASONING = ("reasoning", "reasoning_content")
RECORDER = "vllm_adapters.call"
"""The extension of a response that records its stream, if anything does: a ``_client.telemetry.Call``."""


class ChunkReader:
    """Turns the bytes of one streamed response into chunks, and tells whether it was complete.

    Args:
        body: The request's JSON body: how many choices to expect, which constraint to check.
        endpoint: ``"chat"``, ``"completions"``, or another name or ``None`` for streams without choices.
        idle: Seconds that may pass with nothing but comments; ``None`` for no limit.
        version: The server's version, if known.
        sdk: Whether the chunks go to a caller of the SDK.
    """

    def __init__(
        self,
        body: Mapping[str, Any],
        endpoint: str | None,
        *,
        idle: float | None = None,
        version: Version | None = None,
        sdk: bool = False,
    ) -> None:
        self._events = EventSplitter()
        self._idle = idle
        self._silence = 0.0
        self.waiting_since = time.monotonic()
        """When the next piece was requested: the caller's own time between two pieces is not the server's."""
        self._endpoint = endpoint
        self._body = body
        self._version = version
        self._sdk = sdk
        self._expected = expected_choices(body)
        self._requirements = Requirements(body, choices=self._expected, version=version, sdk=sdk)
        self._convert_reasoning = self._requirements.reasoning_is_content
        self._hold_reasoning = self._requirements.reasoning_may_be_content
        self._held_reasoning: dict[int, list[dict[str, Any]] | None] = {}  # what may be a choice's answer
        self._unjudged: list[tuple[int, dict[str, Any]]] = []  # ends of tool calls, until the usage is known
        self._held_back: list[dict[str, Any]] = []  # the chunks from the first of these on
        self._usage: Any = None
        self._texts: dict[int, list[str]] = {}
        self._refusals: dict[int, str] = {}
        self._reasoning: list[str] = []
        self._tool_calls: dict[int, ToolCallDeltas] = {}
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._ended = False
        self._may_lose_end = False
        self._arguments: list[str] = []  # of the last tool call on `/v1/messages`
        self.first_at: float | None = None
        """``time.monotonic()`` at the first chunk."""
        self.last_event: dict[str, Any] | None = None
        """The last event that was parsed; it has the id, model and usage of the reply, if any does."""
        self.finish_reasons: dict[int, str] = {}
        self._template: TextTemplate | None = None
        sorts_reasoning = self._convert_reasoning or self._hold_reasoning
        self._transcribes = endpoint in _TRANSCRIPTS
        plain = not sorts_reasoning and not self._transcribes and self._expected <= 1
        self._templates_left = _MAX_TEMPLATES if plain else 0
        self.done = False
        """Whether ``[DONE]`` has arrived."""
        self.error: VLLMError | None = None
        """What to raise after the chunks of the last ``feed``."""

    def feed(self, piece: bytes) -> list[dict[str, Any]]:
        """Return the chunks that ``piece`` completes, as dicts with one kind of delta each.

        An error of an event is kept in ``error``, so that the chunks before it are not lost.
        """
        waited = time.monotonic() - self.waiting_since
        chunks: list[dict[str, Any]] = []
        try:
            for data in self._events.feed(piece):
                if data.startswith(_DONE):
                    self.done = True
                    return chunks + self.finish()
                self._read(data, chunks)
            if self._events.only_comments:
                self._check_silence(waited)
            else:
                self._silence = 0.0
        except VLLMError as error:
            error.partial = error.partial or self.partial
            self.error = error
        return chunks

    def _check_silence(self, waited: float) -> None:
        self._silence += waited
        if self._idle is not None and self._silence > self._idle:
            timeout = http.ReadTimeout("only comments")
            timeout.seconds = self._idle  # type: ignore[attr-defined]
            raise error_mapping.from_transport(timeout)

    def _read(self, data: bytes, chunks: list[dict[str, Any]]) -> None:
        if self._template is not None and (simple := self._template.match(data)) is not None:
            self._usage = None
            if self._template.is_reasoning:
                self._reasoning.append(simple.text)
            elif type(simple) is TextChunk:
                self._texts.setdefault(self._template.index, []).append(simple.text)
            chunks.append(simple)
            return
        try:
            event = from_json(data)  # a third of the cost of json's, and it rejects lone surrogates
        except ValueError as error:
            raise InvalidResponse(f"An event of the stream is not JSON ({error}): {data[:80]!r}") from None
        if not isinstance(event, dict) or event.get("error"):
            raise error_mapping.from_event(event)
        if self.last_event is None:
            self.first_at = time.monotonic()
        self.last_event = event
        if "choices" not in event and self._endpoint not in ("chat", "completions"):
            kind = event.get("type")
            if kind in _FAILURES:
                raise error_mapping.from_event(_failure_of(event))
            if kind in _ENDS:
                self._ended = True
                if isinstance(response := event.get("response"), dict) and response.get("output"):
                    validate_output(response, self._body)
            elif isinstance(text := _text_of_event(event), str):
                self._texts.setdefault(0, []).append(text)
            elif self._endpoint is None and isinstance(event.get("type"), str):
                self._read_message(event["type"], event)
            chunks.append(event)
            return
        choices = event.get("choices")
        if not choices:
            if event.get("message") or event.get("detail"):  # an error in another shape
                raise error_mapping.from_event(event)
            event["choices"] = choices = []  # gateways in Go write an empty list as null
        try:
            COMPLETION.validate_python(event, strict=True)
        except ValidationError as error:
            raise malformed(error) from None
        if self._endpoint == "chat":
            event["object"] = "chat.completion.chunk"  # the SDK's helper skips all others
        self._usage = event.get("usage") or None
        split = split_chunk(event, completions=self._endpoint == "completions")
        if self._convert_reasoning or self._hold_reasoning:
            split = [ready for chunk in split for ready in self._sort_reasoning(chunk)]
        for chunk in split:
            for choice in chunk["choices"]:
                self._add(choice)
        if self._transcribes:
            split = [_transcript_event(chunk) for chunk in split]
        if self._templates_left and len(split) == 1:
            split = [self._as_simple(data, split[0])]
        if not self._unjudged:
            chunks += split
            return
        self._held_back += split
        if self._usage is not None and len(self._finished) >= self._expected:
            chunks += self.finish()

    def _read_message(self, kind: str, event: Mapping[str, Any]) -> None:
        """Take note of an event of ``/v1/messages``.

        Raises:
            IncompleteStream: A server that drops the end of streams may have dropped this one's.
        """
        if kind == "message_start":  # from 0.18 on it has a stop reason, null
            self._may_lose_end = "stop_reason" not in event["message"]
        elif kind == "content_block_start":
            self._arguments = []
        elif kind == "content_block_delta":
            if isinstance(arguments := event["delta"].get("partial_json"), str):
                self._arguments.append(arguments)
        elif kind == "message_delta" and self._may_lose_end and not self._has_end(event):
            error = self.interrupted(None)
            error.reason = "The stream may lack its last piece, which vLLM before 0.18 drops from streams of this route"
            raise error.replace_hint(
                "Read what had arrived from .partial; use chat.completions.create(stream=True), or no stream"
            )

    def _has_end(self, event: Mapping[str, Any]) -> bool:
        """Return whether the last piece of a message has certainly arrived: its tokens are counted."""
        reason = event["delta"].get("stop_reason")
        if reason == "tool_use":
            try:
                return isinstance(from_json("".join(self._arguments)), dict)
            except ValueError:
                return False
        pieces = sum(map(bool, self._texts.get(0, ())))
        return bool(pieces >= event["usage"]["output_tokens"] - (reason == "end_turn"))  # whose token has no text

    def _as_simple(self, data: bytes, chunk: dict[str, Any]) -> dict[str, Any]:
        """Return a chunk as a ``SimpleChunk``, and keep its template for those that follow, if it is one."""
        template = TextTemplate.of(data, chunk)
        if template is None or (simple := template.match(data)) is None:
            return chunk
        self._template = template
        self._templates_left -= 1
        return simple

    def _sort_reasoning(self, chunk: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the chunks that are ready, with reasoning as content where the server streams answers so."""
        choice = chunk["choices"][0] if chunk["choices"] else {}
        index, delta = choice.get("index", 0), choice.get("delta") or {}
        if self._convert_reasoning:
            _rename_reasoning(delta)
            return [chunk]
        held = self._held_reasoning.setdefault(index, [])
        if held is None:  # it was reasoning
            return [chunk]
        if delta.get("reasoning"):
            held.append(chunk)
            if not choice.get("finish_reason"):
                return []
            held.pop()
        elif delta.get("content") or delta.get("tool_calls"):
            self._held_reasoning[index] = None
            return [*held, chunk]
        if choice.get("finish_reason"):
            self._held_reasoning[index] = None
            for each in (*held, chunk):
                _rename_reasoning(each["choices"][0]["delta"])
            return [*held, chunk]
        return [chunk]

    def finish(self) -> list[dict[str, Any]]:
        """Return the chunks that were held back for the usage, which may come after them or not at all.

        Raises:
            VLLMError: The reply does not have what was requested.
        """
        unjudged, chunks = self._unjudged, self._held_back
        self._unjudged, self._held_back = [], []
        for index, choice in unjudged:
            self._judge(index, choice)
        if self._transcribes and self.done and not self._ended:
            self._ended = True
            chunks.append(_transcript_end(self.partial, self._usage))
        return chunks

    def check_complete(self) -> None:
        """Raise unless every choice has had its finish reason.

        Raises:
            IncompleteStream: The stream ended early.
        """
        if self._transcribes and not self.done and not self._ended:
            raise self.interrupted(None)
        if self._ended or (not self._open and len(self._finished) >= self._expected):
            if isinstance(self._body.get("stream_options"), StrictStreamOptions):
                self._check_end_is_the_servers()
            return
        raise self.interrupted(None)

    def _check_end_is_the_servers(self) -> None:
        """Raise if a gateway may have ended the stream in the server's place, with a finish reason of its own."""
        last = self.last_event or {}
        usage = last.get("usage")
        tokens = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
        received = sum(map(len, self._texts.values())) + len(self._reasoning)
        if not isinstance(tokens, int):
            reason = "its usage is missing, though it was requested"
        elif tokens + 1 < received:  # the last token of reasoning may be the first of the answer, too
            reason = f"its usage counts {tokens} tokens, and {received} pieces arrived"
        elif not last.get("system_fingerprint") and (self._version is None or self._version >= _SENDS_FINGERPRINT):
            reason = "its usage is not the server's: it has no system_fingerprint"
        else:
            return
        error = self.interrupted(None)
        error.reason = f"The stream has a finish reason, but may have been cut before a gateway: {reason}"
        raise error.replace_hint("Read what had arrived from .partial, or leave strict_completion out to accept it")

    def interrupted(self, failure: BaseException | None) -> VLLMError:
        """Return the error for a stream that ended early, by itself or with a transport's ``failure``."""
        if isinstance(failure, VLLMError):  # mapped already, for a caller who reads bytes
            failure = failure.__context__
        if failure is not None and "Timeout" in type(failure).__name__:
            timeout = error_mapping.from_transport(failure)
            timeout.partial = self.partial
            return timeout
        for index, held in self._held_reasoning.items():
            texts = self._texts.setdefault(index, []) if held else []
            texts += [chunk["choices"][0]["delta"]["reasoning"] for chunk in held or ()]
        reason = "it ended without a finish reason" if failure is None else str(failure) or type(failure).__name__
        return IncompleteStream(
            f"The stream ended early: {reason}",
            hint="Read what had arrived from .partial; it is not the whole reply",
            partial=self.partial,
            partials={index: "".join(texts) for index, texts in self._texts.items()},
            partial_reasoning="".join(self._reasoning),
        )

    @property
    def usage(self) -> Any:
        """The usage of the last event, if it has one."""
        return self._usage

    @property
    def partial(self) -> str:
        """The text of the first choice, as far as it has arrived."""
        return "".join(self._texts[min(self._texts)]) if self._texts else ""

    def _add(self, choice: dict[str, Any]) -> None:
        """Take note of one choice of a chunk, and normalize it."""
        index = choice["index"]
        delta = choice.get("delta")
        if delta is not None:
            if index in self._open:
                delta.pop("role", None)  # some servers repeat it, and the SDK's helper would concatenate it
            text = delta.get("content")
            if reasoning := delta.get("reasoning"):
                self._reasoning.append(reasoning)
            elif tool_calls := delta.get("tool_calls"):
                deltas = self._tool_calls.setdefault(index, ToolCallDeltas())
                for call in tool_calls:
                    if problem := deltas.normalize(call):
                        raise InvalidResponse(f"The stream has {problem}")
            elif refusal := delta.get("refusal"):
                self._refusals[index] = self._refusals.get(index, "") + refusal
                if not self._sdk and not text:  # a framework's message has no other place for it
                    delta["content"] = refusal
        else:
            text = choice.get("text")
        if text:
            self._texts.setdefault(index, []).append(text)
        if choice.get("finish_reason") or choice.get("message"):
            self._finish(index, choice)
        elif index not in self._finished:
            self._open.add(index)

    def _finish(self, index: int, choice: dict[str, Any]) -> None:
        if choice.get("message"):
            raise InvalidResponse("The stream has a whole message instead of a delta")
        if index in self._finished:
            choice["finish_reason"] = None  # repeated by a gateway; frameworks would concatenate the two
            return
        self._open.discard(index)
        self._finished.add(index)
        self._template, self._templates_left = None, 0
        if len(self._open) + len(self._finished) > self._expected:
            raise InvalidResponse(f"The stream has more choices than the requested {self._expected}")
        if (
            index in self._tool_calls
            and self._usage is None
            and self._requirements.awaits_usage(choice["finish_reason"])
        ):
            self._unjudged.append((index, choice))
        else:
            self._judge(index, choice)

    def _judge(self, index: int, choice: dict[str, Any]) -> None:
        """Raise if a finished choice does not have what was requested, and correct its finish reason."""
        reason, deltas = choice["finish_reason"], self._tool_calls.get(index)
        calls = deltas.called() if deltas is not None else []
        if calls:
            reason = choice["finish_reason"] = self._requirements.finish_reason(
                reason, calls, self._usage, streamed=True
            )
        self.finish_reasons[index] = reason
        self._requirements.check(
            "".join(self._texts.get(index, ())),
            finish_reason=reason,
            stop_reason=choice.get("stop_reason"),
            calls=calls,
            refusal=self._refusals.get(index),
        )


def _text_of_event(event: Mapping[str, Any]) -> Any:
    """Return the text that an event of ``/v1/responses`` or ``/v1/messages`` adds, if it adds one."""
    kind, delta = event.get("type"), event.get("delta")
    if kind == "response.output_text.delta":
        return delta
    return delta.get("text") if kind == "content_block_delta" and isinstance(delta, Mapping) else None


def _failure_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the error of an event that says why a response failed, in the shape of vLLM's other errors."""
    response = event.get("response")
    error = (response.get("error") if isinstance(response, Mapping) else None) or event
    return {"error": {"message": error.get("message") or "The response failed", "code": error.get("code")}}


def _transcript_event(chunk: dict[str, Any]) -> dict[str, Any]:
    """Return a chunk of a transcript with the fields of the SDK's events beside vLLM's own."""
    texts = [(choice.get("delta") or {}).get("content") or "" for choice in chunk["choices"]]
    return {**chunk, "type": "transcript.text.delta", "delta": "".join(texts)}


def _transcript_end(text: str, usage: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the SDK's last event of a transcript, which vLLM does not send."""
    event: dict[str, Any] = {"type": "transcript.text.done", "text": text}
    if usage:
        tokens = {"input_tokens": usage.get("prompt_tokens"), "output_tokens": usage.get("completion_tokens")}
        event["usage"] = {**tokens, "total_tokens": usage.get("total_tokens"), "type": "tokens"}
    return event


def _rename_reasoning(delta: dict[str, Any]) -> None:
    """Make reasoning the content of a delta."""
    if delta.get("reasoning"):
        delta["content"] = delta.pop("reasoning")
        delta.pop("reasoning_content", None)


def split_chunk(chunk: dict[str, Any], *, completions: bool = False) -> list[dict[str, Any]]:
    """Split a chunk into chunks of one choice and one kind of delta each, in order; nothing is lost or doubled.

    Fields that readers expect are filled in. Reasoning is named ``reasoning``, whatever the server's version calls
    it (``reasoning_content`` stays beside it). The finish reason, usage and all other fields stay on the last part,
    the role on the first.

    Args:
        chunk: A chunk of a chat completion or completion; it is changed.
        completions: Whether it is of ``/v1/completions``.
    """
    parts: list[dict[str, Any]] = []
    for choice in chunk["choices"]:
        choice["index"] = choice.get("index") or 0
        if completions:
            if choice.get("text") is None and ("delta" in choice or "message" in choice):
                raise InvalidResponse("A choice of the completion has a chat message instead of a text")
            choice["text"] = choice.get("text") or ""
            parts.append(choice)
            continue
        if choice.get("delta") is None and choice.get("text"):
            raise InvalidResponse("A choice of the chat completion has a text instead of a delta")
        delta = choice["delta"] = choice.get("delta") or {}
        if "reasoning_content" in delta and not delta.get("reasoning"):
            delta["reasoning"] = delta["reasoning_content"]
        tool_calls = delta.get("tool_calls") or ()
        if bool(delta.get("reasoning")) + bool(delta.get("content")) + len(tool_calls) <= 1:
            parts.append(choice)
        else:
            parts.extend(_split_choice(choice, delta, tool_calls))
    if len(parts) <= 1:
        return [chunk]
    envelope = {key: chunk[key] for key in _ENVELOPE if key in chunk}
    chunks = [{**envelope, "choices": [part]} for part in parts]
    chunks[-1] = {**chunk, "choices": [parts[-1]]}
    return chunks


def _split_choice(choice: dict[str, Any], delta: dict[str, Any], tool_calls: Any) -> Iterator[dict[str, Any]]:
    deltas: list[dict[str, Any]] = []
    if delta.get("reasoning"):
        deltas.append({name: delta[name] for name in _REASONING if name in delta})
    if delta.get("content"):
        deltas.append({"content": delta["content"]})
    deltas.extend({"tool_calls": [call]} for call in tool_calls)
    rest = {k: v for k, v in delta.items() if k not in (*_REASONING, "content", "tool_calls")}
    if "role" in rest:
        deltas[0]["role"] = rest.pop("role")
    deltas[-1].update(rest)
    for part in deltas[:-1]:
        yield {"index": choice["index"], "delta": part, "finish_reason": None, "logprobs": None}
    yield {**choice, "delta": deltas[-1]}


_TRANSPORT_ERRORS = (http.RequestError, http.StreamError, openai.APIConnectionError)


def _reader(client: Any, options: Any, *, sdk: bool) -> ChunkReader:
    body = options.json_data if options is not None else None
    idle = getattr(getattr(options, "timeout", None), "read", None)
    endpoint = client.vllm.context(options).endpoint
    version = client.vllm.info.version
    return ChunkReader(body if isinstance(body, dict) else {}, endpoint, idle=idle, version=version, sdk=sdk)


def _converter(client: Any, cast_to: Any, response: http.Response) -> Callable[[dict[str, Any]], Any] | None:
    """Return what makes the SDK's object of a chunk; ``None`` for frameworks, which take the dict."""
    if cast_to is object:
        return None
    process = client._process_response_data
    last: LastText[Any] = LastText()

    def convert(chunk: dict[str, Any]) -> Any:
        if isinstance(chunk, SimpleChunk) and (made := last.like(chunk)) is not None:
            return _with_text(made, chunk.template.kind, chunk.text)
        return last.keep(chunk, process(data=chunk, cast_to=cast_to, response=response))

    return convert


def _with_text(chunk: Any, kind: str, text: str) -> Any:
    """Return a copy of the SDK's chunk with another text; ``kind`` is its field."""
    [choice] = chunk.choices
    if kind == "text":
        choice = copy_model(choice, {"text": text})
    elif kind == "arguments":
        [call] = choice.delta.tool_calls
        call = copy_model(call, {"function": copy_model(call.function, {"arguments": text})})
        choice = copy_model(choice, {"delta": copy_model(choice.delta, {"tool_calls": [call]})})
    else:
        delta = copy_model(choice.delta, {"content": text} if kind == "content" else {})
        if kind == "reasoning":
            delta.__pydantic_extra__[kind] = text
        choice = copy_model(choice, {"delta": delta})
    return copy_model(chunk, {"choices": [choice]})


def _mapped(failure: Exception, reader: ChunkReader, client: Any, options: Any, response: http.Response) -> VLLMError:
    """Return the error to raise for ``failure``, with the request it belongs to."""
    if isinstance(failure, IncompleteStream | ServerTimeout):  # connection errors of openai, too
        error: VLLMError = failure
    elif isinstance(failure, _TRANSPORT_ERRORS):
        error = reader.interrupted(failure)
    else:
        error = cast(VLLMError, failure)
    error.partial = error.partial or reader.partial
    context: RequestContext = client.vllm.context(options)
    # The response's status would say nothing of an error of the connection.
    lost = isinstance(error, IncompleteStream | ServerTimeout)
    error.add_context(
        address=context.address,
        model=context.model,
        request=response.request if lost else None,
        response=None if lost else response,
    )
    error.request_id = error.request_id or response.headers.get("x-request-id")
    return error


@contextmanager
def _reading(reader: ChunkReader, response: http.Response, client: Any, options: Any) -> Iterator[Callable[..., Any]]:
    """Map errors while a stream is read, and record how it ends; the context is what reads its pieces."""
    recorder = response.extensions.get(RECORDER)
    ended: BaseException | None = None
    try:
        yield reader.feed if recorder is None else recorder.watch(reader)
    except (VLLMError, *_TRANSPORT_ERRORS) as failure:
        ended = error = _mapped(failure, reader, client, options, response)
        raise error from (failure.__cause__ if error is failure else failure)
    except BaseException as stopped:
        ended = stopped
        raise
    finally:
        if recorder is not None:
            recorder.end_stream(reader, ended)
        if logs.log.isEnabledFor(logging.DEBUG):
            logs.log_end(response, ended)


# The generators refer to no stream, so that a stream that is dropped ends them, and closes the connection, at once.


def _chunks(response: http.Response, client: Any, options: Any, cast_to: Any) -> Iterator[Any]:
    """Yield the chunks to the end of the reply."""
    convert = _converter(client, cast_to, response)
    reader = _reader(client, options, sdk=convert is not None)
    try:
        with _reading(reader, response, client, options) as feed:
            for piece in response.iter_bytes():
                for chunk in feed(piece):
                    yield chunk if convert is None else convert(chunk)
                if reader.error is not None:
                    raise reader.error
                if reader.done:
                    break
                reader.waiting_since = time.monotonic()
            for chunk in reader.finish():
                yield chunk if convert is None else convert(chunk)
            reader.check_complete()
    finally:
        response.close()


async def _achunks(response: http.Response, client: Any, options: Any, cast_to: Any) -> AsyncIterator[Any]:
    """Async version of ``_chunks``."""
    convert = _converter(client, cast_to, response)
    reader = _reader(client, options, sdk=convert is not None)
    try:
        with _reading(reader, response, client, options) as feed:
            async for piece in response.aiter_bytes():
                for chunk in feed(piece):
                    yield chunk if convert is None else convert(chunk)
                if reader.error is not None:
                    raise reader.error
                if reader.done:
                    break
                reader.waiting_since = time.monotonic()
            for chunk in reader.finish():
                yield chunk if convert is None else convert(chunk)
            reader.check_complete()
    finally:
        await response.aclose()


class CheckedStream(Stream[T]):
    """The SDK's stream, complete or an error. Closing or dropping it closes the connection.

    >>> from vllm_adapters import VLLMClient
    >>> with VLLMClient() as client:  # vllm serve MODEL
    ...     for chunk in client.chat.completions.create(
    ...         model="", messages=[{"role": "user", "content": "Hello"}], stream=True
    ...     ):
    ...         text = chunk.choices[0].delta.content

    Raises:
        IncompleteStream: It ended before every choice had its finish reason.
        ServerFailed: The server aborted the reply (finish reason ``abort`` or ``error``).
        VLLMError: The server sent an error event, or a time limit expired.
    """

    def __stream__(self) -> Iterator[T]:
        """Return an iterator of the chunks."""
        return _chunks(self.response, self._client, self._options, self._cast_to)


class AsyncCheckedStream(AsyncStream[T]):
    """``CheckedStream`` of the async client."""

    def __stream__(self) -> AsyncIterator[T]:
        """Return an iterator of the chunks."""
        return _achunks(self.response, self._client, self._options, self._cast_to)
