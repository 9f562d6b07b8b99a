"""pytest plugin: one test, two lives. Recorded by default, against a real vLLM with ``--live``.

A test that talks to a server is written once::

    @pytest.mark.vllm("tiny")
    def test_sends_top_k(vllm_url, sent):
        llm = ChatVLLM(base_url=vllm_url, top_k=1)
        assert llm.invoke("Hello").text
        assert sent.last.json["top_k"] == 1

By default it replays ``cassettes/.../test_sends_top_k.yaml``: the network is blocked, a request that was not
recorded fails the test, and so does an answer that was not asked for. With ``--live`` the same test talks to
a real vLLM; with ``--live --record`` that conversation becomes the new cassette, if the test passes.

What no cassette can show, such as what a break does to the server, is marked
``@pytest.mark.vllm("tiny", recorded=False)``: nothing stands between it and the server, and it is skipped by default.

A test may have several servers, ``@pytest.mark.vllm("tiny", "minilm")``: ``vllm_urls["minilm"]`` is the address
of each. The first is also ``vllm_url``; what goes to another is found under ``sent.to("/minilm/v1/embeddings")``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from pytest_recording import network

from vllm_adapters._pytest import CASSETTES
from vllm_adapters.errors import VLLMError
from vllm_adapters.server import VLLMServer
from vllm_adapters.testing.cassettes import Library, recorded_versions, replay_url
from vllm_adapters.testing.fault_server import FaultServer
from vllm_adapters.testing.recorder import Tape, open_tape
from vllm_adapters.testing.sent import Sent
from vllm_adapters.testing.servers import Kind, NoServer, Servers

_UNIX_SOCKETS = [r"/", r"\x00"]  # not the network; multiprocessing needs them
_FRAMEWORKS = ("langchain-core", "langchain-openai", "llama-index-core", "haystack-ai")


@dataclass
class _Run:
    """This session: which life it lives and what it found."""

    live: bool
    record: bool
    library: Library
    servers: Servers
    orphans: list[Path] = field(default_factory=list)


_RUN = pytest.StashKey[_Run]()
_ORPHANS = "vllm_orphans"
_TAPE = pytest.StashKey[Tape]()
_PASSED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--live``, ``--record`` and the ini options."""
    group = parser.getgroup("vllm", "vLLM: recorded or live")
    group.addoption("--live", action="store_true", dest="vllm_live", help="Talk to a real vLLM, not to cassettes.")
    group.addoption(
        "--record",
        action="store_true",
        dest="vllm_record",
        help="With --live: write the cassettes of the tests that pass, and remove those without a test.",
    )
    parser.addini(*CASSETTES, default="")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; remember the environment before any test changes it."""
    config.addinivalue_line(
        "markers",
        'vllm(*models, **options): talks to a vLLM that serves this model, default "tiny", or to one for each '
        "model; options go to the first's LocalVLLM. recorded=False: live only.",
    )
    live, record = config.getoption("vllm_live"), config.getoption("vllm_record")
    if record and not live:
        raise pytest.UsageError("--record needs --live: cassettes are recorded from a real vLLM only")
    tests = [config.rootpath / path for path in config.getini("testpaths")]
    folder = config.getini(CASSETTES[0]) or "cassettes"
    root = config.rootpath / folder
    library = Library(root, [*tests, root.parent, config.rootpath])
    config.stash[_RUN] = _Run(live, record, library, Servers(os.environ))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what is still running, also after an interrupted session."""
    if _RUN in config.stash:
        config.stash[_RUN].servers.close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What the recorded and the live numbers depend on."""
    run = config.stash[_RUN]
    openai = _version("openai")
    transport = "httpx2" if openai.split(".")[0] == "3" else "httpx"
    frameworks = ", ".join(f"{name} {_version(name)}" for name in _FRAMEWORKS)
    recorded = recorded_versions(run.library.root)
    counts = ", ".join(f"{count} of vLLM {v}" for v, count in sorted(recorded.items())) or "none"
    life = "recorded"
    if run.live:
        life = f"live, {run.servers.given(Kind()) or 'local vLLM'}" + (", recording" if run.record else "")
    return [f"vllm: {life}; cassettes: {counts}", f"openai {openai} ({transport}); {frameworks}"]


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _shown(path: Path, config: pytest.Config) -> str:
    """A cassette's path for readers; the folder of the cassettes may lie elsewhere."""
    return (path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path).as_posix()


