"""One cell: one path, on one fault. What came of it, and whether that may be."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from fault_matrix.scene import KEY, SETTINGS, TEXTS, Answer, Scene, retrying
from vllm_adapters import VLLMClient
from vllm_adapters.errors import ContextLengthExceeded, InvalidRequest, VLLMError
from vllm_adapters.testing import Behaviour, FaultServer, faults

LIMIT = 2 * SETTINGS["timeout"].total
"""Seconds in which every cell must be over: twice the total limit that its client has."""

TRAPS = {
    **dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:9"),
    **dict.fromkeys(("OPENAI_BASE_URL", "OPENAI_API_BASE"), "http://127.0.0.1:9/v1"),
    "OPENAI_API_KEY": "sk-not-for-this-server",
}
"""Every cell is tried with these in the environment; each would be the end of it."""

Ask = Callable[[], Answer | Awaitable[Answer]]


@dataclass(frozen=True)
class Path:
    """One way for a user to ask a server.

    Args:
        name: the column's heading.
        scene: what it asks for.
        ways: how it is opened, sync and async: each takes the server's URL and returns a function, or a coroutine
            function, that asks once.
        halves: whether it looks for the text that was refused, in halves: five requests for three texts. It asks once
            more first whether any text is refused: then that is all.
    """

    name: str
    scene: Scene
    ways: Sequence[Callable[[str], Ask]]
    halves: bool = False


@dataclass(frozen=True)
class Fault:
    """One way for a server to fail, and what may come of it.

    Args:
        name: the row's heading.
        answers: the server's behaviour; of several, one for each request, and after that it is healthy.
        errors: which errors are a right outcome.
        right: the right answer, if there may be one.
        on: which scenes it can happen to.
        requests: how many POSTs the server must have seen; its clients try twice, but a stream that has begun once.
        limit: which time limit must end it, ``"idle"`` or ``"total"``, if one must.
        waits: whether it takes its time.
        url: an address that is asked instead of the server's.
        between: where given, the path asks twice, and this happens in between.
    """

    name: str
    answers: Callable[[Scene], Behaviour | Sequence[Behaviour] | None]
    errors: tuple[type[VLLMError], ...] = ()
    right: Callable[[Scene], Answer] | None = None
    on: Callable[[Scene], bool] = lambda scene: True
    requests: int | Callable[[Scene], int] = 1
    limit: str | None = None
    waits: bool = False
    url: str | None = None
    between: Callable[[FaultServer], None] | None = None


class Cell(NamedTuple):
    """What came of it: ``correct``, the error's name, or what is wrong with it."""

    text: str
    passed: bool
    note: str = ""


@dataclass(frozen=True)
class Room:
    """A table: where its ``PATHS`` are, and what must be installed for them."""

    title: str
    module: str
    needs: str

    @property
    def there(self) -> bool:
        """Whether it can be tried here."""
        return find_spec(self.needs) is not None

    @property
    def paths(self) -> Sequence[Path]:
        """Its columns."""
        found: Sequence[Path] = import_module(self.module).PATHS
        return found


ROOMS = (
    Room("client", "fault_matrix.on_client", "openai"),
    Room("LangChain", "fault_matrix.on_langchain", "langchain_openai"),
    Room("LlamaIndex", "fault_matrix.on_llamaindex", "llama_index"),
    Room("Haystack", "fault_matrix.on_haystack", "haystack"),
)


@dataclass
class _Watch:
    """Stops a server whose client is still there when the time is over, so that nothing hangs for ever."""

    server: FaultServer
    late: bool = False
    _timer: threading.Timer = field(init=False)

    def __enter__(self) -> _Watch:
        self._timer = threading.Timer(LIMIT, self._stop)
        self._timer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._timer.cancel()
        self._timer.join()

    def _stop(self) -> None:
        self.late = True
        self.server.stop()


def attempt(path: Path, way: Callable[[str], Ask], fault: Fault) -> Cell:
    """Ask a server that fails."""
    with FaultServer(api_key=KEY) as server:
        behaviour = fault.answers(path.scene)
        if isinstance(behaviour, Sequence):
            for route, method in server.config.routes.items():
                server.script(route, behaviour if method == "POST" else ())
        elif behaviour is not None:
            server.reply(behaviour)
        url = fault.url or server.url
        began = time.monotonic()
        outcome: Answer | Exception
        with _Watch(server) as watch:
            try:
                outcome = _ask(way(url), server, fault.between)
            except Exception as error:  # judged below, whatever it is
                outcome = error
        cell = _judged(outcome, path.scene, fault)
        if watch.late or time.monotonic() - began > LIMIT:
            return Cell("HANG", False, f"not over after {LIMIT:g} s; then {cell.text}")
        asked = len(server.posts())
        expected = fault.requests(path.scene) if callable(fault.requests) else fault.requests
        if path.halves and ContextLengthExceeded in fault.errors:
            expected = 2 * len(TEXTS) - 1
        elif path.halves and InvalidRequest in fault.errors:
            expected = 2
        if cell.passed and asked != expected:
            return Cell(f"{cell.text}, {asked} REQUESTS", False, f"{asked} requests, not {expected}")
        return cell


