"""The instrumentations: each patches something in its process, and sends its spans to the given exporter."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

Wrap = Callable[[Any], Any]


def unwrapped(client: Any) -> Any:
    """Return a client as it is."""
    return client


def set_provider(exporter: Any) -> Any:
    """Set OpenTelemetry's providers, with the exporter."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider


def _instrumentor(*names: str) -> Callable[[Any, str], Wrap]:
    def set_up(exporter: Any, url: str) -> Wrap:
        provider = set_provider(exporter)
        for name in names:
            module, cls = name.split(":")
            getattr(import_module(module), cls)().instrument(tracer_provider=provider)
        return unwrapped

    return set_up


def _nothing(exporter: Any, url: str) -> Wrap:
    return unwrapped


def _ours(exporter: Any, url: str) -> Wrap:
    set_provider(exporter)
    return unwrapped


def _logfire(exporter: Any, url: str) -> Any:
    import logfire
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    logfire.configure(send_to_logfire=False, console=False, additional_span_processors=[SimpleSpanProcessor(exporter)])
    return logfire


def _logfire_classes(exporter: Any, url: str) -> Wrap:
    _logfire(exporter, url).instrument_openai()
    return unwrapped


def _logfire_client(exporter: Any, url: str) -> Wrap:
    logfire = _logfire(exporter, url)
    return lambda client: logfire.instrument_openai(client) and client


def _langfuse(exporter: Any, url: str) -> Wrap:
    from langfuse import Langfuse

    Langfuse(public_key="public", secret_key="secret", base_url=url, span_exporter=exporter)
    import langfuse.openai  # noqa: F401  # instruments the SDK

    return unwrapped


def _langsmith_wrap(exporter: Any, url: str) -> Wrap:
    from langsmith.wrappers import wrap_openai

    _langsmith_environment(exporter, url)
    return lambda client: wrap_openai(client)


def _langsmith_environment(exporter: Any, url: str) -> Wrap:
    os.environ.update(LANGSMITH_TRACING="true", LANGSMITH_ENDPOINT=url, LANGSMITH_API_KEY="key")
    return unwrapped


@dataclass(frozen=True)
class Instrumentation:
    """One instrumentation.

    Args:
        title: Its name in the table.
        set_up: Sets it up, with an exporter and the address of a server that takes what it sends; returns what wraps a
            client.
    """

    title: str
    set_up: Callable[[Any, str], Wrap]


ALL = {
    "none": Instrumentation("none", _nothing),
    "ours": Instrumentation("our spans alone", _ours),
    "logfire": Instrumentation("Logfire, `instrument_openai()`", _logfire_classes),
    "logfire-client": Instrumentation("Logfire, `instrument_openai(client)`", _logfire_client),
    "opentelemetry": Instrumentation(
        "OpenTelemetry, openai",
        _instrumentor("opentelemetry.instrumentation.genai.openai:OpenAIInstrumentor"),
    ),
    "traceloop": Instrumentation(
        "Traceloop, openai", _instrumentor("opentelemetry.instrumentation.openai:OpenAIInstrumentor")
    ),
    "traceloop-langchain": Instrumentation(
        "Traceloop, langchain",
        _instrumentor("opentelemetry.instrumentation.langchain:LangchainInstrumentor"),
    ),
    "traceloop-llamaindex": Instrumentation(
        "Traceloop, llamaindex",
        _instrumentor("opentelemetry.instrumentation.llamaindex:LlamaIndexInstrumentor"),
    ),
    "openinference": Instrumentation(
        "OpenInference, openai", _instrumentor("openinference.instrumentation.openai:OpenAIInstrumentor")
    ),
    "openinference-langchain": Instrumentation(
        "OpenInference, langchain",
        _instrumentor("openinference.instrumentation.langchain:LangChainInstrumentor"),
    ),
    "openinference-llamaindex": Instrumentation(
        "OpenInference, llama-index",
        _instrumentor("openinference.instrumentation.llama_index:LlamaIndexInstrumentor"),
    ),
    "openinference-haystack": Instrumentation(
        "OpenInference, haystack",
        _instrumentor("openinference.instrumentation.haystack:HaystackInstrumentor"),
    ),
    "langfuse": Instrumentation("Langfuse, `langfuse.openai`", _langfuse),
    "langsmith": Instrumentation("LangSmith, `wrap_openai(client)`", _langsmith_wrap),
    "langsmith-environment": Instrumentation("LangSmith, `LANGSMITH_TRACING`", _langsmith_environment),
}
