import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vllm_adapters.errors import LocalVLLMError
from vllm_adapters.local import LocalVLLM, server
from vllm_adapters.local.models import TINY_DIR

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local vLLM is for Linux")


@pytest.fixture
def report(fake_environment, tmp_path):
    """Where the fake server writes what it was started with."""
    return tmp_path / "report.json"


@pytest.fixture
def started(report):
    """Starts a LocalVLLM on the fake server, gives what the server was told, and stops it at the end."""
    running = []

    def start(*args, env=None, **kwargs):
        local = LocalVLLM(
            *args, quiet=True, startup_timeout=20, env={"FAKE_REPORT": str(report), **(env or {})}, **kwargs
        )
        running.append(local)
        local.start()
        return local, json.loads(report.read_text())

    yield start
    for local in running:
        local.stop()


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def flag(told, name):
    arguments = told["arguments"]
    return arguments[arguments.index(name) + 1]


def test_tiny_is_served_with_parsers_and_without_thinking(started):
    local, told = started("tiny")
    assert flag(told, "--model") == str(TINY_DIR)
    assert flag(told, "--served-model-name") == local.model == "tiny"
    assert local.base_url == f"http://127.0.0.1:{flag(told, '--port')}/v1"
    assert flag(told, "--reasoning-parser") == "qwen3"
    assert flag(told, "--tool-call-parser") == "hermes"
    assert "--enable-auto-tool-choice" in told["arguments"]
    assert json.loads(flag(told, "--default-chat-template-kwargs")) == {"enable_thinking": False}
    assert flag(told, "--dtype") == "float32"
    assert flag(told, "--max-model-len") == "2048"


def test_bare_leaves_the_models_own_flags_out(started):
    _, told = started("tiny", bare=True, flags=("--max-num-seqs", "4"))
    assert not {"--reasoning-parser", "--tool-call-parser", "--enable-auto-tool-choice"} & set(told["arguments"])
    assert flag(told, "--model") == str(TINY_DIR)
    assert flag(told, "--max-model-len") == "2048"
    assert told["arguments"][-2:] == ["--max-num-seqs", "4"]


def test_own_flags_come_last(started):
    _, told = started("tiny", flags=("--max-num-seqs", "4"), max_model_len=512)
    assert told["arguments"][-2:] == ["--max-num-seqs", "4"]
    assert flag(told, "--max-model-len") == "512"


def test_bundled_models_are_offline_and_silent(started):
    _, told = started("tiny")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        assert told["environ"][name] == "1"


def test_hub_names_pass_through_and_may_download(started):
    _, told = started("someone/some-model")
    assert flag(told, "--model") == flag(told, "--served-model-name") == "someone/some-model"
    assert "HF_HUB_OFFLINE" not in told["environ"]
    assert "--max-model-len" not in told["arguments"]


