"""Runs one path with one fault, and judges the outcome."""

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

from fault_matrix.operations import KEY, TEXTS, TIMEOUTS, Answer, Operation, use_settings
from vllm_adapters import VLLMClient
from vllm_adapters.errors import ContextLengthExceeded, InvalidRequest, VLLMError
from vllm_adapters.testing import Behaviour, FaultServer, faults

HOSTILE_ENVIRONMENT = {
    **dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:9"),
    **dict.fromkeys(("OPENAI_BASE_URL", "OPENAI_API_BASE"), "http://127.0.0.1:9/v1"),
    "OPENAI_API_KEY": "sk-not-for-this-server",
}
"""Environment variables that every path must ignore; a path that reads one of them fails in every cell."""

Call = Callable[[], Answer | Awaitable[Answer]]
Variant = Callable[[str], Call]


@dataclass(frozen=True)
class Path:
    """One method through which users send requests.

    Args:
        name: Heading of the column.
        operation: What it requests.
        variants: The sync and the async variant. Each takes the server's URL and returns a function, or a coroutine
            function, that sends one request.
        bisects: Whether it searches a rejected batch for the text that caused it, by halves. It then sends one more
            request to find out whether any text is rejected, and five for three texts.
    """

    name: str
    operation: Operation
    variants: Sequence[Variant]
    bisects: bool = False


@dataclass(frozen=True)
class Fault:
    """One failure of a server, and the outcomes that are right for it.

    Args:
        name: Heading of the row.
        behaviour: Behaviour of the server. Several are used for one request each; then the server is healthy.
        errors: Errors that are a right outcome.
        right: The right answer, if there may be one.
        on: Whether the fault can occur in an operation.
        requests: Number of POST requests that the server must receive. Clients make two attempts, but only one after
            a stream has begun.
        limit: The time limit that must end the request: ``"idle"``, ``"total"``, or ``None``.
        waits: Whether the fault takes time but no CPU.
        heavy: Whether the fault takes so much CPU that it must run alone.
        url: Address to use instead of the server's.
        between: If set, the path sends two requests and this runs in between.
    """

    name: str
    behaviour: Callable[[Operation], Behaviour | Sequence[Behaviour] | None]
    errors: tuple[type[VLLMError], ...] = ()
    right: Callable[[Operation], Answer] | None = None
    on: Callable[[Operation], bool] = lambda operation: not operation.narrow
    requests: int | Callable[[Operation], int] = 1
    limit: str | None = None
    waits: bool = False
    heavy: bool = False
    url: str | None = None
    between: Callable[[FaultServer], None] | None = None


class Cell(NamedTuple):
    """The outcome: ``correct``, the name of the error, or what is wrong with it."""

    text: str
    passed: bool
    note: str = ""


@dataclass(frozen=True)
class Framework:
    """One table: the module with its ``PATHS``, and the package that must be installed."""

    title: str
    module: str
    needs: str

    @property
    def installed(self) -> bool:
        """Whether the framework is installed."""
        return find_spec(self.needs) is not None

    @property
    def paths(self) -> Sequence[Path]:
        """The columns of the table."""
        paths: Sequence[Path] = import_module(self.module).PATHS
        return paths


FRAMEWORKS = (
    Framework("client", "fault_matrix.on_client", "openai"),
    Framework("LangChain", "fault_matrix.on_langchain", "langchain_openai"),
    Framework("LlamaIndex", "fault_matrix.on_llamaindex", "llama_index"),
    Framework("Haystack", "fault_matrix.on_haystack", "haystack"),
)


@dataclass
class _Watchdog:
    """Stops a server whose client is still connected after ``limit`` seconds, so that no cell hangs."""

    server: FaultServer
    limit: float
    expired: bool = False
    _timer: threading.Timer = field(init=False)

    def __enter__(self) -> _Watchdog:
        self._timer = threading.Timer(self.limit, self._stop)
        self._timer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._timer.cancel()
        self._timer.join()

    def _stop(self) -> None:
        self.expired = True
        self.server.stop()


def run_cell(path: Path, variant: Variant, fault: Fault) -> Cell:
    """Send a request of ``path`` to a server with ``fault``; it must be complete in twice the total time limit."""
    timeout = TIMEOUTS[fault.limit]
    limit = 2 * (timeout.total or 0)
    with FaultServer(api_key=KEY) as server, use_settings(timeout):
        behaviour = fault.behaviour(path.operation)
        if isinstance(behaviour, Sequence):
            for route, method in server.config.routes.items():
                server.script(route, behaviour if method == "POST" else ())
        elif behaviour is not None:
            server.reply(behaviour)
        url = fault.url or server.url
        began = time.monotonic()
        outcome: Answer | Exception
        with _Watchdog(server, limit) as watchdog:
            try:
                outcome = _run(variant(url), server, fault.between)
            except Exception as error:  # judged below, whatever it is
                outcome = error
        cell = _judge(outcome, path.operation, fault)
        if watchdog.expired or time.monotonic() - began > limit:
            return Cell("HANG", False, f"not complete after {limit:g} s; then {cell.text}")
        count = len(server.posts())
        expected = fault.requests(path.operation) if callable(fault.requests) else fault.requests
        if path.bisects and ContextLengthExceeded in fault.errors:
            expected = 2 * len(TEXTS) - 1
        elif path.bisects and InvalidRequest in fault.errors:
            expected = 2
        if cell.passed and count != expected:
            return Cell(f"{cell.text}, {count} REQUESTS", False, f"{count} requests instead of {expected}")
        return cell


