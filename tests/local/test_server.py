"""Start and stop of a local server, with a fake vLLM."""

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
from vllm_adapters.local.models import MODELS, TINY_DIR

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local vLLM is for Linux")


@pytest.fixture
def report(fake_environment, tmp_path):
    """The file to which the fake server writes its arguments and environment."""
    return tmp_path / "report.json"


@pytest.fixture
def start_server(report):
    """Start a LocalVLLM with the fake server, and return it with the server's arguments and environment."""
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


def has_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def flag(launch, name):
    arguments = launch["arguments"]
    return arguments[arguments.index(name) + 1]


def test_tiny_has_parsers_and_does_not_think_by_default(start_server):
    local, launch = start_server("tiny")
    assert flag(launch, "--model") == str(TINY_DIR)
    assert flag(launch, "--served-model-name") == local.model == "tiny"
    assert local.base_url == f"http://127.0.0.1:{flag(launch, '--port')}/v1"
    assert flag(launch, "--reasoning-parser") == "qwen3"
    assert flag(launch, "--tool-call-parser") == "hermes"
    assert "--enable-auto-tool-choice" in launch["arguments"]
    assert json.loads(flag(launch, "--default-chat-template-kwargs")) == {"enable_thinking": False}
    assert flag(launch, "--dtype") == "float32"
    assert flag(launch, "--max-model-len") == "2048"


def test_bare_leaves_out_the_flags_of_the_model(start_server):
    _, launch = start_server("tiny", bare=True, flags=("--max-num-seqs", "4"))
    assert not {"--reasoning-parser", "--tool-call-parser", "--enable-auto-tool-choice"} & set(launch["arguments"])
    assert flag(launch, "--model") == str(TINY_DIR)
    assert flag(launch, "--max-model-len") == "2048"
    assert launch["arguments"][-2:] == ["--max-num-seqs", "4"]


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        ("0.11.0", {"--enable-per-request-metrics", "--default-chat-template-kwargs"}),
        ("0.14.1", {"--enable-per-request-metrics"}),
        ("0.25.0", set()),
    ],
)
def test_flags_that_a_version_lacks_are_left_out(start_server, version, missing):
    _, launch = start_server("tiny", version=version, flags=("--max-num-seqs", "4"))
    given = {part for part in MODELS["tiny"].flags if part.startswith("--")}
    assert given - set(launch["arguments"]) == missing
    assert ("enable_thinking" in str(launch["arguments"])) == (version != "0.11.0")
    assert launch["arguments"][-2:] == ["--max-num-seqs", "4"]


@pytest.mark.parametrize(("version", "needed"), [("0.14.1", False), ("0.18.1", True), ("0.28.0", False)])
def test_libraries_that_a_version_insists_on_are_named(start_server, version, needed):
    _, launch = start_server("tiny", version=version)
    preloaded = launch["environ"].get("LD_PRELOAD", "")
    assert ("libtcmalloc" in preloaded and "libiomp" in preloaded) == needed
    assert all(Path(path).exists() for path in filter(None, preloaded.split(":")))


def test_rust_frontend_is_started_by_the_command_that_has_it(fake_environment, start_server):
    fake_environment.python.write_text(fake_environment.python.read_text().replace("shift 2", "shift 4"))
    _, launch = start_server("tiny", version="0.33.0", rust_frontend=True)
    assert launch["environ"]["VLLM_USE_RUST_FRONTEND"] == "1"
    assert flag(launch, "--served-model-name") == "tiny"


def test_rust_frontend_requires_a_version_that_has_it():
    with pytest.raises(ValueError, match=r"requires vLLM 0\.33\.0, not 0\.32\.0"):
        LocalVLLM("tiny", version="0.32.0", rust_frontend=True)


def test_additional_flags_come_last(start_server):
    _, launch = start_server("tiny", flags=("--max-num-seqs", "4"), max_model_len=512)
    assert launch["arguments"][-2:] == ["--max-num-seqs", "4"]
    assert flag(launch, "--max-model-len") == "512"


def test_bundled_models_are_offline_without_telemetry(start_server):
    _, launch = start_server("tiny")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        assert launch["environ"][name] == "1"


def test_hugging_face_names_are_passed_on_and_may_download(start_server):
    _, launch = start_server("someone/some-model")
    assert flag(launch, "--model") == flag(launch, "--served-model-name") == "someone/some-model"
    assert "HF_HUB_OFFLINE" not in launch["environ"]
    assert "--max-model-len" not in launch["arguments"]


