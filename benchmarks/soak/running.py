"""Asks in every place at once: in threads, in one event loop after another, and in one that lives long."""

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

from soak.questions import Right
from soak.ways import Left, Way
from vllm_adapters import VLLMError, errors

THREADS, TASKS = 6, 8
IDLE = 6  # seconds until the connections that lie idle in a pool have had their time

Call = tuple[Way, Any]
"""A way, and what to ask."""


@dataclass
class Tally:
    """What came of the calls.

    Attributes:
        outcomes: How often each way ended how: ``right``, ``left``, ``wrong``, ``not ours``, ``hung``, or the name
            of the error.
        longest: Seconds of each way's longest call.
        failures: What was wrong, in words.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    longest: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def note(self, way: Way, outcome: str, seconds: float, failure: str = "") -> None:
        """Note one call."""
        self.outcomes[way.name, outcome] += 1
        self.longest[way.name] = max(seconds, self.longest.get(way.name, 0))
        if failure:
            self.failures.append(f"{way.name}, {outcome} after {seconds:.1f} s: {failure}")

    @property
    def by_outcome(self) -> Counter[str]:
        """All ways together."""
        found: Counter[str] = Counter()
        for (_, outcome), count in self.outcomes.items():
            found[outcome] += count
        return found


class Soak:
    """Many calls, and what came of them. A context manager: the long-lived event loop lives as long.

    Args:
        ways: The ways to ask, taken by chance.
        right: The answers.
        limit: Seconds within which every call must be over.
        seed: Of what is asked and how; the order of the answers is the servers' own.

    Attributes:
        tally: What came of the calls.
        settling: How many calls it takes to ``settle``.
    """

    def __init__(self, ways: Sequence[Way], right: Right, limit: float, seed: int = 0) -> None:
        self._ways = {coroutine: [w for w in ways if _is_async(w) == coroutine] for coroutine in (False, True)}
        self._right, self._limit, self._chance = right, limit, Random(seed)
        self._until = 0.0
        self._lock = threading.Lock()
        self._running: dict[int, tuple[Way, float]] = {}
        self._long_lived = asyncio.new_event_loop()
        self._living = threading.Thread(target=self._long_lived.run_forever, daemon=True)
        self.tally = Tally()
        self.settling = len(self._ways[False]) + 2 * len(self._ways[True])

    def __enter__(self) -> Soak:
        self._living.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._long_lived.call_soon_threadsafe(self._long_lived.stop)
        self._living.join(1)
        if not self._living.is_alive():  # else a call blocks it, and has been noted
            self._long_lived.close()

    def run(self, calls: int, until: float, tick: Callable[[], None]) -> None:
        """Ask in all places at once.

        Args:
            calls: How many times.
            until: No more calls after this ``time.monotonic()``.
            tick: Called several times a second.

        Raises:
            TimeoutError: A call is not over in time, and no end of it is in sight.
        """
        self._until = until
        sync = calls * len(self._ways[False]) // sum(map(len, self._ways.values()))
        for_threads, for_loops = self._drawn(False, sync), self._drawn(True, (calls - sync) // 3)
        for_long_loop = self._drawn(True, calls - len(for_threads) - len(for_loops))
        places = [lambda: self._in_thread(self._taken(for_threads)) for _ in range(THREADS)]
        places.append(lambda: self._in_loops(self._taken(for_loops)))
        places.append(lambda: self._in_long_loop([self._taken(for_long_loop) for _ in range(TASKS)]))
        self._all(places, tick)

    def settle(self, tick: Callable[[], None]) -> None:
        """Ask in every way once in each place, one after the other, when no connection is left from busier times."""
        time.sleep(IDLE)
        self._all([lambda: self._in_long_loop([self._turns(True)])], tick)
        # Only now, as what belongs to a closed loop is forgotten when the next loop begins.
        in_a_loop = self._turns(True)
        self._all([lambda: self._in_thread(self._turns(False)), lambda: asyncio.run(self._in_turn(in_a_loop))], tick)

    def _all(self, places: Iterable[Callable[[], None]], tick: Callable[[], None]) -> None:
        threads = [threading.Thread(target=place, daemon=True) for place in places]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.1)
            tick()
            with self._lock:
                late = [(way, time.monotonic() - began) for way, began in self._running.values()]
            late = [(way, seconds) for way, seconds in late if seconds > 2 * self._limit]
            for way, seconds in late:
                self.tally.note(way, "hung", seconds, "still not over")
            if late:
                raise TimeoutError(f"{len(late)} calls hang")

    def _drawn(self, coroutines: bool, count: int) -> deque[Call]:
        ways = self._chance.choices(self._ways[coroutines], k=count)
        return deque((way, self._right.draw(way.task, self._chance)) for way in ways)

    def _taken(self, calls: deque[Call]) -> Iterator[Call]:
        """Calls that several places take by turns, as long as there are any and there is time."""
        while time.monotonic() < self._until:
            try:
                yield calls.popleft()
            except IndexError:
                return

    def _turns(self, coroutines: bool) -> list[Call]:
        chance = Random(0)  # the same every time, as more texts take more connections
        return [(way, self._right.draw(way.task, chance)) for way in self._ways[coroutines]]

    def _in_thread(self, calls: Iterable[Call]) -> None:
        for way, asked in calls:
            with self._judging(way, asked) as got:
                got.answer = way.ask(asked)

    async def _in_turn(self, calls: Iterable[Call]) -> None:
        for way, asked in calls:
            with self._judging(way, asked) as got:
                got.answer = await way.ask(asked)

    async def _side_by_side(self, each: Iterable[Iterable[Call]]) -> None:
        await asyncio.gather(*map(self._in_turn, each))

    def _in_loops(self, calls: Iterator[Call]) -> None:
        while some := [[call] for call in islice(calls, TASKS)]:
            asyncio.run(self._side_by_side(some))

    def _in_long_loop(self, each: Iterable[Iterable[Call]]) -> None:
        asyncio.run_coroutine_threadsafe(self._side_by_side(each), self._long_lived).result()

    @contextmanager
    def _judging(self, way: Way, asked: Any) -> Iterator[SimpleNamespace]:
        """Note what comes of the call in the block, which puts its answer into what it is given."""
        got, began = SimpleNamespace(), time.monotonic()
        with self._lock:
            self._running[id(got)] = way, began
        failure = ""
        try:
            yield got
            outcome = "left" if isinstance(got.answer, Left) else "right"
            if not self._right.agrees(way.task, asked, got.answer):
                outcome, failure = "wrong", f"{asked!r} -> {got.answer!r}"
        except VLLMError as error:
            outcome = next(base.__name__ for base in type(error).__mro__ if base.__module__ == errors.__name__)
        except (Exception, asyncio.CancelledError) as error:  # every other error is a finding
            outcome, failure = "not ours", repr(error)
        seconds = time.monotonic() - began
        if seconds > self._limit:
            outcome, failure = "hung", f"{outcome} {failure}"
        with self._lock:
            del self._running[id(got)]
            self.tally.note(way, outcome, seconds, failure)


def _is_async(way: Way) -> bool:
    return iscoroutinefunction(way.ask)
