"""The course of a bulk job, without I/O: what to send next, how many at once, what to try again, and when to stop."""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from vllm_adapters._request.body import SEND_OPTIONS, request_body
from vllm_adapters.bulk._file import ResultFile, digest
from vllm_adapters.bulk.types import BulkProgress, BulkResult
from vllm_adapters.errors import (
    AuthenticationFailed,
    ModelNotServed,
    PermissionDenied,
    RateLimited,
    ServerFailed,
    ServerNotReady,
    ServerTimeout,
    ServerUnreachable,
    VLLMError,
    WrongAddress,
)

_FIRST_CONCURRENCY = 8
_WINDOW = 4
"""Items between the oldest that is not done and the newest that was sent, in multiples of ``max_concurrency``."""
_FIRST_PATIENCE = 10.0
"""Seconds for a server that cannot be reached at all: its address may be wrong."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_ENDS_JOB = (AuthenticationFailed, ModelNotServed, WrongAddress)
"""Errors of every item alike."""
_TRANSIENT = (ServerFailed, ServerTimeout, ServerUnreachable, RateLimited, ServerNotReady, PermissionDenied)
"""Errors that an item need not have in the next run: they are not written to the file."""


@dataclass(order=True)
class Task:
    """One item on its way.

    Args:
        not_before: When it may be sent (again).
        index: Its position.
        body: The arguments of ``RawCompletions.create``.
        key: The digest of what is sent.
        id: The item's own id.
        attempts: How often it failed.
        sent_at: When it was sent last.
    """

    not_before: float
    index: int
    body: dict[str, Any]
    key: str
    id: str | int | None = None
    attempts: int = 0
    sent_at: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How the request of a task ended."""

    task: Task
    reply: Mapping[str, Any] | None = None
    error: BaseException | None = None


@dataclass(frozen=True)
class Pull:
    """Step: give the next item, or ``NO_MORE``."""


@dataclass(frozen=True)
class Send:
    """Step: send a task; its outcome comes from a later ``Wait``."""

    task: Task


@dataclass(frozen=True)
class Wait:
    """Step: give the next outcome, or ``None`` after so many seconds; ``None``: without a limit."""

    seconds: float | None


NO_MORE = object()
Steps: TypeAlias = "Generator[Pull | Send | Wait | BulkResult, Any, None]"
"""Steps for a sync or an async driver; a ``BulkResult`` is for the caller."""


