"""Which server a test gets in a live run, and when it is stopped."""

import pytest

from vllm_adapters.errors import LocalVLLMError
from vllm_adapters.testing import FaultServer
from vllm_adapters.testing.servers import Kind, NoServer, Servers

TINY, EMBED, LORA = Kind(), Kind("minilm"), Kind("tiny", {"lora": True})


class Launcher:
    """Starts fault servers where a run would start local vLLMs."""

    def __init__(self):
        self.started, self.stopped = [], []

    def __call__(self, kind):
        self.started.append(kind)
        return Launched(kind, self)


class Launched:
    def __init__(self, kind, launcher):
        self.kind, self.launcher, self.server = kind, launcher, FaultServer().start()
        self.base_url = self.server.root

    def stop(self):
        self.server.stop()
        self.launcher.stopped.append(self.kind)


@pytest.fixture
def launcher():
    return Launcher()


def test_one_server_per_kind_until_it_is_retired(launcher):
    servers = Servers({}, launcher)
    first = servers.origin(TINY)
    assert first.url.endswith("/v1")
    assert first.version == "0.32.0"
    assert servers.origin(Kind("tiny")) is first
    assert servers.origin(LORA).kind == "tiny lora=True"
    servers.retire(TINY)
    assert launcher.stopped == [TINY]
    servers.origin(TINY)
    servers.close()
    assert launcher.started == [TINY, LORA, TINY]
    assert launcher.stopped == [TINY, LORA, TINY]


def test_addresses_in_the_environment(launcher, fault_server, make_fault_server):
    embed = make_fault_server()
    servers = Servers({"VLLM_BASE_URL": fault_server.root, "VLLM_EMBED_BASE_URL": embed.url + "/"}, launcher)
    assert servers.origin(TINY).url == fault_server.url
    assert servers.origin(EMBED).url == embed.url
    servers.retire(TINY)
    servers.origin(LORA)
    servers.close()
    assert launcher.started == [LORA]  # what is asked of the server, a given one may not have


def test_keys_go_only_where_they_belong(launcher, make_fault_server):
    guarded = make_fault_server(api_key="k-given")
    servers = Servers({"VLLM_BASE_URL": guarded.url, "VLLM_API_KEY": "k-given"}, launcher)
    assert servers.origin(TINY).names["k-given"] == "<key>"
    assert servers.api_key(TINY) == "k-given"
    assert servers.api_key(EMBED) is None
    assert "k-opt" not in f"{Kind('tiny', {'api_key': 'k-opt'})}"


def test_no_local_server(fault_server):
    tries = []

    def launch(kind):
        tries.append(kind)
        raise LocalVLLMError("no room")

    given = Servers({"VLLM_BASE_URL": fault_server.url}, launch)
    with pytest.raises(NoServer, match="VLLM_BASE_URL is not a minilm server, and here: no room"):
        given.origin(EMBED)
    servers = Servers({}, launch)
    for _ in range(2):
        with pytest.raises(LocalVLLMError, match="no room"):
            servers.origin(TINY)
    assert tries == [EMBED, TINY]  # a start that failed is not tried again for each test


def test_live_runs_bring_the_tests_of_a_server_together(project):
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