def _kinds(item: pytest.Item) -> tuple[Kind, ...]:
    marker = item.get_closest_marker("vllm")
    if marker is None:
        return ()
    options = {name: value for name, value in marker.kwargs.items() if name != "recorded"}
    first, *others = marker.args or (options.pop("model", "tiny"),)
    return Kind(first, options), *(Kind(model) for model in others)


def _recorded(item: pytest.Item) -> bool:
    """Whether the test has a life on a cassette."""
    marker = item.get_closest_marker("vllm")
    return marker is None or bool(marker.kwargs.get("recorded", True))


def _mounts(kinds: tuple[Kind, ...]) -> list[str]:
    """Where a cassette has each server: the first at the root, the others under their models' names."""
    return ["", *(f"/{kind.model}" for kind in kinds[1:])]


def _owners(library: Library, items: list[pytest.Item]) -> dict[Path, str]:
    """The cassettes of these tests, and whose each is."""
    owners: dict[Path, str] = {}
    for item in items:
        owner = owners.setdefault(library.path(item), item.nodeid)
        if owner != item.nodeid:
            raise pytest.UsageError(
                f"{owner} and {item.nodeid} would have the same cassette: names of files cannot tell them apart. "
                "Give one another id=..."
            )
    return owners


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Find cassettes without a test; in live runs bring the tests of one server together."""
    run = config.stash[_RUN]
    partial = any("::" in arg for arg in config.args) or config.getoption("lf", False)
    owners = _owners(run.library, [item for item in items if _kinds(item) and _recorded(item)])
    if not partial:
        run.orphans = run.library.orphans(owners, {item.path for item in items})
    for item in items:
        if _kinds(item):
            # pytest-recording would put a second cassette around tests that bring its marker along.
            item.own_markers = [marker for marker in item.own_markers if marker.name != "vcr"]
    if run.live:
        order: dict[tuple[Kind, ...], int] = {(): -1}
        items.sort(key=lambda item: order.setdefault(_kinds(item), len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Block the network around a replayed test and its fixtures; stop a live server after its last test."""
    run, kinds = item.config.stash[_RUN], _kinds(item)
    if not kinds:
        return (yield)
    with nullcontext() if run.live else network.blocking_context(allowed_hosts=_UNIX_SOCKETS):
        result = yield
    if run.live:
        wanted = _kinds(nextitem) if nextitem else ()
        for kind in kinds:
            if kind not in wanted:
                run.servers.retire(kind)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail the test for what its tape saw, whatever the code under test made of it."""
    tape = item.stash.get(_TAPE, None)
    try:
        result = yield
    except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:
        if tape is not None and str(error) not in tape.unmatched:
            _fail_for(tape, error)
        raise
    finally:
        if tape is not None:
            tape.over, tape.reported = True, len(tape.unmatched)
    if tape is not None:
        _fail_for(tape)
        if left := tape.unplayed():
            lines = "\n  ".join([f"recorded in {tape.name}, but not sent:", *left])
            raise pytest.fail.Exception(lines, pytrace=False)
    return result


def _fail_for(tape: Tape, error: BaseException | None = None) -> None:
    """Fail for the requests that found no answer, if there were any; repeats (retries) are told once."""
    if tape.unmatched:
        after = [f"the test then ended with {type(error).__name__}: {error}"] if error else []
        message = "\n\n".join([*dict.fromkeys(tape.unmatched), *after])
        raise pytest.fail.Exception(message, pytrace=False) from error


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether the test did what it should; a conversation that differs is never an expected failure."""
    report = yield
    tape = item.stash.get(_TAPE, None)
    if tape is None:
        return report
    if tape.unmatched and call.excinfo is not None and report.outcome == "skipped":
        report.outcome = "failed"
        if hasattr(report, "wasxfail"):
            del report.wasxfail
    if call.when == "call":
        item.stash[_PASSED] = report.passed or hasattr(report, "wasxfail")
    return report


