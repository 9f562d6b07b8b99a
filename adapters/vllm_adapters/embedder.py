"""Embeds any number of texts: in batches, several at a time, in the order they were given."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

from vllm_adapters._client.endpoint import EndpointCall
from vllm_adapters.errors import (
    AuthenticationFailed,
    ContextLengthExceeded,
    InvalidRequest,
    InvalidResponse,
    ModelNotServed,
    PermissionDenied,
    ServerNotReady,
    ServerTimeout,
    ServerUnreachable,
    VLLMError,
    WrongAddress,
)
from vllm_adapters.server import VLLMServer
from vllm_adapters.types import Embedded

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("vllm_adapters")

_HARMLESS = "Hello"
_ENOUGH = 3
_OF_NO_TEXT = (
    ServerUnreachable,
    ServerTimeout,
    ServerNotReady,
    WrongAddress,
    ModelNotServed,
    AuthenticationFailed,
    PermissionDenied,
)

_Answer: TypeAlias = "tuple[np.ndarray[Any, Any], dict[str, Any]]"
_Steps: TypeAlias = Generator[EndpointCall[_Answer], _Answer, None]


@dataclass(frozen=True)
class Embedder:
    """Embeds any number of texts on one server.

    >>> from vllm_adapters import VLLMServer
    >>> from vllm_adapters.embedder import Embedder
    >>> embedder = Embedder(VLLMServer("http://localhost:8000"), batch_size=3)  # vllm serve an embedding model
    >>> embedder.embed(["one", "two", "three"]).vectors.shape
    (3, 384)

    Args:
        server: The server.
        batch_size: Texts in one request; at least 1.
        max_concurrency: Requests under way at once; at least 1.
        parameters: Of every request, vLLM's own: ``dimensions``, ``truncate_prompt_tokens``, ...

    Raises:
        ValueError: ``batch_size`` or ``max_concurrency`` is below 1.
    """

    server: VLLMServer
    batch_size: int = 64
    max_concurrency: int = 8
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_concurrency < 1:
            raise ValueError("batch_size and max_concurrency must be at least 1")

    def embed(self, texts: Sequence[str], *, keep_going: bool = False, progress: str | None = None) -> Embedded:
        """The vectors of ``texts``.

        Args:
            texts: Any number of texts.
            keep_going: Embed all that can be, and report the others in ``failures``. A text that the server
                refuses does not take its batch with it. When the server cannot be asked three times in a row (it is
                not there, or refuses the key), what is left is not sent and fails like the third.
            progress: Title of a progress bar on standard error; default none.

        Raises:
            VLLMError: A request failed, unless ``keep_going``. Requests that had not begun are not sent.
            InvalidRequest: With ``keep_going``, too: the server refuses whatever it is asked to embed like this.
        """
        work = _Work(self, texts, keep_going, progress)
        with work.bar, ThreadPoolExecutor(work.helpers, "vllm-embedding") as threads:
            try:
                for done in [threads.submit(copy_context().run, self._run, work.steps()) for _ in range(work.helpers)]:
                    done.result()
            finally:
                work.pending.clear()
        return work.result()

    async def aembed(self, texts: Sequence[str], *, keep_going: bool = False, progress: str | None = None) -> Embedded:
        """``embed``, to await."""
        work = _Work(self, texts, keep_going, progress)
        with work.bar:
            tasks = [asyncio.ensure_future(self._arun(work.steps())) for _ in range(work.helpers)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return work.result()

    def _run(self, steps: _Steps) -> None:
        try:
            ask = next(steps)
            while True:
                try:
                    answer = ask.send(self.server.client)
                except VLLMError as error:
                    ask = steps.throw(error)
                else:
                    ask = steps.send(answer)
        except StopIteration:
            return

    async def _arun(self, steps: _Steps) -> None:
        try:
            ask = next(steps)
            while True:
                try:
                    answer = await ask.asend(self.server.async_client)
                except VLLMError as error:
                    ask = steps.throw(error)
                else:
                    ask = steps.send(answer)
        except StopIteration:
            return


class _Work:
    """What the threads or tasks of one call share: the batches still to send, and what has come back."""

    def __init__(self, embedder: Embedder, texts: Sequence[str], keep_going: bool, progress: str | None) -> None:
        from tqdm.auto import tqdm

        if isinstance(texts, str):
            raise TypeError("texts is one str: give a list of them")
        size = embedder.batch_size
        self.embedder = embedder
        self.texts = texts
        self.keep_going = keep_going
        self.bar = tqdm(total=len(texts), desc=progress, unit="text", disable=progress is None)
        self.pending = deque((at, min(at + size, len(texts))) for at in range(0, len(texts), size))
        self.helpers = max(1, min(embedder.max_concurrency, len(self.pending)))
        self.vectors: np.ndarray[Any, Any] | None = None
        self.prompt_tokens = 0
        self.failures: dict[int, VLLMError] = {}
        self.arriving = Lock()
        self.in_a_row = 0
        self.probed = False

    def steps(self) -> _Steps:
        """Batch after batch, until none is left."""
        while self.pending:
            try:
                start, end = self.pending.popleft()
            except IndexError:  # another thread took the last
                return
            try:
                vectors, usage = yield self.embedder.server._embed(
                    self.texts[start:end], **self.embedder.parameters
                ).with_usage()
                with self.arriving:
                    self.in_a_row = 0
                    self._keep(start, vectors)
                    self.prompt_tokens += usage.get("prompt_tokens") or 0
                    self.bar.update(end - start)
            except VLLMError as error:
                if not self.keep_going:
                    self.pending.clear()
                    raise
                if self._is_of_texts(error) and end - start > 1:
                    yield from self._probe(error)
                self._failed(start, end, error)

    def _probe(self, error: VLLMError) -> _Steps:
        """Raise ``error`` if the server refuses any text: one request more, not two for each text."""
        if self.probed or self.vectors is not None or isinstance(error, ContextLengthExceeded):
            return
        self.probed = True
        try:
            yield self.embedder.server._embed([_HARMLESS], **self.embedder.parameters).with_usage()
        except InvalidRequest:
            self.pending.clear()
            raise error from None
        except VLLMError as other:
            log.debug("Whether any text is refused cannot be told: %s", other)

    @staticmethod
    def _is_of_texts(error: VLLMError) -> bool:
        return isinstance(error, ContextLengthExceeded) or type(error) is InvalidRequest

    def _keep(self, start: int, vectors: np.ndarray[Any, Any]) -> None:
        import numpy as np

        if self.vectors is None:
            self.vectors = np.full((len(self.texts), vectors.shape[1]), np.nan, dtype=np.float32)
        if vectors.shape[1] != self.vectors.shape[1]:
            raise InvalidResponse(
                f"Vectors of {vectors.shape[1]} dimensions after vectors of {self.vectors.shape[1]}",
                hint="Is there more than one server behind the address, with different models?",
                address=self.embedder.server.base_url,
            )
        self.vectors[start : start + len(vectors)] = vectors

    def _failed(self, start: int, end: int, error: VLLMError) -> None:
        # One text may be at fault for a refusal: halves find it in fewer requests than one for each text.
        if end - start > 1 and self._is_of_texts(error):
            middle = (start + end) // 2
            self.pending.extend([(start, middle), (middle, end)])
            return
        with self.arriving:
            failed = [(start, end)]
            self.in_a_row = self.in_a_row + 1 if isinstance(error, _OF_NO_TEXT) else 0
            if self.in_a_row == _ENOUGH:
                with suppress(IndexError):  # others take from it meanwhile
                    while True:
                        failed.append(self.pending.popleft())
            for first, last in failed:
                self.failures.update(dict.fromkeys(range(first, last), error))
                self.bar.update(last - first)

    def result(self) -> Embedded:
        import numpy as np

        vectors = np.empty((len(self.texts), 0), dtype=np.float32) if self.vectors is None else self.vectors
        return Embedded(vectors, self.prompt_tokens, dict(sorted(self.failures.items())))
