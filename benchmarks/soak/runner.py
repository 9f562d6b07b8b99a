"""Makes calls in threads, in a series of short event loops, and in one long-lived event loop, all at the same time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from itertools import islice
from random import Random
from types import SimpleNamespace
from typing import Any

from soak.expected import Expected
from soak.paths import Cancelled, Path
from vllm_adapters import VLLMError, errors

THREADS, TASKS = 6, 8
IDLE = 6  # seconds until idle connections in a pool have expired

Call = tuple[Path, Any]
"""A path and its argument."""


@dataclass
class Tally:
    """The outcomes of the calls.

    Attributes:
        outcomes: Number of calls by path and outcome: ``correct``, ``cancelled``, ``wrong``, ``foreign error``,
            ``hung``, or the name of the error.
        longest: Duration of each path's longest call, in seconds.
        failures: A message for each failed call.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    longest: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, path: Path, outcome: str, seconds: float, failure: str = "") -> None:
        """Add one call."""
        self.outcomes[path.name, outcome] += 1
        self.longest[path.name] = max(seconds, self.longest.get(path.name, 0))
        if failure:
            self.failures.append(f"{path.name}, {outcome} after {seconds:.1f} s: {failure}")

    @property
    def by_outcome(self) -> Counter[str]:
        """Number of calls by outcome."""
        total: Counter[str] = Counter()
        for (_, outcome), count in self.outcomes.items():
            total[outcome] += count
        return total


class Soak:
    """Makes many calls and counts their outcomes. A context manager, for its long-lived event loop.

    Args:
        paths: The paths, chosen at random.
        expected: The expected answers.
        limit: Seconds within which every call must be complete.
        seed: Seed of the paths and arguments; the order of the answers depends on the servers.

    Attributes:
        tally: The outcomes of the calls.
        settling: Number of calls of ``settle``.
    """

    def __init__(self, paths: Sequence[Path], expected: Expected, limit: float, seed: int = 0) -> None:
        self._paths = {coroutine: [p for p in paths if _is_async(p) == coroutine] for coroutine in (False, True)}
        self._expected, self._limit, self._random = expected, limit, Random(seed)
        self._until = 0.0
        self._lock = threading.Lock()
        self._running: dict[int, tuple[Path, float]] = {}
        self._loop = asyncio.new_event_loop()
        self._loop_thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.tally = Tally()
        self.settling = len(self._paths[False]) + 2 * len(self._paths[True])

    def __enter__(self) -> Soak:
        self._loop_thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop_thread.join(1)
        if not self._loop_thread.is_alive():  # otherwise a hanging call blocks it; it has been reported
            self._loop.close()

    def run(self, calls: int, until: float, tick: Callable[[], None]) -> None:
        """Make calls in all places at the same time.

        Args:
            calls: Number of calls.
            until: ``time.monotonic()`` after which no call is started, in seconds.
            tick: Called several times a second.

        Raises:
            TimeoutError: A call is still running after twice its limit.
        """
        self._until = until
        sync = calls * len(self._paths[False]) // sum(map(len, self._paths.values()))
        for_threads, for_loops = self._draw(False, sync), self._draw(True, (calls - sync) // 3)
        for_long_loop = self._draw(True, calls - len(for_threads) - len(for_loops))
        places = [lambda: self._in_thread(self._shared(for_threads)) for _ in range(THREADS)]
        places.append(lambda: self._in_loops(self._shared(for_loops)))
        places.append(lambda: self._in_long_loop([self._shared(for_long_loop) for _ in range(TASKS)]))
        self._all(places, tick)

    def settle(self, tick: Callable[[], None]) -> None:
        """Make one call per path in each place, one after the other, after all idle connections have expired."""
        time.sleep(IDLE)
        self._all([lambda: self._in_long_loop([self._each_once(True)])], tick)
        # Last, because resources of a closed loop are released when the next loop starts.
        in_a_loop = self._each_once(True)
        self._all(
            [lambda: self._in_thread(self._each_once(False)), lambda: asyncio.run(self._in_order(in_a_loop))], tick
        )

    def _all(self, places: Iterable[Callable[[], None]], tick: Callable[[], None]) -> None:
        threads = [threading.Thread(target=place, daemon=True) for place in places]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.1)
            tick()
            with self._lock:
                late = [(path, time.monotonic() - began) for path, began in self._running.values()]
            late = [(path, seconds) for path, seconds in late if seconds > 2 * self._limit]
            for path, seconds in late:
                self.tally.add(path, "hung", seconds, "still running")
            if late:
                raise TimeoutError(f"{len(late)} calls hang")

    def _draw(self, coroutines: bool, count: int) -> deque[Call]:
        paths = self._random.choices(self._paths[coroutines], k=count)
        return deque((path, self._expected.draw(path.task, self._random)) for path in paths)

    def _shared(self, calls: deque[Call]) -> Iterator[Call]:
        """Yield calls from a queue that several places share, until it is empty or the time is over."""
        while time.monotonic() < self._until:
            try:
                yield calls.popleft()
            except IndexError:
                return

    def _each_once(self, coroutines: bool) -> list[Call]:
        same = Random(0)  # the same every time, because more texts need more connections
        return [(path, self._expected.draw(path.task, same)) for path in self._paths[coroutines]]

    def _in_thread(self, calls: Iterable[Call]) -> None:
        for path, argument in calls:
            with self._record(path, argument) as result:
                result.answer = path.call(argument)

    async def _in_order(self, calls: Iterable[Call]) -> None:
        for path, argument in calls:
            with self._record(path, argument) as result:
                result.answer = await path.call(argument)

    async def _concurrently(self, each: Iterable[Iterable[Call]]) -> None:
        await asyncio.gather(*map(self._in_order, each))

    def _in_loops(self, calls: Iterator[Call]) -> None:
        while some := [[call] for call in islice(calls, TASKS)]:
            asyncio.run(self._concurrently(some))

    def _in_long_loop(self, each: Iterable[Iterable[Call]]) -> None:
        asyncio.run_coroutine_threadsafe(self._concurrently(each), self._loop).result()

    @contextmanager
    def _record(self, path: Path, argument: Any) -> Iterator[SimpleNamespace]:
        """Record the outcome of the call in the block, which stores its answer in the yielded namespace."""
        result, began = SimpleNamespace(), time.monotonic()
        with self._lock:
            self._running[id(result)] = path, began
        failure = ""
        try:
            yield result
            outcome = "cancelled" if isinstance(result.answer, Cancelled) else "correct"
            if not self._expected.matches(path.task, argument, result.answer):
                outcome, failure = "wrong", f"{argument!r} -> {result.answer!r}"
        except VLLMError as error:
            outcome = next(base.__name__ for base in type(error).__mro__ if base.__module__ == errors.__name__)
        except (Exception, asyncio.CancelledError) as error:  # any other error is a failure
            outcome, failure = "foreign error", repr(error)
        seconds = time.monotonic() - began
        if seconds > self._limit:
            outcome, failure = "hung", f"{outcome} {failure}"
        with self._lock:
            del self._running[id(result)]
            self.tally.add(path, outcome, seconds, failure)


def _is_async(path: Path) -> bool:
    return iscoroutinefunction(path.call)
