"""A cache, an environment and a server without vLLM."""

import signal
import sys
from pathlib import Path

import pytest

from vllm_adapters.local import environment, models, server

FAKE = Path(__file__).with_name("fake_vllm.py")


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a background process of a shell ignores Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vllm-adapters"


@pytest.fixture
def fake_environment(cache, monkeypatch):
    """An environment whose Python runs the fake server for ``-m vllm...``, and anything else unchanged."""
    fake = environment.Environment(cache / "env-0.32.0", "0.32.0")
    fake.python.parent.mkdir(parents=True)
    fake.python.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = "-m" ]; then shift 2; exec "{sys.executable}" "{FAKE}" "$@"; fi\n'
        f'exec "{sys.executable}" "$@"\n'
    )
    fake.python.chmod(0o755)
    monkeypatch.setattr(server, "prepare_environment", lambda version, progress: fake)
    return fake


@pytest.fixture
def fake_lora(monkeypatch, tmp_path):
    """The directory of a LoRA adapter that is not built."""
    monkeypatch.setattr(server, "prepare_lora", lambda environment, progress, seed=0: tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def recorded_commands(monkeypatch):
    """The commands that would have run."""
    commands = []

    def run(command, *, log, progress, title):
        commands.append([str(part) for part in command])

    monkeypatch.setattr(environment, "run", run)
    monkeypatch.setattr(models, "run", run)
    return commands
