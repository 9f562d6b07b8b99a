"""The pytest plugin: one test, replayed from its cassette by default, and against a real vLLM with ``--live``.

A test that talks to a server is written once::

    @pytest.mark.vllm("tiny")
    def test_sends_top_k(vllm_url, sent):
        llm = ChatVLLM(base_url=vllm_url, top_k=1)
        assert llm.invoke("Hello").text
        assert sent.last.json["top_k"] == 1

By default it replays ``cassettes/.../test_sends_top_k.yaml``. The network is blocked; a request that was not recorded
fails the test, and so does a recorded request that is not sent. With ``--live`` the same test talks to a real vLLM.
With ``--live --record`` a test that passes also writes its cassette.

What no cassette can show, such as the effect of a cancelled request on the server, is marked
``@pytest.mark.vllm("tiny", recorded=False)``. Such a test talks to the server directly and is skipped by default.

A test may have several servers: with ``@pytest.mark.vllm("tiny", "minilm")``, ``vllm_urls["minilm"]`` is the address of
the second. ``vllm_url`` is the address of the first; requests to another are found under
``sent.to("/minilm/v1/embeddings")``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import InvalidVersion, Version
from pytest_recording import network

from vllm_adapters._pytest import CASSETTES
from vllm_adapters.errors import VLLMError
from vllm_adapters.server import VLLMServer
from vllm_adapters.testing.cassettes import CassetteStore, recorded_version, recorded_versions, replay_url
from vllm_adapters.testing.fault_server import FaultServer
from vllm_adapters.testing.recorder import CassettePlayer, use_cassette
from vllm_adapters.testing.sent import Sent
from vllm_adapters.testing.servers import ServerNotAvailable, Servers, ServerSpec
from vllm_adapters.testing.versions import MARKERS, check_end, expectation

_UNIX_SOCKETS = [r"/", r"\x00"]  # allowed: they are not the network, and multiprocessing needs them
_FRAMEWORKS = ("langchain-core", "langchain-openai", "llama-index-core", "haystack-ai")


@dataclass
class _State:
    """The plugin's state in one pytest session."""

    live: bool
    record: bool
    store: CassetteStore
    servers: Servers
    orphans: list[Path] = field(default_factory=list)


_STATE = pytest.StashKey[_State]()
_PLAYER = pytest.StashKey[CassettePlayer]()
_PASSED = pytest.StashKey[bool]()
_VERSION = pytest.StashKey[Version | None]()
_ORPHANS = "vllm_orphans"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--live``, ``--record`` and the ini option."""
    group = parser.getgroup("vllm", "vLLM: recorded or live")
    group.addoption("--live", action="store_true", dest="vllm_live", help="Talk to a real vLLM, not to cassettes.")
    group.addoption(
        "--record",
        action="store_true",
        dest="vllm_record",
        help="With --live: write the cassettes of the tests that pass, and remove cassettes without a test.",
    )
    group.addoption(
        "--vllm-version",
        dest="vllm_version",
        metavar="VERSION",
        help="With --live: version of the vLLM servers that are started here. Tests that choose one keep theirs.",
    )
    parser.addini(*CASSETTES, default="")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and copy the environment before a test changes it."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    config.addinivalue_line(
        "markers",
        'vllm(*models, **options): talks to a vLLM server that serves this model (default: "tiny"), or to one server '
        "per model. Options are those of the first server's LocalVLLM. recorded=False: live only.",
    )
    live, record = config.getoption("vllm_live"), config.getoption("vllm_record")
    if record and not live:
        raise pytest.UsageError("--record requires --live: cassettes are recorded from a real vLLM.")
    tests = [config.rootpath / path for path in config.getini("testpaths")]
    root = config.rootpath / (config.getini(CASSETTES[0]) or "cassettes")
    store = CassetteStore(root, [*tests, root.parent, config.rootpath])
    servers = Servers(os.environ, version=config.getoption("vllm_version"))
    config.stash[_STATE] = _State(live, record, store, servers)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop all servers, also after an interrupted session."""
    if _STATE in config.stash:
        config.stash[_STATE].servers.close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Report the mode, the recorded vLLM versions, and the versions of the SDK and the frameworks."""
    state = config.stash[_STATE]
    openai = _version("openai")
    transport = "httpx2" if openai.split(".")[0] == "3" else "httpx"
    frameworks = ", ".join(f"{name} {_version(name)}" for name in _FRAMEWORKS)
    recorded = recorded_versions(state.store.root)
    counts = ", ".join(f"{count} from vLLM {v}" for v, count in sorted(recorded.items())) or "none"
    mode = "replay"
    if state.live:
        mode = f"live, {state.servers.configured_url(ServerSpec()) or 'local vLLM'}"
        mode += ", recording" if state.record else ""
    return [f"vllm: {mode}; cassettes: {counts}", f"openai {openai} ({transport}); {frameworks}"]


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Report the servers of a live run, with the number of tests of each."""
    state = config.stash[_STATE]
    if not state.live:
        return []
    counts = Counter(" + ".join(map(str, specs)) for item in items if (specs := _specs(item)))
    chosen = config.getoption("vllm_version")
    of_version = f" of version {chosen}, unless a server has its own" if chosen else ""
    return [f"vllm: servers{of_version}:", *(f"  {name}: {count} tests" for name, count in counts.items())]


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _display_path(path: Path, config: pytest.Config) -> str:
    """Return ``path`` relative to the project, if it is inside of it."""
    return (path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path).as_posix()


