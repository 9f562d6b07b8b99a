"""The servers of the tour: those in the environment, or two small ones started on this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from packaging.version import Version
from rich.console import Console
from rich.markup import escape

from vllm_adapters._request.compat import parse_version
from vllm_adapters.errors import WrongAddress
from vllm_adapters.server import VLLMServer

if TYPE_CHECKING:
    from vllm_adapters.local import LocalVLLM

CHAT = frozenset({"chat"})
POOLING = frozenset({"embeddings", "rerank"})
_TELLS_TASKS = Version("0.16")  # older servers mount every route, whatever their model can do


@dataclass(frozen=True)
class Place:
    """A server, as the tour knows it.

    Args:
        base_url: Its address.
        origin: Where it comes from: a variable's name, or "started here".
        model: The first name it serves.
        version: Its vLLM version, ``None`` if it does not tell.
        tasks: What it offers, by the names of ``Capabilities.tasks``.
        known: Whether it runs a model bundled for the tour, whose answers are known.
    """

    base_url: str
    origin: str
    model: str
    version: str | None
    tasks: frozenset[str]
    known: bool

    def __str__(self) -> str:
        return f"vLLM {self.version or '(tells no version)'}, model {self.model}, {self.base_url} ({self.origin})"


Places = Mapping[str, Place]
"""Which server does which task; a task that none offers is missing."""


@contextmanager
def servers(console: Console) -> Iterator[list[Place]]:
    """The servers of the tour, ready to answer; those started here stop at the end.

    Args:
        console: Where to tell what takes so long.

    Raises:
        VLLMError: One of them cannot be reached, or cannot be started here.
    """
    chat, pooling = os.environ.get("VLLM_BASE_URL"), os.environ.get("VLLM_EMBED_BASE_URL")
    with ExitStack() as running:
        if chat:
            console.print(f"VLLM_BASE_URL is set: no server is started, {escape(chat)} is asked.")
            places = [look(chat, "VLLM_BASE_URL", CHAT)]
        else:
            places = running.enter_context(_started(console, minilm=not pooling))
        if pooling:
            given = look(pooling, "VLLM_EMBED_BASE_URL", POOLING)
            places.append(replace(given, tasks=given.tasks & POOLING))
        yield places


@contextmanager
def _started(console: Console, *, minilm: bool) -> Iterator[list[Place]]:
    from vllm_adapters.local import LocalVLLM

    with ExitStack() as running:
        tiny = LocalVLLM("tiny")
        running.callback(tiny.stop)
        # One of two tells how far it is: two live lines would overwrite one another.
        second = _InBackground(LocalVLLM("minilm", quiet=True)) if minilm else None
        if second:
            running.callback(second.local.stop)
            second.start()
        tiny.start()
        places = [look(tiny.base_url, "started here", CHAT, known=True)]
        if second:
            second.wait(console)
            places.append(look(second.local.base_url, "started here", POOLING, known=True))
        yield places


def look(base_url: str, origin: str, expected: frozenset[str], *, known: bool = False) -> Place:
    """Ask a server what it is.

    Args:
        base_url: Its address.
        origin: Where it comes from.
        expected: Its tasks, where it does not tell them itself: a gateway, or vLLM before 0.16.
        known: Whether it runs a model bundled for the tour.
    """
    with VLLMServer(base_url, max_retries=0) as server:
        models = server.models()
        try:
            can = server.capabilities()
        except WrongAddress:  # a gateway that passes on nothing but /v1
            return Place(server.base_url, origin, models[0].id, None, expected, known)
        tasks = can.tasks if (parse_version(can.version) or _TELLS_TASKS) >= _TELLS_TASKS else expected
        return Place(server.base_url, origin, models[0].id, can.version, tasks, known)


def by_task(places: list[Place]) -> Places:
    """Which server does which task; of two that do the same, the last."""
    return {task: place for place in places for task in place.tasks}


class _InBackground:
    """Starts a local server beside the caller, and hands over what went wrong."""

    def __init__(self, local: LocalVLLM) -> None:
        self.local = local
        self._error: BaseException | None = None
        # A daemon: Ctrl-C during a long installation must not wait for it.
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"start {local.model}")
        self.start = self._thread.start

    def _run(self) -> None:
        try:
            self.local.start()
        except BaseException as error:
            self._error = error

    def wait(self, console: Console) -> None:
        """Wait for the server, saying so; raises what its start raised."""
        with console.status(f"starting vLLM with {self.local.model}"):
            self._thread.join()
        if self._error:
            raise self._error
        console.print(f"vLLM serves {self.local.model} at {self.local.base_url}", highlight=False)
