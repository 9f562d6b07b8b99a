"""One request and what reads its reply, sent in four ways: whole or streamed, sync or async."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters.client import AsyncVLLMClient, VLLMClient

R = TypeVar("R")
S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)


class Reader(Protocol[R_co]):
    """Reads one reply."""

    def whole(self, reply: Mapping[str, Any], /) -> R_co:
        """A reply that was not streamed."""

    def chunk(self, chunk: Mapping[str, Any], /) -> R_co:
        """The reply so far, after one more chunk of its stream."""


@dataclass(frozen=True)
class Request(Generic[R]):
    """One request.

    Args:
        path: ``/chat/completions`` or ``/completions``.
        body: Parameters, messages or prompt.
        reader: Makes what reads its reply.
    """

    path: str
    body: dict[str, Any]
    reader: Callable[[], Reader[R]]

    def then(self, convert: Callable[[R], S]) -> Request[S]:
        """The same, with each response converted."""
        return Request(self.path, self.body, lambda: _Converted(self.reader(), convert))


@dataclass(frozen=True)
class _Converted(Generic[R, S]):
    reader: Reader[R]
    convert: Callable[[R], S]

    def whole(self, reply: Mapping[str, Any], /) -> S:
        return self.convert(self.reader.whole(reply))

    def chunk(self, chunk: Mapping[str, Any], /) -> S:
        return self.convert(self.reader.chunk(chunk))


def send(client: VLLMClient, request: Request[R]) -> R:
    """Send it, and read the reply."""
    return request.reader().whole(RawCompletions(client, path=request.path).create(**request.body))


async def asend(client: AsyncVLLMClient, request: Request[R]) -> R:
    """``send``, to await."""
    return request.reader().whole(await RawCompletions(client, path=request.path).create(**request.body))


def stream(client: VLLMClient, request: Request[R]) -> Generator[R, None, None]:
    """Send it, and read the reply chunk by chunk; leaving early closes the connection."""
    reader = request.reader()
    with RawCompletions(client, path=request.path).create(**request.body) as chunks:
        for chunk in chunks:
            yield reader.chunk(chunk)


async def astream(client: AsyncVLLMClient, request: Request[R]) -> AsyncGenerator[R, None]:
    """``stream``, to await."""
    reader = request.reader()
    async with await RawCompletions(client, path=request.path).create(**request.body) as chunks:
        async for chunk in chunks:
            yield reader.chunk(chunk)
