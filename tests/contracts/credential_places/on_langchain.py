"""The classes of LangChain, also in dumps, cache keys, callbacks, traces and pickled chains."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.load import dumpd, dumps
from langchain_core.tracers import LangChainTracer
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langsmith import Client

from credential_places.common import (
    HEADERS,
    KEY,
    OBJECT_PLACES,
    SETTINGS,
    Places,
    constructor_error_places,
    error_places,
    object_places,
)
from vllm_adapters.langchain import VLLM, ChatVLLM, VLLMEmbeddings, VLLMRerank
from vllm_adapters.testing import FaultServer
from vllm_adapters.testing.faults import json_reply

CLASS_PLACES = {
    **OBJECT_PLACES,
    "dumps": dumps,
    "dumpd": dumpd,
    "model_dump": lambda part: part.model_dump(),
    "model_dump_json": lambda part: part.model_dump_json(),
    "fields": lambda part: repr(vars(part)),
}
MODEL_PLACES = {
    "to_json": lambda part: part.to_json(),
    "asdict": lambda part: part.asdict(),
    "identifying params": lambda part: part._identifying_params,
    "lc_attributes": lambda part: (part.lc_attributes, part.lc_secrets),
    "LangSmith params": lambda part: part._get_ls_params(),
    "invocation params": lambda part: part._get_invocation_params() if hasattr(part, "_get_invocation_params") else "",
    "graph": lambda part: part.get_graph().draw_mermaid(),
    "config schema": lambda part: json.dumps(part.get_config_jsonschema()),
}


class _Recorder(BaseCallbackHandler):
    """Keeps everything that callbacks receive: serialized objects, invocation parameters, metadata, errors."""

    def __init__(self) -> None:
        self.received: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        return lambda *args, **kwargs: self.received.append(repr((args, kwargs)))


def places(server: FaultServer) -> Places:
    """Yield every place."""
    settings: dict[str, Any] = {"base_url": server.url, "api_key": KEY, "default_headers": HEADERS, **SETTINGS}
    cache = InMemoryCache()
    chat, llm = ChatVLLM(**settings, cache=cache), VLLM(**settings, cache=cache)
    embeddings, rerank = VLLMEmbeddings(**settings), VLLMRerank(**settings)
    models = {"ChatVLLM": chat, "VLLM": llm}
    objects = {**models, "VLLMEmbeddings": embeddings, "VLLMRerank": rerank}
    yield from object_places(objects, CLASS_PLACES)
    yield from object_places(models, MODEL_PLACES)
    bound = {"a bound model": chat.bind(top_k=1), "a chain": chat.bind(top_k=1) | str, "a fallback": chat.with_retry()}
    yield from object_places(bound, {"repr": repr, "dumps": dumps, "rich's repr": OBJECT_PLACES["rich's repr"]})
    recorder, runs = _Recorder(), RunCollectorCallbackHandler()
    langsmith = FaultServer()
    langsmith.start()
    langsmith.reply(json_reply({}))
    tracer = LangChainTracer(client=Client(langsmith.root, api_key="of-langsmith", auto_batch_tracing=False))
    config: Any = {"callbacks": [recorder, runs, tracer]}

    def request(streamed: bool) -> None:
        if streamed:
            list(chat.stream("x", config))
        else:
            chat.invoke("x", config)

    for model in (chat, llm):
        model.invoke("hello", config)
        list(model.stream("hello", config))
        asyncio.run(model.ainvoke("hello again", config))
    rerank.compress_documents([Document("a")], "q")
    embeddings.embed_query("a")
    (chat | str).invoke("a chain", config)
    yield from error_places(server, request)
    tracer.wait_for_futures()
    langsmith.stop()
    yield "callbacks", "\n".join(recorder.received)
    yield (
        "collected runs",
        "\n".join(
            f"{run!r} {run.model_dump() if hasattr(run, 'model_dump') else run.dict()}" for run in runs.traced_runs
        ),
    )
    yield (
        "requests to LangSmith",
        "\n".join(f"{received.path} {received.headers} {received.body!r}" for received in langsmith.requests),
    )
    yield "the cache", repr(cache._cache)
    yield "metadata of a reply", repr(chat.invoke("hello").response_metadata)
    yield from constructor_error_places((ChatVLLM, VLLM, VLLMEmbeddings, VLLMRerank), {"base_url": server.url})
