"""LangChain's classes: also in dumps, cache keys, callbacks, traces and pickled chains."""

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

from credential_places.common import HEADERS, KEY, OF_OBJECTS, SETTINGS, Found, of_failures, of_objects, of_refusals
from vllm_adapters.langchain import VLLM, ChatVLLM, VLLMEmbeddings, VLLMRerank
from vllm_adapters.testing import FaultServer
from vllm_adapters.testing.faults import json_reply

OF_PARTS = {
    **OF_OBJECTS,
    "dumps": dumps,
    "dumpd": dumpd,
    "model_dump": lambda part: part.model_dump(),
    "model_dump_json": lambda part: part.model_dump_json(),
    "fields": lambda part: repr(vars(part)),
}
OF_MODELS = {
    "to_json": lambda part: part.to_json(),
    "asdict": lambda part: part.asdict(),
    "identifying params": lambda part: part._identifying_params,
    "lc_attributes": lambda part: (part.lc_attributes, part.lc_secrets),
    "LangSmith params": lambda part: part._get_ls_params(),
    "invocation params": lambda part: part._get_invocation_params() if hasattr(part, "_get_invocation_params") else "",
    "graph": lambda part: part.get_graph().draw_mermaid(),
    "config schema": lambda part: json.dumps(part.get_config_jsonschema()),
}


class _Hears(BaseCallbackHandler):
    """Keeps everything that callbacks are told: serialized objects, invocation parameters, metadata, errors."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        return lambda *args, **kwargs: self.told.append(repr((args, kwargs)))


def look(server: FaultServer) -> Found:
    """Every place."""
    given: dict[str, Any] = {"base_url": server.url, "api_key": KEY, "default_headers": HEADERS, **SETTINGS}
    cache = InMemoryCache()
    chat, llm = ChatVLLM(**given, cache=cache), VLLM(**given, cache=cache)
    embeddings, rerank = VLLMEmbeddings(**given), VLLMRerank(**given)
    models = {"ChatVLLM": chat, "VLLM": llm}
    parts = {**models, "VLLMEmbeddings": embeddings, "VLLMRerank": rerank}
    yield from of_objects(parts, OF_PARTS)
    yield from of_objects(models, OF_MODELS)
    bound = {"a bound model": chat.bind(top_k=1), "a chain": chat.bind(top_k=1) | str, "a fallback": chat.with_retry()}
    yield from of_objects(bound, {"repr": repr, "dumps": dumps, "rich's repr": OF_OBJECTS["rich's repr"]})
    hears, runs = _Hears(), RunCollectorCallbackHandler()
    langsmith = FaultServer()
    langsmith.start()
    langsmith.reply(json_reply({}))
    tracer = LangChainTracer(client=Client(langsmith.root, api_key="of-langsmith", auto_batch_tracing=False))
    config: Any = {"callbacks": [hears, runs, tracer]}

    def ask(streamed: bool) -> None:
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
    yield from of_failures(server, ask)
    tracer.wait_for_futures()
    langsmith.stop()
    yield "callbacks", "\n".join(hears.told)
    yield (
        "collected runs",
        "\n".join(
            f"{run!r} {run.model_dump() if hasattr(run, 'model_dump') else run.dict()}" for run in runs.traced_runs
        ),
    )
    yield (
        "what LangSmith is sent",
        "\n".join(f"{sent.path} {sent.headers} {sent.body!r}" for sent in langsmith.requests),
    )
    yield "the cache", repr(cache._cache)
    yield "metadata of a reply", repr(chat.invoke("hello").response_metadata)
    yield from of_refusals((ChatVLLM, VLLM, VLLMEmbeddings, VLLMRerank), {"base_url": server.url})
