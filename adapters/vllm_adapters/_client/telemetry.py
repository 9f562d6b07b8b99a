"""OpenTelemetry: a client span and metrics of each call, by the semantic conventions for generative AI.

Nothing here runs until a program imports OpenTelemetry's API, and nothing is recorded until it sets a provider. A call
that an instrumentation of the SDK or of a framework records already gets no second span. Texts are recorded only if
``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` says so, as for all instrumentations.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from inspect import signature
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import openai
from openai._models import FinalRequestOptions
from opentelemetry import context, metrics, propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from vllm_adapters._compat import http
from vllm_adapters._request import availability
from vllm_adapters._response.message import StreamedMessage
from vllm_adapters._response.stream import RECORDER, ChunkReader
from vllm_adapters._transport.http import CALL
from vllm_adapters._version import __version__
from vllm_adapters.errors import VLLMError

if TYPE_CHECKING:
    from vllm_adapters._client.base import BaseVLLMClient

_OPERATIONS = {
    "chat": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "responses": "chat",
    "rerank": "rerank",
    "score": "score",
    "classify": "classify",
    "pooling": "pooling",
    "audio/transcriptions": "transcription",
    "audio/translations": "translation",
    "messages": "chat",
    "decisions": "decision",
}
"""``gen_ai.operation.name`` of an endpoint. The conventions have no names for ranking and the like."""
_REQUEST = {
    "temperature": ("gen_ai.request.temperature", float),
    "top_p": ("gen_ai.request.top_p", float),
    "top_k": ("gen_ai.request.top_k", int),
    "max_tokens": ("gen_ai.request.max_tokens", int),
    "max_completion_tokens": ("gen_ai.request.max_tokens", int),
    "max_output_tokens": ("gen_ai.request.max_tokens", int),
    "frequency_penalty": ("gen_ai.request.frequency_penalty", float),
    "presence_penalty": ("gen_ai.request.presence_penalty", float),
    "seed": ("gen_ai.request.seed", int),
    "dimensions": ("gen_ai.embeddings.dimension.count", int),
    "session_id": ("gen_ai.conversation.id", str),
}
_SUPPRESSING = (
    "suppress_instrumentation",  # OpenTelemetry's
    "suppress_language_model_instrumentation",  # Traceloop's, inside a framework's call
    "opentelemetry.genai.client.inference.context",  # of OpenTelemetry's own instrumentations
)
_NAMES_A_MODEL = ("gen_ai.request.model", "llm.model_name", "embedding.model_name", "reranker.model_name")
"""Attributes of a span that describes a call of a model."""
_NAMES_IT_LATE = frozenset({"openinference.instrumentation.llama_index"})
"""Instrumentations that set these attributes when a span ends; until then it has the name of our class."""
_DURATION_BUCKETS = [0.01 * 2**n for n in range(14)]
_TOKEN_BUCKETS = [4.0**n for n in range(14)]


class _Instruments(NamedTuple):
    tracer: trace.Tracer
    duration: metrics.Histogram
    tokens: metrics.Histogram
    first_chunk: metrics.Histogram


_known: tuple[trace.TracerProvider, metrics.MeterProvider, _Instruments] | None = None


def _instruments(traces: trace.TracerProvider, meters: metrics.MeterProvider) -> _Instruments:
    """Return the tracer and histograms of the providers; a provider may have no hash, so the last are kept."""
    global _known
    known = _known
    if known is None or known[0] is not traces or known[1] is not meters:
        known = _known = (traces, meters, _make_instruments(traces, meters))
    return known[2]


def _make_instruments(traces: trace.TracerProvider, meters: metrics.MeterProvider) -> _Instruments:
    meter: Any = meters.get_meter("vllm_adapters", __version__)
    takes_buckets = "explicit_bucket_boundaries_advisory" in signature(meter.create_histogram).parameters

    def histogram(name: str, unit: str, description: str, buckets: list[float]) -> metrics.Histogram:
        advice = {"explicit_bucket_boundaries_advisory": buckets} if takes_buckets else {}
        made: metrics.Histogram = meter.create_histogram(name, unit=unit, description=description, **advice)
        return made

    return _Instruments(
        traces.get_tracer("vllm_adapters", __version__),
        histogram("gen_ai.client.operation.duration", "s", "Duration of a call", _DURATION_BUCKETS),
        histogram("gen_ai.client.token.usage", "{token}", "Tokens of a prompt or a reply", _TOKEN_BUCKETS),
        histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Time from the request to the first chunk of a streamed reply",
            _DURATION_BUCKETS,
        ),
    )


def start(
    client: BaseVLLMClient, options: FinalRequestOptions, traces: trace.TracerProvider, *, stream: bool, sdk: bool
) -> Call | None:
    """Return a call to record, or ``None``.

    Args:
        client: The client.
        options: The request.
        traces: The provider of spans.
        stream: Whether the reply is streamed.
        sdk: Whether instrumentations of the SDK see the request.
    """
    endpoint = _endpoint_of(options.url) if options.method.lower() == "post" else None
    if endpoint is None or _is_recorded(client, options, endpoint, sdk=sdk):
        return None
    return Call(client, options, endpoint, _instruments(traces, metrics.get_meter_provider()), stream=stream)


@lru_cache(maxsize=256)
def _endpoint_of(url: str) -> str | None:
    path = url.split("?")[0].rstrip("/")
    found = availability.endpoint_of(url) or next((name for name in _OPERATIONS if path.endswith("/" + name)), None)
    return found if found in _OPERATIONS else None


@lru_cache(maxsize=256)
def _host_and_port(address: str) -> tuple[str, int]:
    url = http.URL(address)
    return url.host, url.port or (443 if url.scheme == "https" else 80)


def _is_recorded(client: BaseVLLMClient, options: FinalRequestOptions, endpoint: str, *, sdk: bool) -> bool:
    """Return whether an instrumentation records the call already, or none shall."""
    if "vllm_adapters" in os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", ""):
        return True
    if (here := context.get_current()) and _is_recorded_around(here):
        return True
    cls: Any = type(client)
    if "request" in vars(client) or hasattr(cls.request, "__wrapped__"):
        return True
    if not sdk:
        return False
    asynchronous = isinstance(client, openai.AsyncOpenAI)
    base = openai.AsyncOpenAI if asynchronous else openai.OpenAI
    if "request" in vars(base):  # the SDK's own inherits it
        return True
    method = "parse" if endpoint == "chat" and callable(options.post_parser) else "create"
    resource = _resources(asynchronous).get(endpoint)
    return resource is not None and type(vars(resource).get(method)) is not FunctionType


def _is_recorded_around(here: context.Context) -> bool:
    """Return whether the context of the call suppresses its span, or has the span of the same call."""
    if any(here.get(key) for key in _SUPPRESSING):
        return True
    span = trace.get_current_span(here)
    if not span.is_recording():
        return False
    attributes = getattr(span, "attributes", None) or {}
    if any(name in attributes for name in _NAMES_A_MODEL):
        return True
    scope = getattr(span, "instrumentation_scope", None)
    return getattr(scope, "name", None) in _NAMES_IT_LATE and str(getattr(span, "name", "")).startswith("VLLM")


@cache
def _resources(asynchronous: bool) -> dict[str, Any]:
    """Return the SDK's classes whose methods instrumentations replace."""
    from openai.resources import chat, completions, embeddings, responses

    if asynchronous:
        return {
            "chat": chat.AsyncCompletions,
            "completions": completions.AsyncCompletions,
            "embeddings": embeddings.AsyncEmbeddings,
            "responses": responses.AsyncResponses,
        }
    return {
        "chat": chat.Completions,
        "completions": completions.Completions,
        "embeddings": embeddings.Embeddings,
        "responses": responses.Responses,
    }