def _specs(item: pytest.Item) -> tuple[ServerSpec, ...]:
    """Return the servers of a test; none without the marker."""
    marker = item.get_closest_marker("vllm")
    if marker is None:
        return ()
    options = {name: value for name, value in marker.kwargs.items() if name != "recorded"}
    first, *others = marker.args or (options.pop("model", "tiny"),)
    return ServerSpec(first, options), *(ServerSpec(model) for model in others)


def _is_recorded(item: pytest.Item) -> bool:
    """Return whether the test has a cassette."""
    marker = item.get_closest_marker("vllm")
    return marker is None or bool(marker.kwargs.get("recorded", True))


def _mounts(specs: tuple[ServerSpec, ...]) -> list[str]:
    """Return the path prefixes of a test's servers in its cassette: the first has none, the others their model."""
    return ["", *(f"/{spec.model}" for spec in specs[1:])]


def _owners(store: CassetteStore, items: list[pytest.Item]) -> dict[Path, str]:
    """Return the test id by cassette."""
    owners: dict[Path, str] = {}
    for item in items:
        owner = owners.setdefault(store.path(item), item.nodeid)
        if owner != item.nodeid:
            raise pytest.UsageError(
                f"{owner} and {item.nodeid} have the same cassette, because their names differ only in characters that "
                "file names cannot contain. Give one of them another id=..."
            )
    return owners


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Find cassettes without a test; in live runs, group the tests of one server."""
    state = config.stash[_STATE]
    partial = any("::" in arg for arg in config.args) or config.getoption("lf", False)
    owners = _owners(state.store, [item for item in items if _specs(item) and _is_recorded(item)])
    if not partial:
        state.orphans = state.store.orphans(owners, {item.path for item in items})
    for item in items:
        if _specs(item):
            # pytest-recording would add a second cassette to a test that also has its marker.
            item.own_markers = [marker for marker in item.own_markers if marker.name != "vcr"]
    if state.live:
        order: dict[tuple[ServerSpec, ...], int] = {(): -1}
        items.sort(key=lambda item: order.setdefault(_specs(item), len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Block the network around a replayed test and its fixtures; stop a live server after its last test."""
    state, specs = item.config.stash[_STATE], _specs(item)
    if not specs:
        return (yield)
    with nullcontext() if state.live else network.blocking_context(allowed_hosts=_UNIX_SOCKETS):
        result = yield
    if state.live:
        next_specs = _specs(nextitem) if nextitem else ()
        for spec in specs:
            if spec not in next_specs:
                state.servers.stop(spec)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test without a cassette in a replay, before its fixtures are set up."""
    if _specs(item) and not item.config.stash[_STATE].live and not _is_recorded(item):
        pytest.skip("live only (recorded=False): run with --live")


@pytest.hookimpl(wrapper=True, tryfirst=True, specname="pytest_runtest_call")
def pytest_runtest_call_on_older_version(item: pytest.Item) -> Generator[None, object, object]:
    """Expect of a test with a server that is older than it requires what its marker says."""
    server = item.stash.get(_VERSION, None)
    expected = expectation(item, server) if server is not None else None
    if server is None or expected is None:
        return (yield)
    _skip_without_meaning(item, server)
    error: BaseException | None = None
    result: object = None
    try:
        result = yield
    except (Exception, pytest.fail.Exception) as raised:
        error = raised
    check_end(expected, server, error)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail the test for a request without a response, even if the code under test caught the exception."""
    player = item.stash.get(_PLAYER, None)
    try:
        result = yield
    except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:
        if player is not None and str(error) not in player.unmatched:
            _fail_if_unmatched(player, error)
        raise
    finally:
        if player is not None:
            player.test_ended, player.reported = True, len(player.unmatched)
    if player is not None:
        _fail_if_unmatched(player)
        if unplayed := player.unplayed():
            lines = "\n  ".join([f"recorded in {player.name}, but not sent:", *unplayed])
            raise pytest.fail.Exception(lines, pytrace=False)
    return result