def _run(call: Call, server: FaultServer, between: Callable[[FaultServer], None] | None) -> Answer:
    if not inspect.iscoroutinefunction(call):
        answer = call()
        if between is not None:
            between(server)
            answer = call()
        return answer  # type: ignore[return-value]

    async def run() -> Any:
        answer = await call()
        if between is not None:
            between(server)
            answer = await call()
        return answer

    return asyncio.run(run())  # type: ignore[no-any-return]


def _judge(outcome: Answer | Exception, operation: Operation, fault: Fault) -> Cell:
    if isinstance(outcome, Exception):
        name = type(outcome).__name__
        trace = "".join(traceback.format_exception(outcome))
        if KEY in trace + _attributes(outcome):
            return Cell(f"KEY EXPOSED by {name}", False, "the error contains the API key")
        if not isinstance(outcome, VLLMError):
            return Cell(f"FOREIGN ERROR {name}", False, trace)
        if not isinstance(outcome, fault.errors):
            return Cell(f"WRONG ERROR {name}", False, trace)
        if fault.limit and getattr(outcome, "kind", None) != fault.limit:
            return Cell(f"WRONG LIMIT {getattr(outcome, 'kind', None)}", False, trace)
        return Cell(f"{name} ({fault.limit})" if fault.limit else name, True)
    if fault.right is None:
        return Cell("NO ERROR", False, f"an answer although none is right: {outcome!r:.300}")
    right = fault.right(operation)
    if (outcome.value, outcome.broken) != (right.value, right.broken):
        return Cell("WRONG ANSWER", False, f"{outcome!r:.300}\n  instead of {right!r:.300}")
    if outcome.finish not in (None, right.finish):
        return Cell("WRONG ANSWER", False, f"finish reason {outcome.finish!r} instead of {right.finish!r}")
    return Cell("correct", True)


def _attributes(error: BaseException | None) -> str:
    """Return what a tool can find in an error and its causes: attributes, request headers, pickle."""
    if error is None:
        return ""
    headers = getattr(vars(error).get("request") or vars(error).get("_request"), "headers", {})
    pickled = pickle.dumps(error) if isinstance(error, VLLMError) else b""
    return f"{vars(error)!r} {dict(headers)} {pickled!r}" + _attributes(error.__cause__)


class Count(NamedTuple):
    """The number of POST requests of one call.

    Attributes:
        path: The path.
        retries: ``max_retries`` of the client.
        failing: Requests to a server that always responds with 500.
        begun: Requests for a stream that breaks after a token; ``None`` if the path does not stream.
    """

    path: Path
    retries: int
    failing: int
    begun: int | None

    @property
    def passed(self) -> bool:
        """Whether it is ``1 + max_retries``, and 1 after a token."""
        return self.failing == 1 + self.retries and self.begun in (None, 1)


def count_requests(paths: Sequence[Path], retries: int) -> list[Count]:
    """Count the POST requests of each variant of each path with ``max_retries=retries``."""

    def posts(variant: Variant, behaviour: Behaviour) -> int:
        with FaultServer(api_key=KEY) as server, use_settings(max_retries=retries):
            server.reply(behaviour)
            with suppress(VLLMError):
                _run(variant(server.url), server, None)
                raise AssertionError("the request failed, but no error was raised")
            return len(server.posts())

    def count(path: Path, variant: Variant) -> Count:
        broken = faults.sse(*path.operation.events()[:3], end="reset") if path.operation.streamed else None
        failing = posts(variant, faults.error(500))
        return Count(path, retries, failing, None if broken is None else posts(variant, broken))

    with ThreadPoolExecutor(40) as threads:
        sent = [path for path in paths if not path.operation.refused]
        futures = [threads.submit(count, path, variant) for path in sent for variant in path.variants]
        return [future.result() for future in futures]


def run_cells(
    paths: Sequence[Path], faults: Sequence[Fault], done: Callable[[], object] = lambda: None
) -> Mapping[tuple[Fault, Path], list[Cell]]:
    """Run every fault on every path in which it can occur; one cell per variant of the path.

    Args:
        paths: The columns.
        faults: The rows.
        done: Called after each cell.
    """

    def run(path: Path, variant: Variant, fault: Fault) -> Cell:
        cell = run_cell(path, variant, fault)
        done()
        return cell

    def submit(executor: Callable[[Fault], ThreadPoolExecutor], rows: Sequence[Fault]) -> dict[Any, list[Any]]:
        return {
            (fault, path): [executor(fault).submit(run, path, variant, fault) for variant in path.variants]
            for fault in rows
            for path in paths
            if fault.on(path.operation)
        }

    _ = VLLMClient().chat.completions  # loads the certificates and the SDK's resources, which all clients share
    light, heavy = ([fault for fault in faults if fault.heavy is kind] for kind in (False, True))
    cells: dict[tuple[Fault, Path], list[Cell]] = {}
    # Many cells wait at the same time. Only a few may use the CPU at the same time, or they miss their time limits.
    with ThreadPoolExecutor(40) as waiting, ThreadPoolExecutor(6) as working:
        futures = submit(lambda fault: waiting if fault.waits or fault.requests != 1 else working, light)
        cells |= {place: [future.result() for future in each] for place, each in futures.items()}
    with ThreadPoolExecutor(1) as alone:
        futures = submit(lambda fault: alone, heavy)
        cells |= {place: [future.result() for future in each] for place, each in futures.items()}
    return cells
