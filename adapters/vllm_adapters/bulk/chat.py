"""``BulkChat``: any number of chat completions, on one server or on the replicas behind one address."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Sized,
)
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Self, TypeAlias, TypeVar

from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters._request import compat
from vllm_adapters._request.body import SEND_OPTIONS, request_body
from vllm_adapters._request.counts import check_count
from vllm_adapters.bulk._file import ResultFile, digest
from vllm_adapters.bulk._job import NO_MORE, Job, Outcome, Pull, Send, Task
from vllm_adapters.bulk.types import BulkProgress, BulkResult
from vllm_adapters.server import VLLMServer

__all__ = ["BulkChat"]

Item: TypeAlias = "str | Sequence[Mapping[str, Any]] | Mapping[str, Any]"
Progress: TypeAlias = "str | Callable[[BulkProgress], None] | None"
Path: TypeAlias = "str | os.PathLike[str] | None"
R = TypeVar("R")


@dataclass(frozen=True)
class BulkChat:
    """Answers any number of prompts, concurrently and in constant memory.

    >>> from vllm_adapters import VLLMServer
    >>> from vllm_adapters.bulk import BulkChat
    >>> bulk = BulkChat(VLLMServer("http://localhost:8000"), parameters={"max_tokens": 20})  # vllm serve MODEL
    >>> for result in bulk.run(f"What is the capital of {country}?" for country in ("France", "Japan")):
    ...     print(result.index, result.text.strip())
    0 The capital of France is Paris.
    1 The capital of Japan is Tokyo.

    An item is a prompt, a list of messages, or a dict with ``prompt`` or ``messages``, with the parameters of this item
    beside it, and with an ``id`` that comes back with its result.

    The number of requests at once grows to ``max_concurrency`` and is halved when the server is overloaded. While it is
    overloaded (429, 503), loading or down, items wait and are sent again, also after ``Retry-After``; no other item is
    lost or sent twice for it. An item that the server refuses, or that fails ``max_attempts`` times, is a result with
    an ``error``; the others go on.

    Args:
        server: The server, or a router in front of several.
        max_concurrency: Requests at once, at most; at least 1.
        parameters: Of every request, under vLLM's own names.
        max_attempts: Attempts of an item whose requests fail with a 5xx or a time limit; at least 1.
        patience: Seconds without any reply after which a server that is overloaded or down ends the job; at most 10 at
            the start, if the server cannot be reached at all.

    Raises:
        TypeError: A number is of another type.
        ValueError: A number is too small, or ``parameters`` has ``messages`` or ``stream``.
        UnknownParameter: No version of vLLM has a parameter of this name.
        InvalidRequest: A parameter's value is invalid.
    """

    server: VLLMServer
    max_concurrency: int = 64
    parameters: Mapping[str, Any] = field(default_factory=dict)
    max_attempts: int = 6
    patience: float = 600.0

    def __post_init__(self) -> None:
        for name in ("max_concurrency", "max_attempts"):
            check_count(name, getattr(self, name))
        if isinstance(self.patience, bool) or not isinstance(self.patience, int | float):
            raise TypeError(f"`patience` must be a number, not {type(self.patience).__name__}. Pass seconds.")
        for name in ("messages", "stream"):
            if name in self.parameters:
                raise ValueError(f"`parameters` must not have `{name}`. Pass the messages of each item to run().")
        compat.reject_unknown("chat", {k: v for k, v in self.parameters.items() if k not in SEND_OPTIONS})
        request_body(self.parameters)

    def run(
        self, items: Iterable[Item], *, file: Path = None, in_order: bool = True, progress: Progress = None
    ) -> Iterator[BulkResult]:
        """Yield the result of each item, once.

        Requests are sent while the results are read. Leaving the loop cancels those that are under way, and vLLM stops
        working on them.

        Args:
            items: Any number of items; a generator is read as requests are sent.
            file: A JSONL file in which each result is kept as soon as it arrives. A job that was interrupted, by
                whatever, is resumed by the same call: results that the file has are read from it, the others are
                requested. Items that failed for a reason of the server's (5xx, a time limit) are requested again.
            in_order: Yield results in the order of the items; else as they arrive. At most ``4 * max_concurrency``
                results wait for an earlier one.
            progress: The title of a progress bar on standard error, or a function that is called after each result.

        Raises:
            ValueError: The file is of another job (other parameters, model or items), or in use by another process.
            TypeError: An item is of another type.
            VLLMError: The job cannot go on: the server rejects the key, does not serve the model, or has not replied
                for ``patience`` seconds. It can be resumed from the file.
        """
        _check_items(items, Iterable)
        clients = self.server._clients
        if clients.options["http_client"] is not None and clients._async_http_client is None:
            raise ValueError("Bulk jobs send with the async client. Give the server an `async_http_client`, too.")
        return self._run(items, file, in_order, progress)

    def _run(self, items: Iterable[Item], file: Path, in_order: bool, progress: Progress) -> Iterator[BulkResult]:
        source = iter(items)
        with _EventLoopThread(self.server) as loop:
            model = loop.model() if file is not None else ""
            with self._job(items, file, model, in_order, progress) as job:
                answer: Any = None
                while (step := job.take(answer)) is not None:
                    answer = None
                    if isinstance(step, BulkResult):
                        yield step
                    elif isinstance(step, Pull):
                        answer = next(source, NO_MORE)
                    elif isinstance(step, Send):
                        loop.send(step.task)
                    else:
                        answer = loop.outcome(step.seconds)

    def arun(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        file: Path = None,
        in_order: bool = True,
        progress: Progress = None,
    ) -> AsyncGenerator[BulkResult]:
        """Async version of ``run``; ``items`` may be an async generator.

        Use ``contextlib.aclosing`` around it if the loop may be left early.
        """
        _check_items(items, (Iterable, AsyncIterable))
        return self._arun(items, file, in_order, progress)

    async def _arun(
        self, items: Iterable[Item] | AsyncIterable[Item], file: Path, in_order: bool, progress: Progress
    ) -> AsyncGenerator[BulkResult]:
        pull = _puller(items)
        requests = _Requests(self.server)
        outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        model = await requests.model() if file is not None else ""
        try:
            with self._job(items, file, model, in_order, progress) as job:
                answer: Any = None
                while (step := job.take(answer)) is not None:
                    answer = None
                    if isinstance(step, BulkResult):
                        yield step
                    elif isinstance(step, Pull):
                        answer = await pull()
                    elif isinstance(step, Send):
                        requests.start(step.task, outcomes.put_nowait)
                    else:
                        with suppress(TimeoutError):
                            answer = await asyncio.wait_for(outcomes.get(), step.seconds)
        finally:
            await requests.cancel()

    @contextmanager
    def _job(self, items: object, file: Path, model: str, in_order: bool, progress: Progress) -> Iterator[Job]:
        total = len(items) if isinstance(items, Sized) else None
        identity = {name: value for name, value in request_body(self.parameters).items() if name not in SEND_OPTIONS}
        with ExitStack() as stack:
            kept = None
            if file is not None:
                kept = ResultFile(file, parameters=digest(identity), model=model)
                stack.callback(kept.close)
            report = stack.enter_context(_reporter(progress, total))
            yield Job(
                {"model": self.server.model or "", **self.parameters},
                max_concurrency=self.max_concurrency,
                max_attempts=self.max_attempts,
                patience=self.patience,
                in_order=in_order,
                file=kept,
                total=total,
                report=report,
            )


class _Requests:
    """The requests under way in one event loop; the job decides on retries, so the client makes none."""

    def __init__(self, server: VLLMServer) -> None:
        self._server = server
        self._client = server.async_client.with_options(max_retries=0)
        self._completions = RawCompletions(self._client)
        self._tasks: set[asyncio.Task[None]] = set()

    async def model(self) -> str:
        """Return the served model's name."""
        return self._server.model or await self._server.async_client.vllm.served_model()

    def start(self, task: Task, done: Callable[[Outcome], None]) -> None:
        """Send the request of ``task`` in the background."""
        sending = asyncio.ensure_future(self._send(task, done))
        self._tasks.add(sending)
        sending.add_done_callback(self._tasks.discard)

    async def _send(self, task: Task, done: Callable[[Outcome], None]) -> None:
        try:
            outcome = Outcome(task, await self._completions.create(**task.body))
        except Exception as error:  # the job raises what is no error of the server
            outcome = Outcome(task, error=error)
        done(outcome)

    async def cancel(self) -> None:
        """Cancel what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _EventLoopThread:
    """An event loop in a thread: requests go on while the caller works, and can be cancelled."""

    def __init__(self, server: VLLMServer) -> None:
        self._requests = _Requests(server)
        self._outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm-bulk", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._wait_for(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        await self._requests.cancel()
        await self._requests._client.close()
        await self._loop.shutdown_asyncgens()

    def _wait_for(self, work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def model(self) -> str:
        """Return the served model's name."""
        return self._wait_for(self._requests.model())

    def send(self, task: Task) -> None:
        """Send the request of ``task``, in the caller's context."""
        start = partial(self._requests.start, task, self._outcomes.put)
        self._loop.call_soon_threadsafe(start, context=copy_context())

    def outcome(self, seconds: float | None) -> Outcome | None:
        """Return the next outcome; ``None`` if there is none within ``seconds``."""
        try:
            return self._outcomes.get(timeout=seconds)
        except Empty:
            return None


def _check_items(items: object, kinds: Any) -> None:
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, kinds):
        raise TypeError(f"`items` must be an iterable of prompts or messages, not {type(items).__name__}.")


def _puller(items: Iterable[Item] | AsyncIterable[Item]) -> Callable[[], Awaitable[object]]:
    if isinstance(items, AsyncIterable):
        asource = aiter(items)

        async def apull() -> object:
            return await anext(asource, NO_MORE)

        return apull
    source = iter(items)

    async def pull() -> object:
        return next(source, NO_MORE)

    return pull


@contextmanager
def _reporter(progress: Progress, total: int | None) -> Iterator[Callable[[BulkProgress], None]]:
    if callable(progress):
        yield progress
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=progress, unit="item", disable=progress is None) as bar:

        def report(at: BulkProgress) -> None:
            bar.set_postfix(failed=at.failed, at_once=at.concurrency, refresh=False)
            bar.update()

        yield report if progress is not None else _no_report


def _no_report(at: BulkProgress) -> None:
    pass