class Job:
    """One run of a bulk job.

    Args:
        parameters: Of every request.
        max_concurrency: Requests at once, at most.
        max_attempts: Attempts of one item.
        patience: Seconds without any reply from a server that is overloaded or down.
        in_order: Whether results come in the order of the items.
        file: Where results are kept.
        total: The number of items, if it is known.
        report: Called after each result.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        *,
        max_concurrency: int,
        max_attempts: int,
        patience: float,
        in_order: bool,
        file: ResultFile | None,
        total: int | None,
        report: Callable[[BulkProgress], None],
    ) -> None:
        self._parameters = parameters
        self._max_concurrency = max_concurrency
        self._max_attempts = max_attempts
        self._patience = patience
        self._in_order = in_order
        self._file = file
        self._report = report
        self._limit = float(min(_FIRST_CONCURRENCY, max_concurrency))
        self._slow_start = True
        self._reduced_at = 0.0
        self._hold_until = 0.0
        self._troubled_since: float | None = None
        self._troubles = 0
        self._replied = False
        self._pulled = 0
        self._more = True
        self._in_flight = 0
        self._again: list[Task] = []
        self._unordered: dict[int, BulkResult] = {}
        self._next = 0
        self._ready: deque[BulkResult] = deque()
        self.progress = BulkProgress(total=total, concurrency=int(self._limit))
        self._steps = self._course()
        if file is not None and total is not None:
            file.check_size(total)

    def take(self, answer: Any) -> Pull | Send | Wait | BulkResult | None:
        """Answer the last step, and return the next; ``None`` at the end of the job.

        Args:
            answer: What the step asked for; ``None`` for the first, a result and a ``Send``.

        Raises:
            VLLMError: The job cannot go on.
            TypeError: An item is of another type.
            ValueError: The file is of another job.
        """
        try:
            return self._steps.send(answer)
        except StopIteration:
            return None

    def _course(self) -> Steps:
        while True:
            while self._ready:
                yield self._ready.popleft()
            now = time.monotonic()
            task = self._next_again(now)
            if task is None and self._may_pull(now):
                item = yield Pull()
                if item is NO_MORE:
                    self._more = False
                    if self._file is not None:
                        self._file.check_size(self._pulled)
                    continue
                task = self._accept(item)
                if task is None:
                    continue
            if task is not None:
                self._in_flight += 1
                task.sent_at = now
                yield Send(task)
            elif self._in_flight or self._again:
                outcome = yield Wait(self._seconds_to_wait(now))
                if outcome is not None:
                    self._settle(outcome)
            elif not self._more:
                return

    def _next_again(self, now: float) -> Task | None:
        if self._again and self._again[0].not_before <= now and self._has_room(now):
            return heapq.heappop(self._again)
        return None

    def _has_room(self, now: float) -> bool:
        return self._in_flight < int(self._limit) and now >= self._hold_until

    def _may_pull(self, now: float) -> bool:
        if not self._more or not self._has_room(now):
            return False
        waiting = self._pulled - self._next if self._in_order else self._in_flight + len(self._again)
        return waiting < _WINDOW * self._max_concurrency

    def _seconds_to_wait(self, now: float) -> float | None:
        if not self._again:
            held = self._hold_until - now
            return held if held > 0 and self._more else None
        return max(0.001, self._again[0].not_before - now, self._hold_until - now) if self._free() else None

    def _free(self) -> bool:
        return self._in_flight < int(self._limit)

    def _accept(self, item: object) -> Task | None:
        """Return the task of an item; ``None`` if it was done in an earlier run."""
        index = self._pulled
        self._pulled += 1
        name, own = _normalized(item, index)
        body = request_body(self._parameters, own)
        body["stream"] = False
        key = digest({k: v for k, v in own.items() if k not in SEND_OPTIONS} | {"id": name})
        if self._file is not None and index in self._file:
            self._give(self._file.result(index, key))
            return None
        return Task(0.0, index, body, key, name)

    def _settle(self, outcome: Outcome) -> None:
        task, error = outcome.task, outcome.error
        self._in_flight -= 1
        now = time.monotonic()
        if error is None:
            self._note_success()
            self._finish(task, BulkResult(task.index, task.id, outcome.reply))
        elif not isinstance(error, VLLMError) or self._ends(error):
            raise error
        elif _is_of_the_server(error):
            self._slow_down(task, error, now)
            self._retry(task, self._hold_until)
        elif isinstance(error, ServerFailed | ServerTimeout) and task.attempts + 1 < self._max_attempts:
            task.attempts += 1
            self._retry(task, now + _backoff(task.attempts))
        else:
            self._finish(task, BulkResult(task.index, task.id, error=error))

    def _ends(self, error: VLLMError) -> bool:
        """Return whether no other item would do better."""
        nothing_permitted = isinstance(error, PermissionDenied) and not self.progress.succeeded
        return nothing_permitted or isinstance(error, _ENDS_JOB)

    def _note_success(self) -> None:
        self._troubled_since, self._troubles, self._replied = None, 0, True
        step = 1.0 if self._slow_start else 1.0 / self._limit
        self._limit = min(float(self._max_concurrency), self._limit + step)

    def _slow_down(self, task: Task, error: VLLMError, now: float) -> None:
        """Send half as many at once, and none for a while.

        Raises:
            VLLMError: The server has not replied to anything for too long.
        """
        if self._troubled_since is None:
            self._troubled_since = now
        wait = getattr(error, "retry_after", None)
        if task.sent_at >= self._reduced_at or wait:  # others of the same moment say the same
            if task.sent_at >= self._reduced_at:
                self._limit = max(1.0, self._limit / 2)
                self._slow_start = False
                self._reduced_at = now
                self._troubles += 1
            if wait is None:
                wait = _backoff(self._troubles)
            self._hold_until = max(self._hold_until, now + wait * (1 + 0.1 * random.random()))  # noqa: S311
        if max(now, self._hold_until) - self._troubled_since > self._patience_with(error):
            raise error

    def _patience_with(self, error: VLLMError) -> float:
        wrong_address = not self._replied and isinstance(error, ServerUnreachable | ServerTimeout)
        return min(self._patience, _FIRST_PATIENCE) if wrong_address else self._patience

    def _retry(self, task: Task, not_before: float) -> None:
        task.not_before = not_before
        heapq.heappush(self._again, task)

    def _finish(self, task: Task, result: BulkResult) -> None:
        if self._file is not None and not isinstance(result.error, _TRANSIENT):
            self._file.add(result, task.key)
        self._give(result)

    def _give(self, result: BulkResult) -> None:
        succeeded, failed, resumed = self.progress.succeeded, self.progress.failed, self.progress.resumed
        self.progress = replace(
            self.progress,
            succeeded=succeeded + (result.error is None),
            failed=failed + (result.error is not None),
            resumed=resumed + result.resumed,
            in_flight=self._in_flight,
            concurrency=int(self._limit),
        )
        self._report(self.progress)
        if not self._in_order:
            self._ready.append(result)
            return
        self._unordered[result.index] = result
        while (due := self._unordered.pop(self._next, None)) is not None:
            self._ready.append(due)
            self._next += 1


def _is_of_the_server(error: VLLMError) -> bool:
    """Return whether the server is overloaded, is loading, or cannot be reached: sending less, or later, helps."""
    if isinstance(error, ServerTimeout):
        return error.kind in ("connect", "pool")
    if isinstance(error, ServerFailed):
        return bool(error.status_code == 502)  # of a gateway: its servers are down
    return isinstance(error, RateLimited | ServerNotReady | ServerUnreachable)


def _backoff(attempt: int) -> float:
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (attempt - 1))


def _normalized(item: object, index: int) -> tuple[str | int | None, dict[str, Any]]:
    """Return the id and the parameters of an item."""
    if isinstance(item, str):
        return None, {"messages": [{"role": "user", "content": item}]}
    if isinstance(item, Mapping):
        own = {name: value for name, value in item.items() if name not in ("id", "prompt")}
        name = item.get("id")
        if not isinstance(name, str | int | None) or isinstance(name, bool):
            raise TypeError(f"The id of item {index} must be a str or an int, not {type(name).__name__}.")
        if ("prompt" in item) == ("messages" in item):
            raise ValueError(f"Item {index} must have either `prompt` or `messages`.")
        if "prompt" in item:
            own["messages"] = [{"role": "user", "content": item["prompt"]}]
        if "stream" in own:
            raise ValueError(f"Item {index} must not set `stream`: bulk results are whole. Remove it.")
        return name, own
    if isinstance(item, list | tuple) and item and all(isinstance(message, Mapping) for message in item):
        return None, {"messages": list(item)}
    raise TypeError(
        f"Item {index} must be a prompt, a list of messages, or a dict with `prompt` or `messages`, "
        f"not {type(item).__name__}."
    )
