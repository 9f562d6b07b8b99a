"""Haystack's components: also in their dicts, in pipelines' YAML and snapshots, and in traces."""

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

from credential_places.common import HEADERS, KEY, SETTINGS, TOKEN, Found, of_failures, of_objects
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
    def __init__(self, told: list[str]) -> None:
        self.told = told

    def set_tag(self, key: str, value: Any) -> None:
        self.told.append(f"{key} {value!r}")


class _Tracer(tracing.Tracer):
    """Keeps all tags, contents too."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextlib.contextmanager
    def trace(self, operation_name: str, tags: Any = None, parent_span: Any = None) -> Iterator[tracing.Span]:
        self.told.append(f"{operation_name} {tags!r}")
        yield _Span(self.told)

    def current_span(self) -> tracing.Span | None:
        return None


def look(server: FaultServer) -> Found:
    """Every place; key and header are in variables of the environment, but for the last components."""
    os.environ |= {"CANARY_KEY": KEY, "CANARY_TOKEN": TOKEN}
    try:
        yield from _look(server)
    finally:
        del os.environ["CANARY_KEY"], os.environ["CANARY_TOKEN"]


def _look(server: FaultServer) -> Found:
    timeout = asdict(SETTINGS["timeout"])
    given = {"api_base_url": server.url, "timeout": timeout, "max_retries": SETTINGS["max_retries"]}
    named: dict[str, Any] = {
        "api_key": Secret.from_env_var("CANARY_KEY"),
        "http_client_kwargs": {"headers": {name: Secret.from_env_var("CANARY_TOKEN") for name in HEADERS}},
    }
    bare: dict[str, Any] = {"api_key": Secret.from_token(KEY), "http_client_kwargs": {"headers": HEADERS}}
    for how, secrets in {"by name": named, "as text": bare}.items():
        parts = {f"{cls.__name__}, {how}": cls(**given, **secrets) for cls in CLASSES}
        yield from of_objects(parts)
        for part in parts.values():
            part.warm_up()
        yield from of_objects(parts)
        yield from of_objects(parts, {"fields": lambda part: repr(vars(part))})
        yield from of_objects(parts, {"to_dict": _saved if how == "by name" else _refused})
    tracer = _Tracer()
    tracing.tracer.is_content_tracing_enabled, content = True, tracing.tracer.is_content_tracing_enabled
    tracing.enable_tracing(tracer)
    try:
        yield from _of_pipelines(server, {**given, **named})
    finally:
        tracing.disable_tracing()
        tracing.tracer.is_content_tracing_enabled = content
    yield "tracing tags", "\n".join(tracer.told)


def _saved(part: Any) -> str:
    return str(part.to_dict())


def _refused(part: Any) -> str:
    with pytest.raises(ValueError, match="Cannot serialize") as caught:
        part.to_dict()
    return str(caught.value)


def _of_pipelines(server: FaultServer, given: Mapping[str, Any]) -> Found:
    pipeline = Pipeline()
    pipeline.add_component("llm", VLLMChatGenerator(**given))
    rag = Pipeline()
    rag.add_component("embedder", VLLMDocumentEmbedder(**given, progress_bar=False))
    rag.add_component("ranker", VLLMRanker(**given))
    rag.connect("embedder.documents", "ranker.documents")
    yield from of_objects(
        {"a pipeline": pipeline, "another": rag}, {"repr": repr, "YAML": Pipeline.dumps, "to_dict": Pipeline.to_dict}
    )
    loaded = Pipeline.loads(pipeline.dumps())

    def ask(streamed: bool) -> None:
        callback = {"streaming_callback": print_nothing} if streamed else {}
        loaded.run({"llm": {"messages": "hello", **callback}})

    ask(False)
    ask(True)
    asyncio.run(loaded.run_async({"llm": {"messages": "hello"}}))
    rag.run({"embedder": {"documents": [Document(content="a")]}, "ranker": {"query": "q"}})
    assert {sent.headers.get("x-gateway-token") for sent in server.posts()} == {TOKEN}
    yield from of_failures(server, ask)


def print_nothing(chunk: Any) -> None:
    """What a stream is called back with."""
