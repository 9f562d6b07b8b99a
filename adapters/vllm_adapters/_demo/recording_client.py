"""A server whose client keeps the request bodies that it sends, so that the demo can show and check them."""

from __future__ import annotations

import json
from typing import Any

from vllm_adapters._compat import http
from vllm_adapters.client import VLLMClient
from vllm_adapters.server import VLLMServer


class RecordingClient(VLLMClient):
    """A ``VLLMClient`` that keeps the JSON bodies it sends in ``sent``; it keeps no headers, hence no API key."""

    def __init__(self, base_url: str | None = None, **options: Any) -> None:
        super().__init__(base_url, **options)
        self.sent: list[dict[str, Any]] = []

    def _prepare_request(self, request: http.Request) -> None:
        super()._prepare_request(request)
        if request.content:
            self.sent.append(json.loads(request.content))


class RecordingServer(VLLMServer):
    """A ``VLLMServer`` with a ``RecordingClient``."""

    client: RecordingClient

    def __init__(self, base_url: str | None = None, **options: Any) -> None:
        super().__init__(base_url, **options)
        self.client = self._clients.client = self._recorder = RecordingClient(base_url, **options)

    @property
    def sent(self) -> list[dict[str, Any]]:
        """The JSON bodies sent so far, oldest first."""
        return self.client.sent
