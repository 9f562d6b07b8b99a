"""The soak detects wrong answers, foreign errors, hanging calls and leaks, and reports nothing else."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import pytest
from soak.expected import TEXTS, Expected
from soak.paths import FRAMEWORKS, Cancelled, Connection, Path, all_paths
from soak.proxy import FAULTS, Proxy
from soak.resources import leaks, measure
from soak.runner import THREADS, Soak, Tally

from vllm_adapters import Timeouts
from vllm_adapters.errors import ServerFailed


@pytest.fixture
def expected(make_fault_server) -> Expected:
    url = make_fault_server(dims=32).url
    return Expected.from_servers(url, url)


def run(paths: Sequence[Path], expected: Expected, calls: int = 30, limit: float = 30) -> Tally:
    with Soak(paths, expected, limit) as soak:
        soak.run(calls, time.monotonic() + 60, lambda: None)
        return soak.tally


def as_async(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def acall(argument: Any) -> Any:
        return call(argument)

    return acall


def test_correct_answers_pass(expected):
    paths = [
        Path("say", "say", expected.replies.__getitem__),
        Path("cancel", "say", lambda prompt: Cancelled(expected.replies[prompt][:3])),
        Path("count", "count", as_async(expected.tokens.__getitem__)),
        Path("embed", "embed", as_async(lambda texts: [expected.vectors[text] * 1.0001 for text in texts])),
        Path(
            "rank",
            "rank",
            lambda texts: sorted([(text, expected.scores[text]) for text in texts], key=lambda row: -row[1]),
        ),
    ]
    tally = run(paths, expected, calls=100)
    assert tally.failures == []
    assert tally.by_outcome.keys() == {"correct", "cancelled"}
    assert tally.outcomes.total() == 100
    assert tally.longest.keys() == {path.name for path in paths}


WRONG = {
    "another text": ("say", lambda expected, prompt: expected.replies[prompt] + "."),
    "no text": ("say", lambda expected, prompt: ""),
    "cancelled with another text": ("say", lambda expected, prompt: Cancelled("?")),
    "another count": ("count", lambda expected, prompt: expected.tokens[prompt] + 1),
    "vectors of other texts": (
        "embed",
        lambda expected, texts: [expected.vectors[t] for t in sorted(TEXTS)[: len(texts)]],
    ),
    "missing vector": ("embed", lambda expected, texts: [expected.vectors[text] for text in texts[1:]]),
    "NaN": ("embed", lambda expected, texts: [expected.vectors[text] * float("nan") for text in texts]),
    "scores of other texts": ("rank", lambda expected, texts: [(t, 0.5 - n / 9) for n, t in enumerate(texts)]),
    "missing rank": ("rank", lambda expected, texts: [(text, expected.scores[text]) for text in texts[:0]]),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_wrong_answer_is_a_failure(wrong, mode, expected):
    task, answer = WRONG[wrong]

    def call(argument: Any) -> Any:
        return answer(expected, argument)

    tally = run([Path(wrong, task, call if mode == "sync" else as_async(call))], expected)
    assert tally.by_outcome["wrong"] > 15
    assert len(tally.failures) == tally.by_outcome["wrong"]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_only_foreign_errors_are_failures(mode, expected):
    def call(prompt: str) -> str:
        raise ServerFailed("no") if prompt == "Hello" else KeyError("choices")

    tally = run([Path("failing", "say", call if mode == "sync" else as_async(call))], expected)
    assert tally.by_outcome["ServerFailed"] > 0
    assert tally.by_outcome["ServerFailed"] + tally.by_outcome["foreign error"] == 30
    assert len(tally.failures) == tally.by_outcome["foreign error"]
    assert "KeyError('choices')" in tally.failures[0]


def test_a_late_answer_is_a_failure(expected):
    def call(prompt: str) -> str:
        time.sleep(0.6)
        return expected.replies[prompt]

    assert run([Path("late", "say", call)], expected, calls=6, limit=0.5).by_outcome == {"hung": 6}


def test_a_hanging_call_ends_the_run(expected):
    released = threading.Event()

    def call(prompt: str) -> str:
        released.wait(60)
        return expected.replies[prompt]

    with Soak([Path("never", "say", call)], expected, limit=0.1) as soak:
        with pytest.raises(TimeoutError, match=f"{THREADS} calls hang"):
            soak.run(30, time.monotonic() + 60, lambda: None)
        assert len(soak.tally.failures) == THREADS
        released.set()


def test_leaks_are_detected(expected):
    kept: list[Any] = []

    def leak_socket(prompt: str) -> str:
        kept.append(socket.socket())
        return expected.replies[prompt]

    async def leak_task(prompt: str) -> str:
        kept.append(asyncio.ensure_future(asyncio.sleep(60)))
        return expected.replies[prompt]

    before = measure()
    run([Path("nothing", "say", expected.replies.__getitem__)], expected)
    assert leaks(before, measure()) == []
    with Soak([Path("socket", "say", leak_socket), Path("task", "say", leak_task)], expected, 30) as soak:
        soak.run(60, time.monotonic() + 60, lambda: None)
        assert soak.tally.failures == []
        assert {"files", "sockets", "tasks"} <= set(leaks(before, measure()))
        for item in kept:
            if isinstance(item, socket.socket):
                item.close()
            elif not item.done():
                item.get_loop().call_soon_threadsafe(item.cancel)


@pytest.mark.parametrize(
    ("module", "number"), [("on_client", 15), ("on_langchain", 11), ("on_llamaindex", 11), ("on_haystack", 11)]
)
def test_every_path_is_in_the_soak(module, number):
    pytest.importorskip(FRAMEWORKS[module])
    names = [
        path.name for path in import_module(f"soak.{module}").paths(Connection("http://a", "http://b", Timeouts()))
    ]
    assert len(set(names)) == len(names) == number


def test_every_path_through_the_proxy():
    timeouts = Timeouts(connect=2, idle=0.5, total=1)
    with Proxy(None, 0.3, 0) as chat_proxy, Proxy(None, 0.3, 1) as pooling_proxy:
        answers = Expected.from_servers(chat_proxy.server, pooling_proxy.server)
        paths = all_paths(Connection(chat_proxy.url, pooling_proxy.url, timeouts))
        tally = run(paths, answers, calls=120, limit=10)
    assert tally.failures == []
    assert tally.outcomes.total() == 120
    assert set(tally.by_outcome) > {"correct", "cancelled"}
    assert {fault.__name__ for fault in FAULTS} <= {*chat_proxy.faults, *pooling_proxy.faults}
