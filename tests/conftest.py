import asyncio
import io
import os
import wave
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

from vllm_adapters import AsyncVLLMClient, VLLMClient

# Before the frameworks are imported: their telemetry would be a request that is in no cassette.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["LANGSMITH_TRACING"] = "false"

# Tests of what is not installed are not collected.
FRAMEWORKS = {
    "langchain": "langchain_openai",
    "llamaindex": "llama_index",
    "haystack": "haystack",
    "site": "mkdocs",
}
collect_ignore_glob = [f"{framework}/*" for framework, module in FRAMEWORKS.items() if find_spec(module) is None]

pytest_plugins = ["vllm_adapters.testing.plugin", "pytester"]

# Addresses of this machine, and Unix sockets (paths, or names that start with a zero byte).
THIS_MACHINE = [r"127\.", r"localhost$", r"::1$", r"/", r"\x00"]

# The same examples in every run, also on a slow machine; the servers of a test are shared by its examples.
settings.register_profile(
    "here",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("here")


def pytest_collection_modifyitems(config, items):
    """Let unmarked tests connect to this machine only; the plugin blocks the network of marked ones."""
    live = config.getoption("--live") or "live" in config.option.markexpr
    for item in items:
        if item.get_closest_marker("live") and not live:
            item.add_marker(pytest.mark.skip(reason="needs a real vLLM: run with --live or -m live"))
        if not item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.block_network(allowed_hosts=THIS_MACHINE))


@pytest.fixture
def pictures():
    """PNGs of one color, as base64, by color; stored, because their bytes depend on the version of zlib."""
    return {
        "red": "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP8z4AdMDEMKQkAzUEBD7t4NqoAAAAASUVORK5CYII=",
        "blue": "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mNkYPjPgA0wMeAAg1MCAMtDAQ9w2TiCAAAAAElFTkSu"
        "QmCC",
        "green": "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAE0lEQVR42mNkaGDACpgYGIaSBABqCACQdB1jOgAAAABJRU5ErkJg"
        "gg==",
    }


@pytest.fixture
def silence():
    """A second of silence, as a WAV file."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))
    return content.getvalue()


HELLO = [{"role": "user", "content": "one two three four five"}]


class ChatSender:
    """Sends a chat completion, streamed or not, with the sync or the async client."""

    def __init__(self, mode):
        self.mode = mode

    def __call__(self, url, *, chunks=None, client=None, messages=HELLO, **request):
        options = {"max_retries": 0, "timeout": 5, **(client or {})}
        request = {"model": "stub", "messages": messages, **request}
        run = self._sync if self.mode == "sync" else self._async
        return run(url, options, request, chunks)

    def _sync(self, url, options, request, chunks):
        with VLLMClient(url, **options) as client:
            reply = client.chat.completions.create(**request)
            if not request.get("stream"):
                return reply
            chunks = [] if chunks is None else chunks
            for chunk in reply:
                chunks.append(chunk)
            return chunks

    def _async(self, url, options, request, chunks):
        async def run():
            async with AsyncVLLMClient(url, **options) as client:
                reply = await client.chat.completions.create(**request)
                if not request.get("stream"):
                    return reply
                received = [] if chunks is None else chunks
                async for chunk in reply:
                    received.append(chunk)
                return received

        return asyncio.run(run())


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Sends a chat completion and returns the reply or the chunks; once sync, once async."""
    return ChatSender(request.param)


@pytest.fixture
def many_files():
    """Raises the limit of open files: both ends of a thousand connections are in this process."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, 4096)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"only {hard} open files allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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