def inject(request: http.Request) -> None:
    """Add the headers of the current trace to a request, unless the caller has set them."""
    if "traceparent" not in request.headers:
        propagate.inject(request.headers)


def _records_content() -> bool:
    given = os.environ.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "").strip().lower()
    return given in ("true", "1", "span_only", "span_and_event")


class Call:
    """One call, from its request to the end of its reply; a context while the request is sent.

    Args:
        client: The client.
        options: The request.
        endpoint: Its endpoint.
        instruments: Where it is recorded.
        stream: Whether the reply is streamed: then it ends with the stream.
    """

    def __init__(
        self,
        client: BaseVLLMClient,
        options: FinalRequestOptions,
        endpoint: str,
        instruments: _Instruments,
        *,
        stream: bool,
    ) -> None:
        self._client, self._instruments = client, instruments
        self._ended = False
        self._retries = 0
        self._waits_for_stream = False
        self._messages: dict[int, StreamedMessage] = {}
        body = _body_of(options)
        host, port = _host_and_port(client.vllm.address)
        self._operation = operation = _OPERATIONS[endpoint]
        model = body.get("model") or client.vllm.info.model
        self._model = model = model if isinstance(model, str) else None
        self._common: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "vllm",
            "server.address": host,
            "server.port": port,
        }
        if model:
            self._common["gen_ai.request.model"] = model
        name = f"{operation} {model}" if model else operation
        self._started, self._started_ns = time.monotonic(), time.time_ns()
        # What a sampler may want to know; the rest is set when the span ends, all at once.
        self.span: Span = instruments.tracer.start_span(
            name, kind=SpanKind.CLIENT, attributes=self._common, start_time=self._started_ns
        )
        self._recording = self.span.is_recording()
        """Whether anything of the span is kept: it may be sampled out."""
        self._content = self._recording and _records_content()
        self._body = body if self._content else None
        self._attributes = _request_attributes(body, endpoint, stream=stream) if self._recording else {}
        self.reply: Any = None
        """What was received, if it was not streamed."""

    def __enter__(self) -> Call:
        self._token = context.attach(trace.set_span_in_context(self.span))
        self._current = CALL.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        CALL.reset(self._current)
        context.detach(self._token)
        if not self._waits_for_stream or error is not None:
            self.end(error)

    def await_stream(self, response: http.Response) -> None:
        """End with the stream of ``response``, or when it is dropped."""
        self._waits_for_stream = True
        response.extensions[RECORDER] = self
        self._note_request_id(response)

    def _note_request_id(self, response: http.Response) -> None:
        if self._recording and (request_id := response.headers.get("x-request-id")) is not None:
            self._attributes["http.response.header.x-request-id"] = [request_id]

    def received(self, reply: Any, response: http.Response) -> None:
        """Take a whole reply."""
        self.reply = reply
        self._note_request_id(response)

    def retry(self, reason: str, wait: float = 0.0) -> None:
        """Record that the request is sent again.

        Args:
            reason: The HTTP status, or the exception's name.
            wait: Seconds until then.
        """
        self._retries += 1
        attributes: dict[str, Any] = {
            "http.request.resend_count": self._retries,
            "error.type": reason,
            "vllm_adapters.wait": wait,
        }
        self.span.add_event("retry", attributes)

    def watch(self, reader: ChunkReader) -> Callable[[bytes], list[dict[str, Any]]]:
        """Return what reads the pieces of a stream, with a copy of the reply if texts are recorded."""
        if not self._content:
            return reader.feed

        def feed(piece: bytes) -> list[dict[str, Any]]:
            chunks = reader.feed(piece)
            for chunk in chunks:
                for choice in chunk.get("choices") or ():
                    self._messages.setdefault(choice["index"], StreamedMessage()).add(chunk)
            return chunks

        return feed

    def _name(self) -> None:
        """Take the model's name, once it has been looked up."""
        if not self._model and (model := self._client.vllm.info.model):
            self._common["gen_ai.request.model"] = self._model = model
            self.span.update_name(f"{self._operation} {model}")
            self.span.set_attribute("gen_ai.request.model", model)

    def end_stream(self, reader: ChunkReader, error: BaseException | None) -> None:
        """End with a stream, as far as ``reader`` has read it."""
        if self._ended:
            return
        self._name()
        if reader.first_at is not None:
            elapsed = reader.first_at - self._started
            if self._recording:
                self._attributes["gen_ai.response.time_to_first_chunk"] = elapsed
                self.span.add_event("gen_ai.first_token", timestamp=self._started_ns + int(elapsed * 1e9))
            self._instruments.first_chunk.record(elapsed, self._common)
        last = reader.last_event or {}
        reply = last.get("response") if isinstance(last.get("response"), Mapping) else last
        self.end(error, reply, usage=reader.usage, reasons=list(reader.finish_reasons.values()))

    def end(
        self, error: BaseException | None, reply: Any = None, *, usage: Any = None, reasons: Sequence[str] = ()
    ) -> None:
        """Record the end: the reply, or the error."""
        if self._ended:
            return
        self._ended = True
        span, common, reply = self.span, self._common, self.reply if reply is None else reply
        self._name()
        model = _get(reply, "model")
        if isinstance(model, str):
            common["gen_ai.response.model"] = model
        counts = _token_counts(usage or _get(reply, "usage"))
        if self._recording:
            attributes = self._attributes
            attributes.update(counts)
            if isinstance(model, str):
                attributes["gen_ai.response.model"] = model
            if isinstance(found := _get(reply, "id"), str):
                attributes["gen_ai.response.id"] = found
            if found := reasons or _finish_reasons(reply):
                attributes["gen_ai.response.finish_reasons"] = found
            if self._body is not None:
                attributes |= _content(self._body, reply, self._messages)
            if isinstance(error, Exception):
                attributes |= _error_attributes(error)
            span.set_attributes(attributes)
            if isinstance(error, Exception):
                self._set_status(error)
            elif error is not None:
                span.add_event("cancelled")
        if isinstance(error, Exception):
            common["error.type"] = type(error).__name__
        self._instruments.duration.record(time.monotonic() - self._started, common)
        for kind in ("input", "output"):
            if (tokens := counts.get(f"gen_ai.usage.{kind}_tokens")) is not None:
                self._instruments.tokens.record(tokens, {**common, "gen_ai.token.type": kind})
        span.end()

    def _set_status(self, error: Exception) -> None:
        if self._content:  # the text of an error may quote the reply
            self.span.record_exception(error)
            self.span.set_status(Status(StatusCode.ERROR, str(error)))
        else:
            self.span.set_status(Status(StatusCode.ERROR, type(error).__name__))

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):  # of a stream that nobody has read to its end
            self.end(None)


