"""All cells of one instrumentation, in a process of their own: ``python -m observe_matrix.process NAME``.

Prints JSON: for each cell its outcome, and the spans that name a model.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from observe_matrix.instrumentations import ALL
from vllm_adapters import VLLMServer
from vllm_adapters.testing import FaultServer, faults

CHAT = "/v1/chat/completions"
MODEL = ("gen_ai.request.model", "gen_ai.response.model", "llm.model_name", "langfuse.observation.model.name")
TOKENS = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
    "langfuse.observation.usage_details",
)
REPLIES = {
    "whole": ("whole", faults.chat("one two three")),
    "streamed": ("stream", faults.chat("one two three")),
    "cut": ("stream", faults.truncate(faults.chat("one two three four five"), after=900)),
    "error event": ("stream", faults.error_event(500)),
    "cancelled": ("left", faults.chat("one two three four five", pause=0.05)),
}


def _first(attributes: Any, names: Any) -> str:
    return next((str(attributes[name]) for name in names if name in attributes), "")


def _recorded(exporter: Any) -> list[dict[str, Any]]:
    """Return the spans that describe a call of a model."""
    found = []
    for span in exporter.get_finished_spans():
        attributes = dict(span.attributes or {})
        if model := _first(attributes, MODEL):
            found.append(
                {
                    "name": span.name,
                    "by": span.instrumentation_scope.name,
                    "model": model,
                    "provider": _first(attributes, ("gen_ai.provider.name", "gen_ai.system", "llm.provider")),
                    "tokens": bool(_first(attributes, TOKENS)),
                    "failed": span.status.status_code.name == "ERROR",
                }
            )
    exporter.clear()
    return found


@contextmanager
def _server(url: str, wrap: Any) -> Iterator[VLLMServer]:
    with VLLMServer(url, model="stub", server_version="0.32.0", max_retries=0) as server:
        wrap(server.client)
        wrap(server.async_client)
        yield server


def main(name: str) -> None:
    """Print the cells of an instrumentation."""
    from observe_matrix.calls import FRAMEWORKS, outcome

    exporter: Any = None
    if name != "none":
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        exporter = InMemorySpanExporter()
    cells = []
    logging.disable(logging.CRITICAL)
    with FaultServer() as backend, FaultServer() as fault_server:
        wrap = ALL[name].set_up(exporter, backend.url)
        for framework, make in FRAMEWORKS.items():
            for reply, (what, behaviour) in REPLIES.items():
                fault_server.reply(behaviour, CHAT)
                for mode in ("sync", "async"):
                    with _server(fault_server.url, wrap) as server:
                        # Some leave their context behind when a stream fails.
                        result = copy_context().run(outcome, make, server, what, mode)
                    if what == "left":
                        gc.collect()
                    cell = {"framework": framework, "reply": reply, "mode": mode, "result": result, "spans": []}
                    if exporter is not None:
                        _flush(name)
                        cell["spans"] = _recorded(exporter)
                    cells.append(cell)
    print(json.dumps(cells))


def _flush(name: str) -> None:
    if name == "langfuse":
        from langfuse import get_client

        get_client().flush()


if __name__ == "__main__":
    main(sys.argv[1])
