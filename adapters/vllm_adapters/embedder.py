"""``Embedder``: any number of texts, in concurrent batches, in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

from vllm_adapters._client.discovery import Plan, arun_plan, run_plan
from vllm_adapters._client.endpoint import EndpointCall
from vllm_adapters._request.counts import check_count
from vllm_adapters._request.texts import list_of, text_or_ids
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

__all__ = ["Embedder"]

log = logging.getLogger(__name__)

_PROBE = "Hello"
_MAX_SERVER_ERRORS = 3
_SERVER_ERRORS = (
    ServerUnreachable,
    ServerTimeout,
    ServerNotReady,
    WrongAddress,
    ModelNotServed,
    AuthenticationFailed,
    PermissionDenied,
)
"""Errors that do not depend on the texts."""

_Batch: TypeAlias = "tuple[np.ndarray[Any, Any], dict[str, Any]]"
_Batches: TypeAlias = "Plan[EndpointCall[_Batch], _Batch, None]"


@dataclass(frozen=True)
class Embedder:
    """Embeds any number of texts on one server.

    >>> from vllm_adapters import Embedder, VLLMServer
    >>> embedder = Embedder(VLLMServer("http://localhost:8000"), batch_size=3)  # vllm serve an embedding model
    >>> embedder.embed(["one", "two", "three"]).vectors.shape
    (3, 384)

    Args:
        server: The server.
        batch_size: Texts in one request; at least 1.
        max_concurrency: Concurrent requests; at least 1.
        parameters: Of every request, vLLM's own: ``dimensions``, ``truncate_prompt_tokens``, ...

    Raises:
        TypeError: ``batch_size`` or ``max_concurrency`` is not an int.
        ValueError: One of them is below 1.
    """

    server: VLLMServer
    batch_size: int = 256
    max_concurrency: int = 8
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_concurrency"):
            check_count(name, getattr(self, name))

    def embed(self, texts: Sequence[str], *, keep_going: bool = False, progress: str | None = None) -> Embedded:
        """Embed ``texts``.

        Args:
            texts: Any number of texts.
            keep_going: Embed all texts that can be embedded, and report the others in ``failures``. A text that the
                server refuses does not fail its batch. After three errors in a row that do not depend on the texts
                (the server is down, or refuses the key), the remaining texts are not sent and fail with the third.
            progress: Title of a progress bar on standard error; default none.

        Raises:
            VLLMError: A request failed, unless ``keep_going``. Requests that had not begun are not sent.
            InvalidRequest: Also with ``keep_going``: the server refuses any text with these parameters.
        """
        work = _Work(self, texts, keep_going, progress)

        def send_batches() -> None:
            run_plan(work.batches(), lambda call: call.send(self.server.client))

        with work.bar, ThreadPoolExecutor(work.workers, "vllm-embedder") as threads:
            try:
                for done in [threads.submit(copy_context().run, send_batches) for _ in range(work.workers)]:
                    done.result()
            finally:
                work.pending.clear()
        return work.result()

    async def aembed(self, texts: Sequence[str], *, keep_going: bool = False, progress: str | None = None) -> Embedded:
        """Async version of ``embed``."""
        work = _Work(self, texts, keep_going, progress)

        async def send_batches() -> None:
            await arun_plan(work.batches(), lambda call: call.asend(self.server.async_client))

        with work.bar:
            tasks = [asyncio.ensure_future(send_batches()) for _ in range(work.workers)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return work.result()


class _Work:
    """The state that the threads or tasks of one call share: batches to send, and their results."""

    def __init__(self, embedder: Embedder, texts: Sequence[str], keep_going: bool, progress: str | None) -> None:
        from tqdm.auto import tqdm

        if isinstance(texts, str):
            raise TypeError("`texts` must be a sequence of str, not str. Pass [text].")
        texts = list_of(texts, "texts", "str", text_or_ids)
        size = embedder.batch_size
        self.embedder = embedder
        self.texts = texts
        self.keep_going = keep_going
        self.bar = tqdm(total=len(texts), desc=progress, unit="text", disable=progress is None)
        self.pending = deque((at, min(at + size, len(texts))) for at in range(0, len(texts), size))
        self.workers = max(1, min(embedder.max_concurrency, len(self.pending)))
        self.vectors: np.ndarray[Any, Any] | None = None
        self.prompt_tokens = 0
        self.failures: dict[int, VLLMError] = {}
        self.lock = Lock()
        self.server_errors = 0
        self.probed = False

    def batches(self) -> _Batches:
        """Send batches until none is left."""
        while self.pending:
            try:
                start, end = self.pending.popleft()
            except IndexError:  # another thread took the last
                return
            try:
                vectors, usage = yield self.embedder.server._embed(
                    self.texts[start:end], **self.embedder.parameters
                ).with_usage()
                with self.lock:
                    self.server_errors = 0
                    self._add(start, vectors)
                    self.prompt_tokens += usage.get("prompt_tokens") or 0
                    self.bar.update(end - start)
            except VLLMError as error:
                if not self.keep_going:
                    self.pending.clear()
                    raise
                if self._depends_on_texts(error) and end - start > 1:
                    yield from self._probe(error)
                self._add_failure(start, end, error)

    def _probe(self, error: VLLMError) -> _Batches:
        """Raise ``error`` if the server refuses any text: one more request, instead of two for each text."""
        if self.probed or self.vectors is not None or isinstance(error, ContextLengthExceeded):
            return
        self.probed = True
        try:
            yield self.embedder.server._embed([_PROBE], **self.embedder.parameters).with_usage()
        except InvalidRequest:
            self.pending.clear()
            raise error from None
        except VLLMError as other:
            log.debug("The probe failed, so texts are tried one by one: %s", other)

    @staticmethod
    def _depends_on_texts(error: VLLMError) -> bool:
        return isinstance(error, ContextLengthExceeded) or type(error) is InvalidRequest

    def _add(self, start: int, vectors: np.ndarray[Any, Any]) -> None:
        import numpy as np

        if self.vectors is None:
            self.vectors = np.full((len(self.texts), vectors.shape[1]), np.nan, dtype=np.float32)
        if vectors.shape[1] != self.vectors.shape[1]:
            raise InvalidResponse(
                f"The server returned {vectors.shape[1]} dimensions after {self.vectors.shape[1]} in another batch",
                hint="Check whether several servers with different models share the address",
                address=self.embedder.server.base_url,
            )
        self.vectors[start : start + len(vectors)] = vectors

    def _add_failure(self, start: int, end: int, error: VLLMError) -> None:
        # One text may cause a refusal: halving finds it in fewer requests than one for each text.
        if end - start > 1 and self._depends_on_texts(error):
            middle = (start + end) // 2
            self.pending.extend([(start, middle), (middle, end)])
            return
        with self.lock:
            failed = [(start, end)]
            self.server_errors = self.server_errors + 1 if isinstance(error, _SERVER_ERRORS) else 0
            if self.server_errors == _MAX_SERVER_ERRORS:
                with suppress(IndexError):  # other threads take from it meanwhile
                    while True:
                        failed.append(self.pending.popleft())
            for first, last in failed:
                self.failures.update(dict.fromkeys(range(first, last), error))
                self.bar.update(last - first)

    def result(self) -> Embedded:
        import numpy as np

        vectors = np.empty((len(self.texts), 0), dtype=np.float32) if self.vectors is None else self.vectors
        return Embedded(vectors, self.prompt_tokens, dict(sorted(self.failures.items())))
