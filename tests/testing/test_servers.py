"""The servers of live runs: which one a test gets, and when it is stopped."""

import pytest

from vllm_adapters.errors import LocalVLLMError
from vllm_adapters.testing import FaultServer
from vllm_adapters.testing.servers import ServerNotAvailable, Servers, ServerSpec

TINY, EMBED, LORA = ServerSpec(), ServerSpec("minilm"), ServerSpec("tiny", {"lora": True})


class Launcher:
    """Starts fault servers instead of local vLLM servers."""

    def __init__(self):
        self.started, self.stopped = [], []

    def __call__(self, spec):
        self.started.append(spec)
        return Launched(spec, self)


class Launched:
    def __init__(self, spec, launcher):
        self.spec, self.launcher, self.server = spec, launcher, FaultServer().start()
        self.base_url = self.server.root

    def stop(self):
        self.server.stop()
        self.launcher.stopped.append(self.spec)


@pytest.fixture
def launcher():
    return Launcher()


def test_one_server_per_spec_until_it_is_stopped(launcher):
    servers = Servers({}, launcher)
    first = servers.origin(TINY)
    assert first.url.endswith("/v1")
    assert first.version == "0.32.0"
    assert servers.origin(ServerSpec("tiny")) is first
    assert servers.origin(LORA).spec == "tiny lora=True"
    servers.stop(TINY)
    assert launcher.stopped == [TINY]
    servers.origin(TINY)
    servers.close()
    assert launcher.started == [TINY, LORA, TINY]
    assert launcher.stopped == [TINY, LORA, TINY]


def test_version_applies_to_servers_that_do_not_choose_one(launcher):
    servers = Servers({}, launcher, version="0.14.1")
    servers.origin(LORA)
    servers.origin(ServerSpec("tiny", {"version": "0.28.0"}))
    servers.close()
    assert [spec.options for spec in launcher.started] == [{"lora": True, "version": "0.14.1"}, {"version": "0.28.0"}]


def test_addresses_in_the_environment_are_used(launcher, fault_server, make_fault_server):
    embed = make_fault_server()
    servers = Servers({"VLLM_BASE_URL": fault_server.root, "VLLM_EMBED_BASE_URL": embed.url + "/"}, launcher)
    assert servers.origin(TINY).url == fault_server.url
    assert servers.origin(EMBED).url == embed.url
    servers.stop(TINY)
    servers.origin(LORA)
    servers.close()
    assert launcher.started == [LORA]  # the server in the environment may not have these options


def test_api_keys_are_sent_to_their_own_server_only(launcher, make_fault_server):
    guarded = make_fault_server(api_key="k-given")
    servers = Servers({"VLLM_BASE_URL": guarded.url, "VLLM_API_KEY": "k-given"}, launcher)
    assert servers.origin(TINY).replacements["k-given"] == "<key>"
    assert servers.api_key(TINY) == "k-given"
    assert servers.api_key(EMBED) is None
    assert "k-opt" not in f"{ServerSpec('tiny', {'api_key': 'k-opt'})}"


def test_errors_without_a_local_server(fault_server):
    attempts = []

    def launch(spec):
        attempts.append(spec)
        raise LocalVLLMError("disk full")

    given = Servers({"VLLM_BASE_URL": fault_server.url}, launch)
    with pytest.raises(
        ServerNotAvailable, match=r"VLLM_BASE_URL does not serve minilm, and .* cannot be started: disk full"
    ):
        given.origin(EMBED)
    servers = Servers({}, launch)
    for _ in range(2):
        with pytest.raises(LocalVLLMError, match="disk full"):
            servers.origin(TINY)
    assert attempts == [EMBED, TINY]  # a failed start is not repeated for each test


def test_live_runs_group_the_tests_of_a_server(project):
    project.write(
        """
ORDER = []

@pytest.mark.vllm(lora=True)
def test_lora_1(): ORDER.append("lora")
@pytest.mark.vllm
def test_tiny_1(): ORDER.append("tiny")
def test_none(): ORDER.append("none")
@pytest.mark.vllm("tiny", lora=True)
def test_lora_2(): ORDER.append("lora")
@pytest.mark.vllm
def test_tiny_2(): ORDER.append("tiny")
"""
    )
    names = [line.partition("::")[2] for line in project.live("--collect-only", "-q").outlines if "::" in line]
    assert names == ["test_none", "test_lora_1", "test_lora_2", "test_tiny_1", "test_tiny_2"]
    names = [line.partition("::")[2] for line in project.run("--collect-only", "-q").outlines if "::" in line]
    assert names[:2] == ["test_lora_1", "test_tiny_1"]