def test_directory_is_served_under_the_given_name(start_server, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    _, launch = start_server("mine")
    assert flag(launch, "--model") == str(tmp_path / "mine")
    assert flag(launch, "--served-model-name") == "mine"


def test_variables_of_clients_are_not_passed_on(start_server, monkeypatch):
    monkeypatch.setenv("VLLM_BASE_URL", "http://elsewhere:8000")
    monkeypatch.setenv("VLLM_API_KEY", "the key of another server")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    _, launch = start_server("tiny")
    assert not {"VLLM_BASE_URL", "VLLM_API_KEY", "PYTHONPATH"} & set(launch["environ"])


def test_key_is_passed_in_the_environment_only(start_server):
    _, launch = start_server("tiny", api_key="secret")
    assert launch["environ"]["VLLM_API_KEY"] == "secret"
    assert "secret" not in " ".join(launch["arguments"])


def test_lora_enables_adapters(start_server, fake_lora):
    _, launch = start_server("tiny", lora=True)
    assert "--enable-lora" in launch["arguments"]
    assert flag(launch, "--lora-modules") == f"tiny-lora={fake_lora}"
    assert launch["environ"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


def test_lora_requires_tiny():
    with pytest.raises(ValueError, match="tiny"):
        LocalVLLM("smollm2", lora=True)


def test_each_server_has_its_own_core_unless_the_caller_chooses(start_server):
    cores = [start_server("tiny")[1]["environ"]["VLLM_CPU_OMP_THREADS_BIND"] for _ in range(2)]
    available = sorted(os.sched_getaffinity(0))
    assert cores == [str(core) for core in (available * 2)[:2]]
    _, launch = start_server("tiny", env={"VLLM_CPU_OMP_THREADS_BIND": "nobind"})
    assert launch["environ"]["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_core_is_released_after_stop(start_server):
    local, first = start_server("tiny")
    local.stop()
    _, second = start_server("tiny")
    assert first["environ"]["VLLM_CPU_OMP_THREADS_BIND"] == second["environ"]["VLLM_CPU_OMP_THREADS_BIND"]


def test_crash_at_startup_shows_the_end_of_the_log(fake_environment):
    local = LocalVLLM("tiny", flags=["--die"], quiet=True, startup_timeout=20)
    with pytest.raises(LocalVLLMError, match="exited with code 1 while starting") as caught:
        local.start()
    message = str(caught.value)
    assert message.endswith("RuntimeError: the engine core did not start")
    assert "line 39" in message
    assert "line 2\n" not in message
    assert str(local.log_path) in message
    assert local.pid is None


def test_startup_timeout_stops_the_server(fake_environment):
    local = LocalVLLM("tiny", flags=["--hang"], quiet=True, startup_timeout=1)
    with pytest.raises(LocalVLLMError, match="not ready after 1 s"):
        local.start()
    assert local.pid is None


def test_port_conflict_is_retried_with_another_port(fake_environment, monkeypatch):
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


def test_requested_port_in_use_raises(fake_environment):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LocalVLLMError, match=f"Port {port} is in use"):
            LocalVLLM("tiny", port=port, quiet=True, startup_timeout=20).start()


def test_other_server_on_the_port_is_detected(start_server, fake_environment, monkeypatch):
    first, _ = start_server("tiny")
    taken = int(first.base_url.removesuffix("/v1").rpartition(":")[2])
    monkeypatch.setattr(server, "free_port", lambda: taken)
    with pytest.raises(LocalVLLMError, match="Address already in use"):
        LocalVLLM("tiny", quiet=True, startup_timeout=20).start()


def test_stop_ends_the_server_and_its_children(start_server, tmp_path):
    local, _ = start_server("tiny", env={"FAKE_CHILDREN": str(tmp_path / "children")})
    pids = [local.pid, *json.loads((tmp_path / "children").read_text())]
    assert not any(has_ended(pid) for pid in pids)
    local.stop()
    assert all(has_ended(pid) for pid in pids)
    with pytest.raises(LocalVLLMError, match="not running"):
        _ = local.base_url
    local.stop()  # does nothing the second time


def test_children_of_a_crashed_server_are_ended(start_server, tmp_path):
    local, _ = start_server("tiny", env={"FAKE_CHILDREN": str(tmp_path / "children")})
    os.kill(local.pid, signal.SIGKILL)
    assert local.wait() == 128 + signal.SIGKILL
    assert all(has_ended(pid) for pid in json.loads((tmp_path / "children").read_text()))


def test_stopped_server_can_be_started_again(start_server):
    local, _ = start_server("tiny")
    local.stop()
    local.start()
    assert local.pid is not None


def test_starting_twice_raises(start_server):
    local, _ = start_server("tiny")
    with pytest.raises(LocalVLLMError, match="already running"):
        local.start()


def test_fork_neither_stops_the_server_nor_keeps_it_running(start_server):
    local, _ = start_server("tiny")
    pid = local.pid
    fork = multiprocessing.get_context("fork").Process(target=lambda: (local.stop(), time.sleep(60)))
    fork.start()
    try:
        time.sleep(1)
        assert not has_ended(pid)
        local.stop()
        assert has_ended(pid)
    finally:
        fork.kill()
        fork.join()


def test_broken_interpreter_is_reported(fake_environment):
    fake_environment.python.write_text("#!/bin/sh\necho this Python is broken >&2\nexit 3\n")
    with pytest.raises(LocalVLLMError, match=r"exited with code 3(?s:.*)this Python is broken"):
        LocalVLLM("tiny", quiet=True, startup_timeout=20).start()


PROGRAM = """
import sys, time
from pathlib import Path
from vllm_adapters.local import LocalVLLM, environment, server
server.prepare_environment = lambda version, progress: environment.Environment(Path(sys.argv[1]), "0.32.0")
local = LocalVLLM("tiny", quiet=True, env={"FAKE_CHILDREN": sys.argv[2]})
local.start()
print(local.pid, flush=True)
if sys.argv[3] == "exit":
    sys.exit()
time.sleep(3600)
"""


@pytest.mark.parametrize("end", ["exit", "SIGKILL", "SIGTERM", "SIGINT"])
def test_server_ends_with_its_program(fake_environment, tmp_path, end):
    children = tmp_path / "children"
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, fake_environment.path, children, end],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    pids = [int(program.stdout.readline()), *json.loads(children.read_text())]
    if end != "exit":
        assert not any(has_ended(pid) for pid in pids)
        program.send_signal(getattr(signal, end))
    program.wait(15)
    program.stdout.close()
    wait_until(lambda: all(has_ended(pid) for pid in pids))