def _fail_if_unmatched(player: CassettePlayer, error: BaseException | None = None) -> None:
    """Fail for the requests without a response; each message is shown once, also after retries."""
    if player.unmatched:
        after = [f"the test then failed with {type(error).__name__}: {error}"] if error else []
        message = "\n\n".join([*dict.fromkeys(player.unmatched), *after])
        raise pytest.fail.Exception(message, pytrace=False) from error


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep whether the test passed; a request without a response is never an expected failure."""
    report = yield
    player = item.stash.get(_PLAYER, None)
    if player is None:
        return report
    if player.unmatched and call.excinfo is not None and report.outcome == "skipped":
        report.outcome = "failed"
        if hasattr(report, "wasxfail"):
            del report.wasxfail
    if call.when == "call":
        item.stash[_PASSED] = report.passed or hasattr(report, "wasxfail")
    return report


@pytest.fixture(autouse=True)
def _vllm_connection(request: pytest.FixtureRequest) -> Iterator[Mapping[str, str]]:
    """Open the cassette of a marked test and set the environment to its first server; the addresses by model."""
    item: pytest.Item = request.node
    specs = _specs(item)
    if not specs:
        yield {}
        return
    state, mounts = item.config.stash[_STATE], _mounts(specs)
    if state.live and (chosen := state.servers.chosen_version(specs[0])):
        _skip_without_meaning(item, _server_version(chosen))  # its server may not start with that version
    try:
        servers = [state.servers.origin(spec) for spec in specs] if state.live else []
    except ServerNotAvailable as error:
        pytest.skip(str(error))
    except VLLMError as error:
        pytest.fail(str(error), pytrace=False)
    origins = [replace(origin, mount=mount) for origin, mount in zip(servers, mounts, strict=False)]
    path = state.store.path(item)
    addresses = [origin.url for origin in origins] or [replay_url(mount) for mount in mounts]
    urls = dict(zip((spec.model for spec in specs), addresses, strict=True))
    key = state.servers.api_key(specs[0]) if state.live else None
    item.stash[_VERSION] = _server_version(origins[0].version if origins else recorded_version(path))
    if not _is_recorded(item):
        with _environment(addresses[0], key):
            yield urls
        return
    with _environment(addresses[0], key), use_cassette(path, _display_path(path, item.config), origins) as player:
        item.stash[_PLAYER] = player
        yield urls
    if player.test_ended and (late := player.unmatched[player.reported :]):
        raise pytest.fail.Exception("\n\n".join(late), pytrace=False)
    if state.record and item.stash.get(_PASSED, False):
        player.write(path)


def _server_version(text: str | None) -> Version | None:
    """Return the version of a server; ``None`` if it is unknown."""
    try:
        return Version(text) if text else None
    except InvalidVersion:
        return None


def _skip_without_meaning(item: pytest.Item, server: Version | None) -> None:
    """Skip a test whose marker says that it has no meaning on this version."""
    expected = expectation(item, server) if server is not None else None
    if expected is not None and expected.skip:
        pytest.skip(f"vLLM {server}, before {expected.since}: {expected.skip}")


def _environment(url: str, key: str | None) -> ExitStack:
    """Set the environment to one server; remove other addresses and keys."""
    stack = ExitStack()
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "VLLM_API_KEY"))]:
        patch.delenv(name)
    patch.setenv("VLLM_BASE_URL", url)
    if key:
        patch.setenv("VLLM_API_KEY", key)
    return stack


@pytest.fixture
def vllm_urls(_vllm_connection: Mapping[str, str]) -> Mapping[str, str]:
    """The base URLs, ending in ``/v1``, of the test's servers, by model."""
    if not _vllm_connection:
        pytest.fail("vllm_url and vllm_urls need @pytest.mark.vllm", pytrace=False)
    return _vllm_connection


