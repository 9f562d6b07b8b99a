"""The components of Haystack, also in their dicts, in the YAML of pipelines, and in traces."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pytest
from haystack import Document, Pipeline, tracing
from haystack.utils import Secret

from credential_places.common import HEADERS, KEY, SETTINGS, TOKEN, Places, error_places, object_places
from vllm_adapters.haystack import (
    VLLMChatGenerator,
    VLLMDocumentEmbedder,
    VLLMRanker,
    VLLMTextEmbedder,
    VLLMTokenCounter,
)
from vllm_adapters.testing import FaultServer

CLASSES = (VLLMChatGenerator, VLLMTextEmbedder, VLLMDocumentEmbedder, VLLMRanker, VLLMTokenCounter)


class _Span(tracing.Span):
    def __init__(self, recorded: list[str]) -> None:
        self.recorded = recorded

    def set_tag(self, key: str, value: Any) -> None:
        self.recorded.append(f"{key} {value!r}")


class _Tracer(tracing.Tracer):
    """Keeps all tags, including contents."""

    def __init__(self) -> None:
        self.recorded: list[str] = []

    @contextlib.contextmanager
    def trace(self, operation_name: str, tags: Any = None, parent_span: Any = None) -> Iterator[tracing.Span]:
        self.recorded.append(f"{operation_name} {tags!r}")
        yield _Span(self.recorded)

    def current_span(self) -> tracing.Span | None:
        return None


def places(server: FaultServer) -> Places:
    """Yield every place, with the credentials in environment variables and as plain text."""
    os.environ |= {"CANARY_KEY": KEY, "CANARY_TOKEN": TOKEN}
    try:
        yield from _places(server)
    finally:
        del os.environ["CANARY_KEY"], os.environ["CANARY_TOKEN"]


def _places(server: FaultServer) -> Places:
    timeout = asdict(SETTINGS["timeout"])
    settings = {"api_base_url": server.url, "timeout": timeout, "max_retries": SETTINGS["max_retries"]}
    named: dict[str, Any] = {
        "api_key": Secret.from_env_var("CANARY_KEY"),
        "http_client_kwargs": {"headers": {name: Secret.from_env_var("CANARY_TOKEN") for name in HEADERS}},
        "default_headers": {"X-Other-Token": Secret.from_env_var("CANARY_TOKEN")},
    }
    plain: dict[str, Any] = {
        "api_key": Secret.from_token(KEY),
        "http_client_kwargs": {"headers": HEADERS},
        "default_headers": {"X-Other-Token": TOKEN},
    }
    for how, secrets in {"environment variables": named, "plain text": plain}.items():
        components = {f"{cls.__name__}, {how}": cls(**settings, **secrets) for cls in CLASSES}
        yield from object_places(components)
        for component in components.values():
            component.warm_up()
        yield from object_places(components)
        yield from object_places(components, {"fields": lambda part: repr(vars(part))})
        yield from object_places(
            components, {"to_dict": _to_dict if how == "environment variables" else _to_dict_error}
        )
    tracer = _Tracer()
    tracing.tracer.is_content_tracing_enabled, content = True, tracing.tracer.is_content_tracing_enabled
    tracing.enable_tracing(tracer)
    try:
        yield from _pipeline_places(server, {**settings, **named})
    finally:
        tracing.disable_tracing()
        tracing.tracer.is_content_tracing_enabled = content
    yield "tracing tags", "\n".join(tracer.recorded)


def _to_dict(part: Any) -> str:
    return str(part.to_dict())


def _to_dict_error(part: Any) -> str:
    with pytest.raises(ValueError, match="Cannot serialize") as caught:
        part.to_dict()
    return str(caught.value)


def _pipeline_places(server: FaultServer, settings: Mapping[str, Any]) -> Places:
    pipeline = Pipeline()
    pipeline.add_component("llm", VLLMChatGenerator(**settings))
    rag = Pipeline()
    rag.add_component("embedder", VLLMDocumentEmbedder(**settings, progress_bar=False))
    rag.add_component("ranker", VLLMRanker(**settings))
    rag.connect("embedder.documents", "ranker.documents")
    yield from object_places(
        {"a pipeline": pipeline, "another": rag}, {"repr": repr, "YAML": Pipeline.dumps, "to_dict": Pipeline.to_dict}
    )
    loaded = Pipeline.loads(pipeline.dumps())

    def request(streamed: bool) -> None:
        callback = {"streaming_callback": ignore} if streamed else {}
        loaded.run({"llm": {"messages": "hello", **callback}})

    request(False)
    request(True)
    asyncio.run(loaded.run_async({"llm": {"messages": "hello"}}))
    rag.run({"embedder": {"documents": [Document(content="a")]}, "ranker": {"query": "q"}})
    for name in ("x-gateway-token", "x-other-token"):
        assert {sent.headers.get(name) for sent in server.posts()} == {TOKEN}
    yield from error_places(server, request)


def ignore(chunk: Any) -> None:
    """Streaming callback."""
