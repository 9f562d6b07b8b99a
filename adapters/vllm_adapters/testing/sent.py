"""What a test sent to its server, in order: the same object whether the test was replayed or live."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

__all__ = ["Sent", "SentRequest"]


@dataclass(frozen=True)
class SentRequest:
    """One request, as it left the code under test.

    Attributes:
        method: ``GET``, ``POST``, ...
        path: path and query, as on a server mounted at the root: ``/v1/chat/completions``.
        headers: names in lower case; not in the ``repr``, since one of them holds the key.
        body: the bytes of the body, ``b""`` when there was none.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed.

        Raises:
            ValueError: the body is not JSON.
        """
        return json.loads(self.body)


class Sent(Sequence[SentRequest]):
    """The requests of one test, oldest first; it grows while the test runs."""

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
            AssertionError: nothing was sent.
        """
        if not self._requests:
            raise AssertionError("nothing was sent to the server")
        return self._requests[-1]

    def to(self, path: str) -> list[SentRequest]:
        """The requests to ``path`` (query not counted), oldest first."""
        return [request for request in self if request.path.partition("?")[0] == path]

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """The JSON bodies sent to ``path``, oldest first."""
        return [request.json for request in self.to(path)]
