"""Completions as plain dicts, for frameworks that make objects of their own.

Converting a request to the SDK's types and back, and a response to the SDK's objects and back to dicts, takes more
CPU than everything else a client does. What is checked and translated is the same either way.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from openai import AsyncOpenAI, AsyncStream, Stream
from openai._base_client import make_request_options
from openai._constants import RAW_RESPONSE_HEADER
from openai._types import not_given

if TYPE_CHECKING:
    from vllm_adapters.client import AsyncVLLMClient, VLLMClient


class RawCompletions:
    """Drop-in for ``client.chat.completions`` that returns plain dicts: ``create``, also ``with_raw_response``.

    Args:
        client: With the sync client ``create`` returns a dict or a stream of dicts, with the async one an awaitable.
        raw: Return the SDK's raw response, whose ``parse()`` is the dict or the stream.
        path: ``"/completions"`` for a drop-in for ``client.completions``.
    """

    def __init__(
        self, client: VLLMClient | AsyncVLLMClient, *, raw: bool = False, path: str = "/chat/completions"
    ) -> None:
        self._client: Any = client
        self._raw = raw
        self._path = path
        self._stream_cls: Any = AsyncStream[object] if isinstance(client, AsyncOpenAI) else Stream[object]

    @cached_property
    def with_raw_response(self) -> RawCompletions:
        """The same, returning raw responses, for callers who need the headers."""
        return RawCompletions(self._client, raw=True, path=self._path)

    def create(
        self,
        *,
        extra_headers: Any = None,
        extra_query: Any = None,
        extra_body: Any = None,
        timeout: Any = not_given,
        **body: Any,
    ) -> Any:
        """Send a request; arguments are those of ``client.chat.completions.create``, as JSON data."""
        headers = {**(extra_headers or {}), RAW_RESPONSE_HEADER: "true"} if self._raw else extra_headers
        options = make_request_options(
            extra_headers=headers, extra_query=extra_query, extra_body=extra_body, timeout=timeout
        )
        stream = bool(body.get("stream"))
        return self._client.post(
            self._path,
            body=body,
            options=options,
            cast_to=object,
            stream=stream,
            stream_cls=self._stream_cls if stream else None,
        )
