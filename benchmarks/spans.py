"""OpenTelemetry's SDK, for the cases that measure spans: set for one pass, and used by hand.

The API sets a provider once in a process, so its variables are set here: the other passes run without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import context, trace
from opentelemetry.metrics import _internal as metrics_internal
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

_SHARED = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "vllm",
    "server.address": "127.0.0.1",
    "server.port": 8000,
    "gen_ai.request.model": "burst",
}
_REPLY = {
    "gen_ai.usage.input_tokens": 24,
    "gen_ai.usage.output_tokens": 600,
    "gen_ai.usage.cache_read.input_tokens": 0,
    "gen_ai.usage.reasoning.output_tokens": 0,
    "gen_ai.response.model": "stub",
    "gen_ai.response.id": "chatcmpl-8f6d1c2b3a495867",
    "gen_ai.response.finish_reasons": ["stop"],
}
_METRIC = {**_SHARED, "gen_ai.response.model": "stub"}
_INPUT, _OUTPUT = ({**_METRIC, "gen_ai.token.type": kind} for kind in ("input", "output"))


class _Nowhere(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Recorder:
    """Providers whose spans are sent nowhere in batches, and whose metrics nobody reads."""

    def __init__(self) -> None:
        self.traces, self.meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
        self.traces.add_span_processor(BatchSpanProcessor(_Nowhere()))
        self._tracer, meter = self.traces.get_tracer("by hand"), self.meters.get_meter("by hand")
        self._duration, self._tokens = meter.create_histogram("duration"), meter.create_histogram("tokens")

    def during(self, work: Callable[[], object]) -> Callable[[], None]:
        """Return ``work`` with the providers set; the spans that it has left are exported in its time."""

        def recorded() -> None:
            before: Any = trace._TRACER_PROVIDER, metrics_internal._METER_PROVIDER
            trace._TRACER_PROVIDER, metrics_internal._METER_PROVIDER = self.traces, self.meters
            try:
                work()
                self.traces.force_flush()
            finally:
                trace._TRACER_PROVIDER, metrics_internal._METER_PROVIDER = before

        return recorded

    def by_hand(self, call: Callable[[], object], number: int) -> Callable[[], None]:
        """Return what sends ``number`` chats, with what this package records written out: what the SDK costs alone.

        The providers are not set, so that the package records nothing; it sends the trace context of the current span.
        """

        def one() -> None:
            span = self._tracer.start_span("chat burst", kind=trace.SpanKind.CLIENT, attributes=_SHARED)
            token = context.attach(trace.set_span_in_context(span))
            assert call()
            context.detach(token)
            span.set_attributes(_REPLY)
            span.end()
            self._duration.record(0.001, _METRIC)
            self._tokens.record(24, _INPUT)
            self._tokens.record(600, _OUTPUT)

        def work() -> None:
            for _ in range(number):
                one()
            self.traces.force_flush()

        return work