@pytest.fixture
def vllm_url(vllm_urls: Mapping[str, str]) -> str:
    """The base URL, ending in ``/v1``, of the test's first server."""
    return next(iter(vllm_urls.values()))


@pytest.fixture
def vllm_version(request: pytest.FixtureRequest, vllm_url: str) -> Version:
    """The version of the test's first server, which also replies in the cassette."""
    version: Version | None = request.node.stash[_VERSION]
    if version is None:
        pytest.fail(f"The version of the vLLM at {vllm_url} is unknown. Record the test.", pytrace=False)
    return version


@pytest.fixture
def vllm_server(request: pytest.FixtureRequest, vllm_url: str) -> Iterator[VLLMServer]:
    """The test's first server, for the ``server=`` parameter of the adapters."""
    key = _specs(request.node)[0].options.get("api_key")
    with VLLMServer(vllm_url, api_key=key) as server:
        yield server


@pytest.fixture
def sent(request: pytest.FixtureRequest, _vllm_connection: Mapping[str, str]) -> Sent:
    """The requests that the test has sent so far."""
    if not _vllm_connection:
        pytest.fail("sent needs @pytest.mark.vllm", pytrace=False)
    if _PLAYER not in request.node.stash:
        pytest.fail("sent needs a test with a cassette, not recorded=False", pytrace=False)
    player: CassettePlayer = request.node.stash[_PLAYER]
    return player.sent


@pytest.fixture
def make_fault_server() -> Iterator[Callable[..., FaultServer]]:
    """A function that starts a ``FaultServer`` with the given options; it is stopped after the test."""
    with ExitStack() as running:
        yield lambda **options: running.enter_context(FaultServer(**options))


@pytest.fixture
def fault_server(make_fault_server: Callable[..., FaultServer]) -> FaultServer:
    """A healthy ``FaultServer``, ready for a fault."""
    return make_fault_server()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """List the cassettes without a test."""
    state = config.stash[_STATE]
    if state.orphans:
        terminalreporter.section("cassettes without a test")
        for path in state.orphans:
            action = "removed" if state.record else "remove it, or run pytest --live --record"
            terminalreporter.line(f"{_display_path(path, config)}: {action}")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Get the cassettes without a test from a worker of pytest-xdist; all workers find the same."""
    state = node.config.stash[_STATE]
    state.orphans = [Path(path) for path in getattr(node, "workeroutput", {}).get(_ORPHANS, state.orphans)]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run with cassettes without a test; remove them in a recording run."""
    state = session.config.stash[_STATE]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_ORPHANS] = list(map(str, state.orphans))
    if not state.orphans or session.config.option.collectonly:
        return
    if state.record:
        for path in state.orphans:
            path.unlink(missing_ok=True)  # another worker of pytest-xdist may have removed it
    elif exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
