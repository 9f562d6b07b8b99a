"""Start and stop a local vLLM server."""

from __future__ import annotations

import atexit
import itertools
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

from vllm_adapters.local.environment import (
    Environment,
    add_packages,
    cache_dir,
    clean_environ,
    prepare_environment,
)
from vllm_adapters.local.models import MODELS, BundledModel, prepare_lora, prepare_model
from vllm_adapters.local.ports import free_port, is_listening, is_taken
from vllm_adapters.local.progress import Progress
from vllm_adapters.local.releases import RUST_FRONTEND_VERSIONS, find_release, supported_flags

if TYPE_CHECKING:
    from vllm_adapters.server import VLLMServer

__all__ = ["DEFAULT_VERSION", "LocalVLLM"]

DEFAULT_VERSION = "0.32.0"
_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_LORA_FLAGS = ("--enable-lora", "--max-lora-rank", "8", "--max-loras", "2")
_PORT_TAKEN = "Address already in use"  # in the log
_core_counter = itertools.count()


class LocalVLLM:
    """A vLLM server on this machine's CPU, with a small model.

    >>> from vllm_adapters import LocalVLLM
    >>> with LocalVLLM("tiny") as server:  # a VLLMServer
    ...     server.version
    '0.32.0'

    The first use installs vLLM into a private environment in the user's cache directory, which takes minutes and
    about 4 GB. Later starts take about a minute. The server never outlives the program that started it. The
    constructor starts nothing; ``start()`` or the ``with`` block does.

    Args:
        model: Bundled model (``"tiny"``, ``"eye"``, ``"ear"``, ``"smollm2"``, ``"minilm"``, ``"cross-encoder"`` or
            ``"classifier"``; all offline), path of a model directory, or Hugging Face name, which vLLM downloads.
        flags: Additional flags for vLLM, such as ``("--max-num-seqs", "4")``. They come last and take precedence.
        port: Port of the server. Default: a free port.
        version: Version of vLLM, 0.11.0 or newer. Default flags of a bundled model that it does not have are left out.
        api_key: API key that the server requires. Default: none. It is passed as an environment variable, never on
            the command line.
        max_model_len: Context length in tokens. Default: the bundled model's, or vLLM's own choice.
        env: Additional environment variables for the server. They take precedence.
        quiet: Report no progress on standard error.
        startup_timeout: Time limit from the start of the server to its first response, in seconds, without the
            installation.
        lora: Enable LoRA for ``"tiny"``: serve a random adapter as ``"tiny-lora"``, and allow loading more at
            run time.
        bare: Leave out the default flags of a bundled model (parsers for tools and reasoning, reports), as
            ``vllm serve MODEL`` does.
        rust_frontend: Serve with vLLM's HTTP server in Rust (``VLLM_USE_RUST_FRONTEND=1``). Needs 0.33.0.

    Attributes:
        model: Served model name: the ``model`` argument.

    Raises:
        ValueError: ``model`` is neither bundled, nor a directory, nor a Hugging Face name; ``lora`` with a model other
            than ``"tiny"``, ``rust_frontend`` with a version that does not have it, or ``port`` out of range.
    """

    def __init__(
        self,
        model: str = "tiny",
        *,
        flags: Sequence[str] = (),
        port: int | None = None,
        version: str = DEFAULT_VERSION,
        api_key: str | None = None,
        max_model_len: int | None = None,
        env: Mapping[str, str] | None = None,
        quiet: bool = False,
        startup_timeout: float = 600.0,
        lora: bool = False,
        bare: bool = False,
        rust_frontend: bool = False,
    ) -> None:
        _reject_unknown_model(model)
        if lora and model != "tiny":
            raise ValueError('`lora` requires the model "tiny". For another model, pass its LoRA flags in `flags`.')
        if rust_frontend and version not in RUST_FRONTEND_VERSIONS:
            raise ValueError(
                f"`rust_frontend` requires vLLM {' or '.join(RUST_FRONTEND_VERSIONS)}, not {version}. Set `version`."
            )
        if port is not None and not 0 < port < 1 << 16:
            raise ValueError(f"`port` must be 1 to 65535, not {port}. Leave it out to use a free port.")
        self.model = model
        self._bundled: BundledModel | None = MODELS.get(model)
        self._flags = tuple(flags)
        self._requested_port = port
        self._version = version
        self._api_key = api_key
        self._max_model_len = max_model_len or (self._bundled.max_model_len if self._bundled else None)
        self._env = dict(env or {})
        self._startup_timeout = startup_timeout
        self._lora = lora
        self._bare = bare
        self._rust_frontend = rust_frontend
        self._progress = Progress(quiet=quiet)
        self._port: int | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._log_path: Path | None = None
        self._core_lock: IO[str] | None = None
        self._owner_pid: int | None = None

    def __repr__(self) -> str:
        state = self.base_url if self._port is not None else "not running"
        return f"LocalVLLM({self.model!r}, {state})"

    @property
    def base_url(self) -> str:
        """Base URL of the OpenAI API, such as ``"http://127.0.0.1:43210/v1"``.

        Raises:
            LocalVLLMError: The server is not running.
        """
        if self._port is None:
            raise _error("The server is not running. Call start(), or use a with block.")
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def pid(self) -> int | None:
        """Process id of vLLM's API server, or ``None`` if it is not running."""
        return self._pid

    @property
    def log_path(self) -> Path | None:
        """Log file of vLLM, or ``None`` before the first start."""
        return self._log_path

    def start(self) -> None:
        """Install vLLM and the model if necessary, start the server, and wait until it responds.

        Raises:
            LocalVLLMError: The platform has no CPU build, the installation failed, or the server exited or took
                longer than ``startup_timeout``. The message ends with the last lines of its log.
        """
        if self._supervisor is not None:
            raise _error(f"The server is already running at {self.base_url}. Call stop() first.")
        if self._requested_port is not None and is_taken(self._requested_port):
            raise _error(f"Port {self._requested_port} is in use. Choose another, or leave it out to use a free port.")
        environment, model, adapter = self._prepare()
        for is_last_attempt in (self._requested_port is not None, True):
            port = self._requested_port or free_port()
            try:
                self._launch(environment, self._command(environment, model, port, adapter), port)
                self._wait_until_ready()
            except BaseException:
                taken = _PORT_TAKEN in self.log_tail(200)
                self.stop()
                if taken and not is_last_attempt:
                    continue  # another process has taken the port in the meantime
                raise
            return

    def install(self) -> None:
        """Install vLLM and the model if necessary, without starting the server. ``start()`` does this, too.

        Raises:
            LocalVLLMError: The platform has no CPU build, or the installation failed.
        """
        self._prepare()

    def stop(self) -> None:
        """Stop the server and all its child processes. Does nothing if it is not running."""
        supervisor, self._supervisor = self._supervisor, None
        self._port = self._pid = None
        if supervisor is not None:
            atexit.unregister(self.stop)
            assert supervisor.stdin is not None  # noqa: S101 - it is a pipe
            assert supervisor.stdout is not None  # noqa: S101 - it is a pipe
            supervisor.stdin.close()
            supervisor.stdout.close()
            if os.getpid() == self._owner_pid:  # not in a fork of the program that started it
                supervisor.terminate()  # a fork may still hold its standard input open
                supervisor.wait()
        if self._core_lock is not None:
            self._core_lock.close()
            self._core_lock = None

    def __enter__(self) -> VLLMServer:
        from vllm_adapters.server import VLLMServer

        self.start()
        return VLLMServer(self.base_url, api_key=self._api_key)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self) -> int:
        """Wait until the server exits, and return its exit code.

        Raises:
            LocalVLLMError: The server is not running.
        """
        if self._supervisor is None:
            raise _error("The server is not running. Call start() first.")
        return self._supervisor.wait()

    def make_lora(self, seed: int) -> Path:
        """Return the directory of a small random LoRA adapter for ``tiny``, to load at run time.

        Each adapter is built once and cached.

        Args:
            seed: Seed of the weights.

        Raises:
            LocalVLLMError: The build failed.
        """
        return prepare_lora(prepare_environment(self._version, self._progress), self._progress, seed=seed)

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the server's log."""
        if self._log_path is None or not self._log_path.is_file():
            return ""
        return "\n".join(self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _prepare(self) -> tuple[Environment, str, Path | None]:
        """Return the environment, the path or name of the model, and the LoRA adapter."""
        environment = prepare_environment(self._version, self._progress)
        if self._bundled:
            add_packages(environment, self._bundled.packages, self._progress)
            model = str(prepare_model(self._bundled, environment, self._progress))
        else:
            model = str(Path(self.model).resolve()) if Path(self.model).is_dir() else self.model
        return environment, model, prepare_lora(environment, self._progress) if self._lora else None

    def _launch(self, environment: Environment, command: list[str], port: int) -> None:
        logs = cache_dir() / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._log_path = logs / f"{Path(self.model).name}-{port}.log"
        self._log_path.write_text("", encoding="utf-8")
        core, self._core_lock = _claim_core()
        self._owner_pid = os.getpid()
        with self._log_path.open("ab") as log:
            self._supervisor = subprocess.Popen(  # noqa: S603 - our own command
                [environment.python, "-I", str(_SUPERVISOR), str(self._log_path), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environ(core),
                start_new_session=True,  # Ctrl-C interrupts this program only, which then stops the server
            )
        atexit.register(self.stop)
        self._port = port
        assert self._supervisor.stdout is not None  # noqa: S101 - it is a pipe
        self._pid = int(self._supervisor.stdout.readline() or 0) or None

    def _wait_until_ready(self) -> None:
        start = time.monotonic()
        title = f"starting vLLM {self._version} with {self.model} on port {self._port}"
        with self._progress.step(title):
            while not self._is_ready():
                assert self._supervisor is not None  # noqa: S101 - it was launched
                code = self._supervisor.poll()
                if code is not None:
                    raise _error(f"vLLM exited with code {code} while starting. {self._log_excerpt()}")
                if time.monotonic() - start > self._startup_timeout:
                    raise _error(
                        f"vLLM was not ready after {self._startup_timeout:g} s. If it was still loading, increase "
                        f"`startup_timeout`. {self._log_excerpt()}"
                    )
                self._progress.update(self.log_tail(1))
                time.sleep(0.2)
        seconds = time.monotonic() - start
        self._progress.print(f"vLLM {self._version} serves {self.model} at {self.base_url} ({seconds:.0f} s)")

    def _is_ready(self) -> bool:
        """Return whether this server responds, and not another one that was using the port before."""
        assert self._port is not None  # noqa: S101 - it was launched
        if self._pid is None or not is_listening(self._pid, self._port):
            return False
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        request = urllib.request.Request(f"{self.base_url}/models", headers=headers)  # noqa: S310 - always http
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # local addresses need no proxy
        try:
            with opener.open(request, timeout=5) as response:
                served = json.load(response)["data"]
        except (OSError, ValueError):  # not ready yet
            return False
        return any(model["id"] == self.model for model in served)

    def _command(self, environment: Environment, model: str, port: int, adapter: Path | None) -> list[str]:
        command = [str(environment.python), "-m"]
        if self._rust_frontend:
            command += ["vllm.entrypoints.cli.main", "serve", model]
        else:
            command += ["vllm.entrypoints.openai.api_server", "--model", model]
        command += ["--served-model-name", self.model, "--host", "127.0.0.1", "--port", str(port)]
        # The CPU build gives wrong results in bfloat16, and compiling does not pay off for small models.
        command += ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "16"]
        if self._max_model_len:
            command += ["--max-model-len", str(self._max_model_len)]
        if self._bundled and not self._bare:
            command += supported_flags(self._bundled.flags, self._version)
        if adapter:
            command += [*_LORA_FLAGS, "--lora-modules", f"tiny-lora={adapter}"]
        return [*command, *self._flags]

    def _environ(self, core: int) -> dict[str, str]:
        # vLLM would require the key in VLLM_API_KEY, and warns about VLLM_ variables that it does not know.
        environ = {k: v for k, v in clean_environ().items() if k not in ("VLLM_BASE_URL", "VLLM_API_KEY")}
        environ |= {
            "VLLM_CPU_KVCACHE_SPACE": "1",  # gigabytes
            "VLLM_CPU_OMP_THREADS_BIND": str(core),  # by default vLLM binds every server to the same core
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "PYTHONUNBUFFERED": "1",
        }
        if find_release(self._version).needs_preloaded_libraries:
            environ["LD_PRELOAD"] = _stand_ins()
        if self._bundled or Path(self.model).is_dir():
            environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if self._rust_frontend:
            environ["VLLM_USE_RUST_FRONTEND"] = "1"
        if self._lora:
            environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        if self._api_key:
            environ["VLLM_API_KEY"] = self._api_key
        return environ | self._env

    def _log_excerpt(self) -> str:
        return f"Its log, {self._log_path}, ends with:\n{self.log_tail()}"


def _reject_unknown_model(model: str) -> None:
    """Raise for what is neither a bundled model nor a directory, and cannot be a name of the Hugging Face hub."""
    if model in MODELS or (model and Path(model).is_dir()):
        return
    if "/" not in model or model.startswith((".", "/", "~")):
        raise ValueError(
            f"{model!r} is neither a bundled model ({', '.join(MODELS)}), nor a directory, nor a Hugging Face name "
            "with its owner, such as Qwen/Qwen3-8B."
        )


def _claim_core() -> tuple[int, IO[str] | None]:
    """Choose a CPU core for a server.

    Returns:
        The core, and an open file that holds its lock; ``None`` instead if all cores are already in use.
    """
    import fcntl

    cores = sorted(os.sched_getaffinity(0))
    locks = cache_dir() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    for core in cores:
        file = (locks / f"core-{core}.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            return core, file
    return cores[next(_core_counter) % len(cores)], None


def _stand_ins() -> str:
    """Return a value of ``LD_PRELOAD`` that names libtcmalloc and libiomp5.

    vLLM 0.15 to 0.27 refuses to start on a CPU without these names. It does not need the libraries, which only make it
    faster, so both names are links to the C library, which every process has loaded already.
    """
    loaded = Path("/proc/self/maps").read_text(encoding="utf-8").split()
    c_library = next(path for path in loaded if path.endswith("/libc.so.6"))
    folder = cache_dir() / "stand-ins"
    folder.mkdir(parents=True, exist_ok=True)
    links = [folder / "libtcmalloc_minimal.so.4", folder / "libiomp5.so"]
    for link in links:
        unfinished = link.with_name(f"{link.name}.{os.getpid()}")
        unfinished.symlink_to(c_library)
        unfinished.replace(link)
    return ":".join(map(str, links))


def _error(message: str) -> Exception:
    from vllm_adapters.errors import LocalVLLMError

    return LocalVLLMError(message)
