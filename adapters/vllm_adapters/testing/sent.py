"""The requests that a test sent to its server, in order; the same in replayed and live runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

__all__ = ["Sent", "SentRequest"]


@dataclass(frozen=True)
class SentRequest:
    """One request, as the code under test sent it.

    Attributes:
        method: ``GET``, ``POST``, ...
        path: Path and query, relative to the root of the server: ``/v1/chat/completions``.
        headers: Headers, with names in lower case. They are left out of the ``repr``, since they include the API key.
        body: The body as bytes; ``b""`` if there is none.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body.

        Raises:
            ValueError: The body is not JSON.
        """
        return json.loads(self.body)


class Sent(Sequence[SentRequest]):
    """The requests of one test so far, oldest first."""

    def __init__(self) -> None:
        self._requests: list[SentRequest] = []

    @overload
    def __getitem__(self, index: int) -> SentRequest: ...
    @overload
    def __getitem__(self, index: slice) -> list[SentRequest]: ...
    def __getitem__(self, index: int | slice) -> SentRequest | list[SentRequest]:
        return self._requests[index]

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[SentRequest]:
        return iter(list(self._requests))

    def __repr__(self) -> str:
        return f"Sent({[f'{request.method} {request.path}' for request in self]})"

    def add(self, request: SentRequest) -> None:
        """Append one request; called by the plugin."""
        self._requests.append(request)

    @property
    def last(self) -> SentRequest:
        """The newest request.

        Raises:
            AssertionError: No request was sent.
        """
        if not self._requests:
            raise AssertionError("No request was sent to the server")
        return self._requests[-1]

    def to(self, path: str) -> list[SentRequest]:
        """Return the requests to ``path``, with any query, oldest first."""
        return [request for request in self if request.path.partition("?")[0] == path]

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """Return the JSON bodies of the requests to ``path``, oldest first."""
        return [request.json for request in self.to(path)]