def _ask(ask: Ask, server: FaultServer, between: Callable[[FaultServer], None] | None) -> Answer:
    if not inspect.iscoroutinefunction(ask):
        answer = ask()
        if between is not None:
            between(server)
            answer = ask()
        return answer  # type: ignore[return-value]

    async def run() -> Any:
        answer = await ask()
        if between is not None:
            between(server)
            answer = await ask()
        return answer

    return asyncio.run(run())  # type: ignore[no-any-return]


def _judged(outcome: Answer | Exception, scene: Scene, fault: Fault) -> Cell:
    if isinstance(outcome, Exception):
        name = type(outcome).__name__
        story = "".join(traceback.format_exception(outcome))
        if KEY in story + _attributes(outcome):
            return Cell(f"KEY SHOWN by {name}", False, "the error shows the API key")
        if not isinstance(outcome, VLLMError):
            return Cell(f"GENERIC {name}", False, story)
        if not isinstance(outcome, fault.errors):
            return Cell(f"WRONGLY {name}", False, story)
        if fault.limit and getattr(outcome, "kind", None) != fault.limit:
            return Cell(f"WRONG LIMIT: {getattr(outcome, 'kind', None)}", False, story)
        return Cell(f"{name} ({fault.limit})" if fault.limit else name, True)
    if fault.right is None:
        return Cell("SILENT", False, f"an answer where none can be right: {outcome!r:.300}")
    right = fault.right(scene)
    if (outcome.value, outcome.broken) != (right.value, right.broken):
        return Cell("WRONG", False, f"{outcome!r:.300}\n  not {right!r:.300}")
    if outcome.finish not in (None, right.finish):
        return Cell("WRONG", False, f"finish reason {outcome.finish!r}, not {right.finish!r}")
    return Cell("correct", True)


def _attributes(error: BaseException | None) -> str:
    """All that a tool finds that looks into an error, and into what it came from."""
    if error is None:
        return ""
    headers = getattr(vars(error).get("request") or vars(error).get("_request"), "headers", {})
    packed = pickle.dumps(error) if isinstance(error, VLLMError) else b""
    return f"{vars(error)!r} {dict(headers)} {packed!r}" + _attributes(error.__cause__)


class Count(NamedTuple):
    """How many POSTs one call of a path made: under permanent 500s, and for a stream that broke after a token."""

    path: Path
    retries: int
    failing: int
    begun: int | None

    @property
    def passed(self) -> bool:
        """Whether it is ``1 + max_retries``, and one once a token has come."""
        return self.failing == 1 + self.retries and self.begun in (None, 1)


def count(paths: Sequence[Path], retries: int) -> list[Count]:
    """The POSTs of a call of each path, in each of its ways, with ``max_retries`` of so many."""

    def posts(way: Callable[[str], Ask], behaviour: Behaviour) -> int:
        with FaultServer(api_key=KEY) as server:
            server.reply(behaviour)
            with suppress(VLLMError):
                _ask(way(server.url), server, None)
                raise AssertionError("it failed, and nothing was raised")
            return len(server.posts())

    def of(path: Path, way: Callable[[str], Ask]) -> Count:
        begun = faults.sse(*path.scene.events()[:3], end="reset") if path.scene.streamed else None
        failing = posts(way, faults.error(500))
        return Count(path, retries, failing, None if begun is None else posts(way, begun))

    with retrying(retries), ThreadPoolExecutor(40) as threads:
        return [found.result() for found in [threads.submit(of, path, way) for path in paths for way in path.ways]]


def run(
    paths: Sequence[Path], faults: Sequence[Fault], done: Callable[[], object] = lambda: None
) -> Mapping[tuple[Fault, Path], list[Cell]]:
    """Every fault on every path that it can happen to: a cell for each of the path's ways.

    Args:
        paths: columns.
        faults: rows.
        done: called after each cell.
    """

    def cell(path: Path, way: Callable[[str], Ask], fault: Fault) -> Cell:
        found = attempt(path, way, fault)
        done()
        return found

    _ = VLLMClient().chat.completions  # loads the certificates and the SDK's resources, which all clients share
    # Many wait at once; those that work do so a few at a time, or they would miss their time limits.
    with ThreadPoolExecutor(40) as waiting, ThreadPoolExecutor(6) as working:
        pending = {
            (fault, path): [
                (waiting if fault.waits or fault.requests != 1 else working).submit(cell, path, way, fault)
                for way in path.ways
            ]
            for fault in faults
            for path in paths
            if fault.on(path.scene)
        }
        return {place: [future.result() for future in futures] for place, futures in pending.items()}
