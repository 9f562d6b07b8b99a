"""Completions, of chats and of texts, as plain dicts, for frameworks that make objects of their own.

Turning a request into the SDK's types and back, and a reply into the SDK's objects and back into dicts, takes
more CPU than everything else that a client does. What is checked and translated is the same either way.
"""

from __future__ import annotations

from typing import Any

from openai import AsyncStream, Stream
from openai._base_client import make_request_options
from openai._constants import RAW_RESPONSE_HEADER
from openai._types import not_given

from vllm_adapters.client import AsyncVLLMClient, VLLMClient


class RawCompletions:
    """What ``client.chat.completions`` is to frameworks: ``create``, also ``with_raw_response``; dicts come out.

    Args:
        client: Of the sync client ``create`` returns a dict or a stream of dicts, of the async one an awaitable.
        raw: Return the SDK's raw response, whose ``parse()`` is the dict or the stream.
        path: ``"/completions"`` for what ``client.completions`` is.
    """

    def __init__(
        self, client: VLLMClient | AsyncVLLMClient, *, raw: bool = False, path: str = "/chat/completions"
    ) -> None:
        self._client = client
        self._raw = raw
        self._path = path

    @property
    def with_raw_response(self) -> RawCompletions:
        """The same, returning raw responses, for those who want the headers."""
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
        post: Any = self._client.post
        return post(
            self._path,
            body=body,
            options=options,
            cast_to=object,
            stream=bool(body.get("stream")),
            stream_cls=Stream[object] if isinstance(self._client, VLLMClient) else AsyncStream[object],
        )
