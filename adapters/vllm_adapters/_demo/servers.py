"""The servers of the demo: those in the environment, or two small ones started on this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from packaging.version import Version
from rich.console import Console
from rich.markup import escape

from vllm_adapters._request.compat import parse_version
from vllm_adapters.server import VLLMServer

if TYPE_CHECKING:
    from vllm_adapters.local import LocalVLLM

CHAT = frozenset({"chat"})
POOLING = frozenset({"embeddings", "rerank"})
_RELIABLE_ROUTES = Version("0.16")  # older servers mount every route, whatever their model supports


@dataclass(frozen=True)
class DemoServer:
    """One server of the demo.

    Args:
        base_url: Its address.
        origin: The environment variable with its address, or "started here".
        model: The first name that it serves.
        version: Its vLLM version; ``None`` if unknown.
        tasks: What it supports, as named in ``Capabilities.tasks``.
        known: Whether it runs a model bundled for the demo, whose answers are known.
    """

    base_url: str
    origin: str
    model: str
    version: str | None
    tasks: frozenset[str]
    known: bool

    def __str__(self) -> str:
        return f"vLLM {self.version or '(unknown version)'}, model {self.model}, {self.base_url} ({self.origin})"


@contextmanager
def servers(console: Console) -> Iterator[list[DemoServer]]:
    """Provide the servers of the demo, ready for requests; those started here are stopped at the end.

    Args:
        console: Where to print progress.

    Raises:
        VLLMError: A server cannot be reached, or cannot be started here.
    """
    chat_url, pooling_url = os.environ.get("VLLM_BASE_URL"), os.environ.get("VLLM_EMBED_BASE_URL")
    with ExitStack() as stack:
        if chat_url:
            console.print(f"VLLM_BASE_URL is set: using {escape(chat_url)}, starting no server.")
            running = [inspect_server(chat_url, "VLLM_BASE_URL", CHAT)]
        else:
            running = stack.enter_context(_local_servers(console, minilm=not pooling_url))
        if pooling_url:
            server = inspect_server(pooling_url, "VLLM_EMBED_BASE_URL", POOLING)
            running.append(replace(server, tasks=server.tasks & POOLING))
        yield running


@contextmanager
def _local_servers(console: Console, *, minilm: bool) -> Iterator[list[DemoServer]]:
    from vllm_adapters.local import LocalVLLM

    with ExitStack() as stack:
        tiny = LocalVLLM("tiny")
        stack.callback(tiny.stop)
        # Only one of the two shows its progress: two live lines would overwrite each other.
        background = _BackgroundStart(LocalVLLM("minilm", quiet=True)) if minilm else None
        if background:
            stack.callback(background.local.stop)
            background.start()
        tiny.start()
        running = [inspect_server(tiny.base_url, "started here", CHAT, known=True)]
        if background:
            background.wait(console)
            running.append(inspect_server(background.local.base_url, "started here", POOLING, known=True))
        yield running


def inspect_server(base_url: str, origin: str, expected: frozenset[str], *, known: bool = False) -> DemoServer:
    """Return a description of a server, after asking it for its models, version and routes.

    Args:
        base_url: Its address.
        origin: The environment variable with its address, or "started here".
        expected: Its tasks, if it does not report them: a gateway, or vLLM before 0.16.
        known: Whether it runs a model bundled for the demo.
    """
    with VLLMServer(base_url, max_retries=0) as server:
        models = server.models()
        capabilities = server.capabilities()
        version = parse_version(capabilities.version or "") or _RELIABLE_ROUTES
        reliable = version >= _RELIABLE_ROUTES and "tasks" not in capabilities.hidden  # by a gateway
        tasks = capabilities.tasks if reliable else expected
        return DemoServer(server.base_url, origin, models[0].id, capabilities.version, tasks, known)


def servers_by_task(running: Sequence[DemoServer]) -> Mapping[str, DemoServer]:
    """Return the server of each supported task; the last one if several support the same."""
    return {task: server for server in running for task in server.tasks}


class _BackgroundStart:
    """Starts a local server in a thread, and raises its errors in the caller's."""

    def __init__(self, local: LocalVLLM) -> None:
        self.local = local
        self._error: BaseException | None = None
        # A daemon thread: Ctrl-C during a long installation must not wait for it.
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"start {local.model}")
        self.start = self._thread.start

    def _run(self) -> None:
        try:
            self.local.start()
        except BaseException as error:  # raised again by wait(), in the caller's thread
            self._error = error

    def wait(self, console: Console) -> None:
        """Wait until the server is ready; raise the error of its start."""
        with console.status(f"starting vLLM with {self.local.model}"):
            self._thread.join()
        if self._error:
            raise self._error
        console.print(f"vLLM serves {self.local.model} at {self.local.base_url}", highlight=False)