def test_a_directory_is_served_under_the_name_given(started, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    _, told = started("mine")
    assert flag(told, "--model") == str(tmp_path / "mine")
    assert flag(told, "--served-model-name") == "mine"


def test_the_clients_variables_stay_out_of_the_server(started, monkeypatch):
    monkeypatch.setenv("VLLM_BASE_URL", "http://elsewhere:8000")
    monkeypatch.setenv("VLLM_API_KEY", "the key of another server")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    _, told = started("tiny")
    assert not {"VLLM_BASE_URL", "VLLM_API_KEY", "PYTHONPATH"} & set(told["environ"])


def test_the_key_travels_in_the_environment_only(started):
    _, told = started("tiny", api_key="secret")
    assert told["environ"]["VLLM_API_KEY"] == "secret"
    assert "secret" not in " ".join(told["arguments"])


def test_lora_switches_adapters_on(started, no_lora_made):
    _, told = started("tiny", lora=True)
    assert "--enable-lora" in told["arguments"]
    assert flag(told, "--lora-modules") == f"tiny-lora={no_lora_made}"
    assert told["environ"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


def test_lora_is_for_tiny():
    with pytest.raises(ValueError, match="tiny"):
        LocalVLLM("smollm2", lora=True)


def test_servers_get_a_core_each_and_the_callers_choice_wins(started):
    cores = [started("tiny")[1]["environ"]["VLLM_CPU_OMP_THREADS_BIND"] for _ in range(2)]
    available = sorted(os.sched_getaffinity(0))
    assert cores == [str(core) for core in (available * 2)[:2]]
    _, told = started("tiny", env={"VLLM_CPU_OMP_THREADS_BIND": "nobind"})
    assert told["environ"]["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_a_core_is_free_again_after_the_stop(started):
    first, told = started("tiny")
    first.stop()
    _, again = started("tiny")
    assert told["environ"]["VLLM_CPU_OMP_THREADS_BIND"] == again["environ"]["VLLM_CPU_OMP_THREADS_BIND"]


def test_death_at_the_start_shows_the_end_of_the_log(fake_environment):
    local = LocalVLLM("tiny", flags=["--die"], quiet=True, startup_timeout=20)
    with pytest.raises(LocalVLLMError, match="exit code 1") as caught:
        local.start()
    message = str(caught.value)
    assert message.endswith("RuntimeError: the engine core did not start")
    assert "line 39" in message
    assert "line 2\n" not in message
    assert str(local.log_path) in message
    assert local.pid is None


def test_a_start_that_takes_too_long_is_ended(fake_environment):
    local = LocalVLLM("tiny", flags=["--hang"], quiet=True, startup_timeout=1)
    with pytest.raises(LocalVLLMError, match="not ready after 1 s"):
        local.start()
    assert local.pid is None


def test_a_taken_port_is_tried_once_more_elsewhere(fake_environment, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        free = server.free_port()
        ports = iter([taken, free])
        monkeypatch.setattr(server, "free_port", lambda: next(ports))
        local = LocalVLLM("tiny", quiet=True, startup_timeout=20)
        local.start()
        assert local.base_url == f"http://127.0.0.1:{free}/v1"
        local.stop()


def test_a_port_that_was_asked_for_is_not_exchanged(fake_environment):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LocalVLLMError, match=f"Port {port} is taken"):
            LocalVLLM("tiny", port=port, quiet=True, startup_timeout=20).start()


def test_another_server_on_the_port_is_not_mistaken_for_this_one(started, fake_environment, monkeypatch):
    first, _ = started("tiny")
    taken = int(first.base_url.removesuffix("/v1").rpartition(":")[2])
    monkeypatch.setattr(server, "free_port", lambda: taken)
    with pytest.raises(LocalVLLMError, match="Address already in use"):
        LocalVLLM("tiny", quiet=True, startup_timeout=20).start()


def test_stop_ends_the_server_and_all_its_children(started, tmp_path):
    local, _ = started("tiny", env={"FAKE_CHILDREN": str(tmp_path / "children")})
    pids = [local.pid, *json.loads((tmp_path / "children").read_text())]
    assert not any(gone(pid) for pid in pids)
    local.stop()
    assert all(gone(pid) for pid in pids)
    with pytest.raises(LocalVLLMError, match="not running"):
        _ = local.base_url
    local.stop()  # once more does nothing


def test_children_of_a_server_that_crashed_are_ended_too(started, tmp_path):
    local, _ = started("tiny", env={"FAKE_CHILDREN": str(tmp_path / "children")})
    os.kill(local.pid, signal.SIGKILL)
    assert local.wait() == 128 + signal.SIGKILL
    assert all(gone(pid) for pid in json.loads((tmp_path / "children").read_text()))


def test_a_stopped_server_can_be_started_again(started):
    local, _ = started("tiny")
    local.stop()
    local.start()
    assert local.pid is not None


def test_starting_twice_is_refused(started):
    local, _ = started("tiny")
    with pytest.raises(LocalVLLMError, match="runs already"):
        local.start()


def test_a_fork_neither_stops_the_server_nor_keeps_it_alive(started):
    local, _ = started("tiny")
    pid = local.pid
    fork = multiprocessing.get_context("fork").Process(target=lambda: (local.stop(), time.sleep(60)))
    fork.start()
    try:
        time.sleep(1)
        assert not gone(pid)
        local.stop()
        assert gone(pid)
    finally:
        fork.kill()
        fork.join()


def test_a_guard_that_cannot_run_is_reported(fake_environment):
    fake_environment.python.write_text("#!/bin/sh\necho this Python is broken >&2\nexit 3\n")
    with pytest.raises(LocalVLLMError, match=r"exit code 3(?s:.*)this Python is broken"):
        LocalVLLM("tiny", quiet=True, startup_timeout=20).start()


PROGRAM = """
import sys, time
from pathlib import Path
from vllm_adapters.local import LocalVLLM, environment, server
server.prepare_environment = lambda version, progress: environment.Environment(Path(sys.argv[1]), "0.32.0")
local = LocalVLLM("tiny", quiet=True, env={"FAKE_CHILDREN": sys.argv[2]})
local.start()
print(local.pid, flush=True)
if sys.argv[3] == "leave":
    sys.exit()
time.sleep(3600)
"""


@pytest.mark.parametrize("how", ["leave", "SIGKILL", "SIGTERM", "SIGINT"])
def test_no_server_outlives_its_program(fake_environment, tmp_path, how):
    children = tmp_path / "children"
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, fake_environment.path, children, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    pids = [int(program.stdout.readline()), *json.loads(children.read_text())]
    if how != "leave":
        assert not any(gone(pid) for pid in pids)
        program.send_signal(getattr(signal, how))
    program.wait(15)
    program.stdout.close()
    wait_until(lambda: all(gone(pid) for pid in pids))
