"""Calls chat completions under an instrumentation, and prints what it recorded: run by ``test_tracing.py``.

Usage: instrumented.py INSTRUMENTATION WHOLE CUT FAILING, with the addresses of three servers.
"""

import asyncio
import json
import os
import sys
from importlib.util import find_spec

import openai

from vllm_adapters import AsyncVLLMClient, VLLMClient

NAME, WHOLE, CUT, FAILING = sys.argv[1:]
MESSAGES = [{"role": "user", "content": "Count"}]
TOOL = {"type": "function", "function": {"name": "City", "parameters": {"type": "object", "properties": {}}}}
CALLS = {
    "whole": (WHOLE, {}),
    "stream": (WHOLE, {"stream": True, "stream_options": {"include_usage": True}}),
    "tool": (WHOLE, {"tools": [TOOL]}),
    "cut": (CUT, {"stream": True}),
    "failing": (FAILING, {}),
}


class Spans:
    """What OpenTelemetry's spans have recorded since the last look."""

    def __init__(self):
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter = InMemorySpanExporter()
        self.processor = SimpleSpanProcessor(self.exporter)

    def provider(self):
        from opentelemetry.sdk.trace import TracerProvider

        provider = TracerProvider()
        provider.add_span_processor(self.processor)
        return provider

    def take(self):
        spans = self.exporter.get_finished_spans()
        self.exporter.clear()
        return [
            {
                "name": span.name,
                "failed": span.status.status_code.name == "ERROR",
                "tokens": {key: value for key, value in sorted(span.attributes.items()) if is_count(key, value)},
                "names": sorted(span.attributes),
            }
            for span in spans
        ]


def is_count(key, value):
    return ("token" in key or "usage" in key) and "time" not in key and isinstance(value, int | str)


class Runs:
    """What LangSmith has recorded since the last look."""

    def __init__(self):
        self.runs = []

    def create_run(self, name, inputs, run_type, **rest):
        self.runs.append({"id": rest["id"], "name": name, "failed": False, "tokens": {}, "names": sorted(inputs)})

    def update_run(self, run_id, error=None, outputs=None, **rest):
        [run] = [each for each in self.runs if each["id"] == run_id]
        run["failed"] = error is not None
        usage = (outputs or {}).get("usage_metadata") or {}
        run["tokens"] = {key: value for key, value in usage.items() if isinstance(value, int)}

    def __getattr__(self, name):
        return None

    def take(self):
        runs, self.runs = self.runs, []
        return [{key: value for key, value in run.items() if key != "id"} for run in runs]


def instrument():
    """Instrument the SDK; return what records, and a function that instruments a client."""
    if NAME == "langsmith":
        from langsmith.wrappers import wrap_openai

        os.environ["LANGSMITH_TRACING"] = "true"
        runs = Runs()
        return runs, lambda client: wrap_openai(client, tracing_extra={"client": runs})
    spans = Spans()
    if NAME.startswith("logfire"):
        import logfire

        logfire.configure(send_to_logfire=False, console=False, additional_span_processors=[spans.processor])
        if NAME == "logfire-client":
            return spans, lambda client: logfire.instrument_openai(client) and client
        if NAME == "logfire":
            logfire.instrument_openai()
        else:
            for cls in (openai.OpenAI, openai.AsyncOpenAI, VLLMClient, AsyncVLLMClient):
                logfire.instrument_openai(cls)
    elif NAME == "langfuse":
        from langfuse import Langfuse

        Langfuse(public_key="public", secret_key="secret", base_url=WHOLE, span_exporter=spans.exporter)
        import langfuse.openai  # noqa: F401  # instruments the SDK
    else:
        if NAME == "openinference":
            from openinference.instrumentation.openai import OpenAIInstrumentor
        elif NAME == "traceloop":
            from opentelemetry.instrumentation.openai import OpenAIInstrumentor
        else:
            from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
        OpenAIInstrumentor().instrument(tracer_provider=spans.provider())
    return spans, lambda client: client


def sync_call(client, request):
    reply = client.chat.completions.create(model="stub", messages=MESSAGES, **request)
    if request.get("stream"):
        return "".join(chunk.choices[0].delta.content or "" for chunk in reply if chunk.choices)
    return reply.choices[0].message.content


async def async_call(client, request):
    reply = await client.chat.completions.create(model="stub", messages=MESSAGES, **request)
    if request.get("stream"):
        return "".join([chunk.choices[0].delta.content or "" async for chunk in reply if chunk.choices])
    return reply.choices[0].message.content


async def call(client_class, mode, url, request, wrap):
    client = wrap(client_class(base_url=f"{url.removesuffix('/v1')}/v1", api_key="key", max_retries=0))
    try:
        return sync_call(client, request) if mode == "sync" else await async_call(client, request)
    except Exception as error:  # the SDK raises those of its transport, too
        return type(error).__name__
    finally:
        if mode == "sync":
            client.close()
        else:
            await client.close()


def chat_model(url):
    from vllm_adapters.langchain import ChatVLLM

    try:
        return "".join(chunk.text for chunk in ChatVLLM(base_url=url, model="stub", max_retries=0).stream("Count"))
    except openai.OpenAIError as error:
        return type(error).__name__


async def main():
    recorder, wrap = instrument()
    results = []
    classes = {
        ("ours", "sync"): VLLMClient,
        ("ours", "async"): AsyncVLLMClient,
        ("stock", "sync"): openai.OpenAI,
        ("stock", "async"): openai.AsyncOpenAI,
    }
    for (whose, mode), client_class in classes.items():
        for reply, (url, request) in CALLS.items():
            result = await call(client_class, mode, url, request, wrap)
            if NAME == "langfuse":
                from langfuse import get_client

                get_client().flush()
            results.append({"case": [whose, mode, reply], "result": result, "spans": recorder.take()})
    os.environ["LANGSMITH_TRACING"] = "false"  # LangChain's own would call home
    if find_spec("langchain_openai"):
        for reply, url in (("stream", WHOLE), ("cut", CUT)):
            results.append({"case": ["ChatVLLM", "sync", reply], "result": chat_model(url), "spans": []})
    print(json.dumps(results))


asyncio.run(main())
