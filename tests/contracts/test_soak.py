"""The soak finds what it is there to find, and nothing where there is nothing."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from soak.held import held, leaks
from soak.proxy import FAULTS, Proxy
from soak.questions import TEXTS, Right
from soak.running import THREADS, Soak, Tally
from soak.ways import Left, Line, Way, all_ways

from vllm_adapters import Timeouts
from vllm_adapters.errors import ServerFailed


@pytest.fixture
def right(make_fault_server) -> Right:
    url = make_fault_server(dims=32).url
    return Right.learn(url, url)


def asked(ways: Sequence[Way], right: Right, calls: int = 30, limit: float = 30) -> Tally:
    with Soak(ways, right, limit) as soak:
        soak.run(calls, time.monotonic() + 60, lambda: None)
        return soak.tally


def awaited(ask: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def twin(given: Any) -> Any:
        return ask(given)

    return twin


def test_right_answers(right):
    ways = [
        Way("say", "say", right.said.__getitem__),
        Way("leave", "say", lambda prompt: Left(right.said[prompt][:3])),
        Way("count", "count", awaited(right.tokens.__getitem__)),
        Way("embed", "embed", awaited(lambda texts: [right.vectors[text] * 1.0001 for text in texts])),
        Way(
            "rank",
            "rank",
            lambda texts: sorted([(text, right.scores[text]) for text in texts], key=lambda row: -row[1]),
        ),
    ]
    tally = asked(ways, right, calls=100)
    assert tally.failures == []
    assert tally.by_outcome.keys() == {"right", "left"}
    assert tally.outcomes.total() == 100
    assert tally.longest.keys() == {way.name for way in ways}


WRONG = {
    "another text": ("say", lambda right, prompt: right.said[prompt] + "."),
    "no text": ("say", lambda right, prompt: ""),
    "left with another text": ("say", lambda right, prompt: Left("?")),
    "another count": ("count", lambda right, prompt: right.tokens[prompt] + 1),
    "vectors of other texts": ("embed", lambda right, texts: [right.vectors[t] for t in sorted(TEXTS)[: len(texts)]]),
    "a vector too few": ("embed", lambda right, texts: [right.vectors[text] for text in texts[1:]]),
    "not a number": ("embed", lambda right, texts: [right.vectors[text] * float("nan") for text in texts]),
    "scores of other texts": ("rank", lambda right, texts: [(t, 0.5 - n / 9) for n, t in enumerate(texts)]),
    "a rank too few": ("rank", lambda right, texts: [(text, right.scores[text]) for text in texts[:0]]),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("life", ["sync", "async"])
def test_a_wrong_answer(wrong, life, right):
    task, answer = WRONG[wrong]

    def ask(given: Any) -> Any:
        return answer(right, given)

    tally = asked([Way(wrong, task, ask if life == "sync" else awaited(ask))], right)
    assert tally.by_outcome["wrong"] > 15
    assert len(tally.failures) == tally.by_outcome["wrong"]


@pytest.mark.parametrize("life", ["sync", "async"])
def test_errors_of_ours_and_others(life, right):
    def ask(prompt: str) -> str:
        raise ServerFailed("no") if prompt == "Hello" else KeyError("choices")

    tally = asked([Way("failing", "say", ask if life == "sync" else awaited(ask))], right)
    assert tally.by_outcome["ServerFailed"] > 0
    assert tally.by_outcome["ServerFailed"] + tally.by_outcome["not ours"] == 30
    assert len(tally.failures) == tally.by_outcome["not ours"]
    assert "KeyError('choices')" in tally.failures[0]


def test_an_answer_that_comes_too_late(right):
    def ask(prompt: str) -> str:
        time.sleep(0.6)
        return right.said[prompt]

    assert asked([Way("late", "say", ask)], right, calls=6, limit=0.5).by_outcome == {"hung": 6}


def test_an_answer_that_never_comes(right):
    over = threading.Event()

    def ask(prompt: str) -> str:
        over.wait(60)
        return right.said[prompt]

    with Soak([Way("never", "say", ask)], right, limit=0.1) as soak:
        with pytest.raises(TimeoutError, match=f"{THREADS} calls hang"):
            soak.run(30, time.monotonic() + 60, lambda: None)
        assert len(soak.tally.failures) == THREADS
        over.set()


def test_what_is_kept(right):
    kept: list[Any] = []

    def keep_socket(prompt: str) -> str:
        kept.append(socket.socket())
        return right.said[prompt]

    async def keep_task(prompt: str) -> str:
        kept.append(asyncio.ensure_future(asyncio.sleep(60)))
        return right.said[prompt]

    before = held()
    asked([Way("nothing", "say", right.said.__getitem__)], right)
    assert leaks(before, held()) == []
    with Soak([Way("socket", "say", keep_socket), Way("task", "say", keep_task)], right, 30) as soak:
        soak.run(60, time.monotonic() + 60, lambda: None)
        assert soak.tally.failures == []
        assert {"files", "sockets", "tasks"} <= set(leaks(before, held()))
        for thing in kept:
            if isinstance(thing, socket.socket):
                thing.close()
            elif not thing.done():
                thing.get_loop().call_soon_threadsafe(thing.cancel)


def test_every_way_over_a_line_that_breaks():
    limits = Timeouts(connect=2, idle=0.5, total=1)
    with Proxy(None, 0.3, 0) as talks, Proxy(None, 0.3, 1) as embeds:
        right = Right.learn(talks.server, embeds.server)
        tally = asked(all_ways(Line(talks.url, embeds.url, limits)), right, calls=120, limit=10)
    assert tally.failures == []
    assert tally.outcomes.total() == 120
    assert set(tally.by_outcome) > {"right", "left"}
    assert {fault.__name__ for fault in FAULTS} <= {*talks.faults, *embeds.faults}
