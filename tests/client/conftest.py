"""Providers of OpenTelemetry, for one test each."""

from types import SimpleNamespace

import pytest


@pytest.fixture
def recorded(monkeypatch):
    """What OpenTelemetry records: ``recorded.spans()``, ``recorded.metric(name)``, and the ``tracer``."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    # The API sets a provider once in a process; these are for one test.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracers)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", MeterProvider([reader]))

    def spans():
        return list(exporter.get_finished_spans())

    def span():
        [found] = spans()
        return found

    def metric(name):
        data = reader.get_metrics_data()
        found = [
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return [point for each in found if each.name == name for point in each.data.data_points]

    return SimpleNamespace(spans=spans, span=span, metric=metric, tracer=tracers.get_tracer("test"))