@pytest.fixture(autouse=True)
def _vllm_life(request: pytest.FixtureRequest) -> Iterator[Mapping[str, str]]:
    """Open the tape of a marked test and point the environment at its (first) server."""
    item: pytest.Item = request.node
    kinds = _kinds(item)
    if not kinds:
        yield {}
        return
    run, mounts = item.config.stash[_RUN], _mounts(kinds)
    if not (run.live or _recorded(item)):
        pytest.skip("no cassette can show this: --live")
    try:
        found = [run.servers.origin(kind) for kind in kinds] if run.live else []
    except NoServer as error:
        pytest.skip(str(error))
    except VLLMError as error:
        pytest.fail(str(error), pytrace=False)
    origins = [replace(origin, mount=mount) for origin, mount in zip(found, mounts, strict=False)]
    path = run.library.path(item)
    name = _shown(path, item.config)
    addresses = [origin.url for origin in origins] or [replay_url(mount) for mount in mounts]
    urls = dict(zip((kind.model for kind in kinds), addresses, strict=True))
    key = run.servers.api_key(kinds[0]) if run.live else None
    if not _recorded(item):
        with _environment(addresses[0], key):
            yield urls
        return
    with _environment(urls[kinds[0].model], key), open_tape(path, name, origins) as tape:
        item.stash[_TAPE] = tape
        yield urls
    if tape.over and (late := tape.unmatched[tape.reported :]):
        raise pytest.fail.Exception("\n\n".join(late), pytrace=False)
    if run.record and item.stash.get(_PASSED, False):
        tape.write(path)


def _environment(url: str, key: str | None) -> ExitStack:
    """Only this test's server is to be found in the environment: no other address, no other key."""
    stack = ExitStack()
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "VLLM_API_KEY"))]:
        patch.delenv(name)
    patch.setenv("VLLM_BASE_URL", url)
    if key:
        patch.setenv("VLLM_API_KEY", key)
    return stack


@pytest.fixture
def vllm_urls(_vllm_life: Mapping[str, str]) -> Mapping[str, str]:
    """The base URL, ending in ``/v1``, of each of this test's servers, by its model."""
    if not _vllm_life:
        pytest.fail("vllm_url and vllm_urls need @pytest.mark.vllm", pytrace=False)
    return _vllm_life


@pytest.fixture
def vllm_url(vllm_urls: Mapping[str, str]) -> str:
    """The base URL of this test's vLLM, ending in ``/v1``; of several, the first."""
    return next(iter(vllm_urls.values()))


@pytest.fixture
def vllm_server(request: pytest.FixtureRequest, vllm_url: str) -> Iterator[VLLMServer]:
    """This test's vLLM; of several, the first. The adapters take it as ``server=``."""
    key = _kinds(request.node)[0].options.get("api_key")
    with VLLMServer(vllm_url, api_key=key) as server:
        yield server


@pytest.fixture
def sent(request: pytest.FixtureRequest, _vllm_life: Mapping[str, str]) -> Sent:
    """What this test sent to its vLLM so far."""
    if not _vllm_life:
        pytest.fail("sent needs @pytest.mark.vllm", pytrace=False)
    if _TAPE not in request.node.stash:
        pytest.fail("sent needs a test with a cassette: not recorded=False", pytrace=False)
    tape: Tape = request.node.stash[_TAPE]
    return tape.sent


@pytest.fixture
def make_fault_server() -> Iterator[Callable[..., FaultServer]]:
    """Starts a `FaultServer` with the given options; stopped when the test ends."""
    with ExitStack() as running:
        yield lambda **options: running.enter_context(FaultServer(**options))


@pytest.fixture
def fault_server(make_fault_server: Callable[..., FaultServer]) -> FaultServer:
    """A healthy `FaultServer`, to be told how to fail."""
    return make_fault_server()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name the cassettes that no test owns."""
    run = config.stash[_RUN]
    if run.orphans:
        terminalreporter.section("cassettes without a test")
        for path in run.orphans:
            done = "removed" if run.record else "remove it, or let pytest --live --record do so"
            terminalreporter.line(f"{_shown(path, config)}: {done}")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear from a worker of pytest-xdist, which collected the tests, what it found; all of them find the same."""
    run = node.config.stash[_RUN]
    run.orphans = [Path(path) for path in getattr(node, "workeroutput", {}).get(_ORPHANS, run.orphans)]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A cassette that no test owns fails the run; a recording run removes it."""
    run = session.config.stash[_RUN]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_ORPHANS] = list(map(str, run.orphans))
    if not run.orphans or session.config.option.collectonly:
        return
    if run.record:
        for path in run.orphans:
            path.unlink(missing_ok=True)  # by another worker of pytest-xdist
    elif exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
