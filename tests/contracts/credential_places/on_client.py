"""The objects of the core."""

from __future__ import annotations

from typing import Any

from credential_places.common import (
    HEADERS,
    KEY,
    OBJECT_PLACES,
    SETTINGS,
    TOKEN,
    Places,
    constructor_error_places,
    error_places,
    object_places,
)
from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters.embedder import Embedder
from vllm_adapters.testing import FaultServer
from vllm_adapters.tokenizer import VLLMTokenizer

HELLO: dict[str, Any] = {"model": "stub", "messages": [{"role": "user", "content": "x"}]}


def places(server: FaultServer) -> Places:
    """Yield every place."""
    settings = {"api_key": KEY, "default_headers": HEADERS, **SETTINGS}
    client, own_server = VLLMClient(server.url, **settings), VLLMServer(server.url, **settings)
    objects = {
        "VLLMClient": client,
        "AsyncVLLMClient": AsyncVLLMClient(server.url, **settings),
        "VLLMServer": own_server,
        "Embedder": Embedder(own_server),
        "VLLMTokenizer": VLLMTokenizer(own_server),
        "a copy with options": client.with_options(timeout=3),
        "ServerInfo": client.vllm.info,
    }
    yield from object_places(objects, {**OBJECT_PLACES, "fields": lambda part: repr(vars(part))})

    def request(streamed: bool) -> None:
        reply = client.chat.completions.create(**HELLO, stream=streamed)
        if streamed:
            list(reply)

    client.chat.completions.create(**HELLO, extra_headers={"X-Other": TOKEN})
    request(False)
    request(True)
    yield from error_places(server, request)
    yield from constructor_error_places((VLLMClient, AsyncVLLMClient, VLLMServer), {"base_url": server.url})