def _request_attributes(body: Mapping[str, Any], endpoint: str, *, stream: bool) -> dict[str, Any]:
    """Return what a span tells of a request beside its model."""
    attributes: dict[str, Any] = {}
    for name, value in body.items():
        if (known := _REQUEST.get(name)) is None:
            continue
        key, kind = known
        if isinstance(value, kind) or (kind is float and isinstance(value, int)):
            attributes[key] = kind(value)
    if stream:
        attributes["gen_ai.request.stream"] = True
    if (count := body.get("n")) and count != 1:
        attributes["gen_ai.request.choice.count"] = count
    if (stop := body.get("stop")) and isinstance(stop, str | list | tuple):
        attributes["gen_ai.request.stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
    if encoding := body.get("encoding_format"):
        attributes["gen_ai.request.encoding_formats"] = [encoding]
    if endpoint == "chat" and ("response_format" in body or "structured_outputs" in body):
        attributes["gen_ai.output.type"] = _output_type(body)
    return attributes


def _error_attributes(error: Exception) -> dict[str, Any]:
    attributes: dict[str, Any] = {"error.type": type(error).__name__}
    if isinstance(error, VLLMError) and isinstance(error.request_id, str):
        attributes["http.response.header.x-request-id"] = [error.request_id]
    if isinstance(status := getattr(error, "status_code", None), int) and getattr(error, "_has_exchange", False):
        attributes["http.response.status_code"] = status
    return attributes


def _body_of(options: FinalRequestOptions) -> Mapping[str, Any]:
    body, extra = options.json_data, options.extra_json
    if not isinstance(body, Mapping):
        return extra if isinstance(extra, Mapping) else {}
    return {**body, **extra} if extra else body


def _output_type(body: Mapping[str, Any]) -> str:
    form = body.get("response_format")
    if isinstance(form, Mapping):
        return "text" if form.get("type") == "text" else "json"
    given = body.get("structured_outputs")
    return "json" if form or (isinstance(given, Mapping) and ("json" in given or "json_object" in given)) else "text"


def _get(part: Any, name: str) -> Any:
    if isinstance(part, dict):
        return part.get(name)
    found = getattr(part, name, None)  # first: Pydantic's models are asked most, and the other check costs more
    return part.get(name) if found is None and isinstance(part, Mapping) else found


def _token_counts(usage: Any) -> dict[str, int]:
    """Return the token counts of a ``usage``, by their names in the conventions."""
    if not usage:
        return {}
    fields = usage
    if not isinstance(usage, dict):  # one of Pydantic's models
        if not isinstance(fields := getattr(usage, "__dict__", None), dict):
            return {}
        if extra := getattr(usage, "model_extra", None):
            fields = {**fields, **extra}
    find = fields.get
    read, written = find("prompt_tokens"), find("completion_tokens")
    if read is None:  # of the Responses API, or of a ranking
        read = find("input_tokens", find("total_tokens"))
        written = find("output_tokens", written)
    counts = {}
    if isinstance(read, int):
        counts["gen_ai.usage.input_tokens"] = read
    if isinstance(written, int):
        counts["gen_ai.usage.output_tokens"] = written
    details = find("prompt_tokens_details") or find("input_tokens_details")
    if details and isinstance(cached := _get(details, "cached_tokens"), int):
        counts["gen_ai.usage.cache_read.input_tokens"] = cached
    details = find("completion_tokens_details") or find("output_tokens_details")
    if details and isinstance(reasoning := _get(details, "reasoning_tokens"), int):
        counts["gen_ai.usage.reasoning.output_tokens"] = reasoning
    return counts


def _finish_reasons(reply: Any) -> list[str]:
    choices = _get(reply, "choices")
    if isinstance(choices, list | tuple):
        return [reason for choice in choices if isinstance(reason := _get(choice, "finish_reason"), str)]
    reason = _get(reply, "status") or _get(reply, "stop_reason")  # of the Responses API, and of Anthropic's
    return [reason] if isinstance(reason, str) else []


def _content(body: Mapping[str, Any], reply: Any, streamed: Mapping[int, StreamedMessage]) -> dict[str, str]:
    """Return the texts of a call, as the conventions write them."""
    content: dict[str, Any] = {}
    messages = body.get("messages") or body.get("input") or body.get("prompt")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if isinstance(messages, Sequence) and all(isinstance(message, Mapping) for message in messages):
        content["gen_ai.input.messages"] = [_message(message) for message in messages]
    if tools := body.get("tools"):
        content["gen_ai.tool.definitions"] = tools
    if streamed:
        content["gen_ai.output.messages"] = [
            {**_message(_accumulated(message)), "finish_reason": message.finish_reason}
            for _, message in sorted(streamed.items())
        ]
    elif isinstance(choices := _get(reply, "choices"), Sequence):
        content["gen_ai.output.messages"] = [
            {**_message(_plain(choice)), "finish_reason": _get(choice, "finish_reason")} for choice in choices
        ]
    return {name: json.dumps(value, ensure_ascii=False, default=str) for name, value in content.items()}


def _accumulated(message: StreamedMessage) -> dict[str, Any]:
    calls = [
        {"id": call.id, "function": {"name": call.name, "arguments": call.raw_arguments}}
        for call in message.tool_calls()
    ]
    return {"role": "assistant", "content": message.text, "reasoning": message.reasoning, "tool_calls": calls}


def _plain(choice: Any) -> Mapping[str, Any]:
    message = _get(choice, "message")
    if message is None:
        return {"role": "assistant", "content": _get(choice, "text")}
    return message if isinstance(message, Mapping) else dict(message.to_dict())


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message in the conventions' form."""
    parts: list[Any] = []
    if message.get("role") == "tool":
        parts.append(
            {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": message.get("content")}
        )
        return {"role": "tool", "parts": parts}
    if reasoning := message.get("reasoning"):
        parts.append({"type": "reasoning", "content": reasoning})
    content = message.get("content")
    if isinstance(content, str) and content:
        parts.append({"type": "text", "content": content})
    elif isinstance(content, Sequence) and not isinstance(content, str):
        parts += [
            {"type": "text", "content": part.get("text")} if part.get("type") == "text" else {"type": part.get("type")}
            for part in content
            if isinstance(part, Mapping)
        ]
    for call in message.get("tool_calls") or ():
        function = _get(call, "function")
        parts.append(
            {
                "type": "tool_call",
                "id": _get(call, "id"),
                "name": _get(function, "name"),
                "arguments": _get(function, "arguments"),
            }
        )
    return {"role": message.get("role") or "assistant", "parts": parts}
