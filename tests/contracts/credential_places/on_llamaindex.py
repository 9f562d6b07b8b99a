"""The classes of LlamaIndex, also in their dicts and JSON, events, spans, callbacks and hashes of caches."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span import SimpleSpan
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.schema import NodeWithScore, TextNode

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
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank
from vllm_adapters.testing import FaultServer

CLASS_PLACES = {
    **OBJECT_PLACES,
    "to_dict": lambda part: part.to_dict(),
    "to_json": lambda part: part.to_json(),
    "model_dump": lambda part: part.model_dump(),
    "model_dump_json": lambda part: part.model_dump_json(),
    "fields": lambda part: repr(vars(part)),
}

RECEIVED: list[str] = []


class _Events(BaseEventHandler):
    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: Any, **kwargs: Any) -> None:
        RECEIVED.append(f"{event!r} {event.model_dump()} {event.model_dump_json()}")


class _Spans(SimpleSpanHandler):
    def new_span(self, id_: str, bound_args: Any, instance: Any = None, *args: Any, **kwargs: Any) -> SimpleSpan | None:
        RECEIVED.append(f"{id_} {bound_args} {instance!r} {args} {kwargs}")
        return super().new_span(id_, bound_args, instance, *args, **kwargs)

    def prepare_to_drop_span(self, id_: str, bound_args: Any, *args: Any, err: Any = None, **kwargs: Any) -> Any:
        RECEIVED.append(f"{id_} {bound_args} {args} {err!r} {kwargs}")
        return super().prepare_to_drop_span(id_, bound_args, *args, err=err, **kwargs)


class _Callbacks(BaseCallbackHandler):
    def __init__(self) -> None:
        super().__init__([], [])

    def on_event_start(self, *args: Any, **kwargs: Any) -> str:
        RECEIVED.append(f"{args} {kwargs}")
        return ""

    def on_event_end(self, *args: Any, **kwargs: Any) -> None:
        RECEIVED.append(f"{args} {kwargs}")

    def start_trace(self, trace_id: str | None = None) -> None: ...

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None: ...


def places(server: FaultServer) -> Places:
    """Yield every place."""
    manager = CallbackManager([_Callbacks()])
    settings: dict[str, Any] = {"api_base": server.url, "api_key": KEY, "default_headers": HEADERS, **SETTINGS}
    llm, embedding = VLLM(**settings, callback_manager=manager), VLLMEmbedding(**settings, callback_manager=manager)
    rerank = VLLMRerank(**settings, callback_manager=manager)
    yield from object_places({"VLLM": llm, "VLLMEmbedding": embedding, "VLLMRerank": rerank}, CLASS_PLACES)
    yield "metadata of VLLM", repr(llm.metadata)
    yield "hash of an ingestion step", get_transformation_hash([TextNode(text="a")], embedding)
    hello = [ChatMessage(role="user", content="hello")]

    def request(streamed: bool) -> None:
        list(llm.stream_chat(hello)) if streamed else llm.chat(hello)

    events, spans, dispatcher = _Events(), _Spans(), get_dispatcher()
    dispatcher.add_event_handler(events)
    dispatcher.add_span_handler(spans)
    try:
        request(False)
        request(True)
        llm.complete("hello")
        asyncio.run(llm.achat(hello))
        embedding.get_text_embedding("a")
        rerank.postprocess_nodes([NodeWithScore(node=TextNode(text="a"))], query_str="q")
        yield from error_places(server, request)
    finally:
        dispatcher.event_handlers.remove(events)
        dispatcher.span_handlers.remove(spans)
    yield "events, spans and callbacks", "\n".join(RECEIVED)
    yield "dropped spans", repr(spans.dropped_spans)
    yield "a reply", repr(llm.chat(hello))
    yield from constructor_error_places((VLLM, VLLMEmbedding, VLLMRerank), {"api_base": server.url})
