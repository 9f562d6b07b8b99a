"""The core's objects."""

from __future__ import annotations

from typing import Any

from credential_places.common import (
    HEADERS,
    KEY,
    OF_OBJECTS,
    SETTINGS,
    TOKEN,
    Found,
    of_failures,
    of_objects,
    of_refusals,
)
from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters.embedder import Embedder
from vllm_adapters.testing import FaultServer
from vllm_adapters.tokenizer import VLLMTokenizer

HELLO: dict[str, Any] = {"model": "stub", "messages": [{"role": "user", "content": "x"}]}


def look(server: FaultServer) -> Found:
    """Every place."""
    given = {"api_key": KEY, "default_headers": HEADERS, **SETTINGS}
    client, at = VLLMClient(server.url, **given), VLLMServer(server.url, **given)
    parts = {
        "VLLMClient": client,
        "AsyncVLLMClient": AsyncVLLMClient(server.url, **given),
        "VLLMServer": at,
        "Embedder": Embedder(at),
        "VLLMTokenizer": VLLMTokenizer(at),
        "a copy with options": client.with_options(timeout=3),
        "ServerFacts": client.facts,
    }
    yield from of_objects(parts, {**OF_OBJECTS, "fields": lambda part: repr(vars(part))})

    def ask(streamed: bool) -> None:
        reply = client.chat.completions.create(**HELLO, stream=streamed)
        if streamed:
            list(reply)

    client.chat.completions.create(**HELLO, extra_headers={"X-Other": TOKEN})
    ask(False)
    ask(True)
    yield from of_failures(server, ask)
    yield from of_refusals((VLLMClient, AsyncVLLMClient, VLLMServer), {"base_url": server.url})
