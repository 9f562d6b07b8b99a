"""The paths through which calls are made; those of each framework are in ``on_<framework>``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from vllm_adapters import Timeouts

Task = Literal["say", "count", "embed", "rank"]

QUERY = "Which city is the capital of Japan?"
PARAMETERS: dict[str, Any] = {"temperature": 0, "max_tokens": 16}
"""Parameters of every chat request. A reply that the token limit truncates is correct as far as it goes."""

BATCH = 2  # several concurrent requests per call, so that vectors could be mixed up

FRAMEWORKS = {
    "on_client": "openai",
    "on_langchain": "langchain_openai",
    "on_llamaindex": "llama_index.llms.openai_like",
    "on_haystack": "haystack",
}
"""The modules with ``paths``, and the package that each one needs."""


class Cancelled(str):
    """The text received until the stream was closed early."""


@dataclass(frozen=True)
class Path:
    """One method through which users make calls.

    Args:
        name: Heading of the table's row.
        task: ``say`` takes a prompt and returns the text of the reply, or ``Cancelled``; ``count`` takes a prompt and
            returns its number of tokens; ``embed`` takes texts and returns one vector per text; ``rank`` takes texts
            and returns them with their scores for ``QUERY``, best first.
        call: A function, or a coroutine function.
    """

    name: str
    task: Task
    call: Callable[[Any], Any]


@dataclass(frozen=True)
class Connection:
    """How to connect to the servers.

    Args:
        chat_url: Address of the chat server.
        pooling_url: Address of the embedding server.
        timeouts: Time limits of each call.
        retries: ``max_retries`` of each call.
    """

    chat_url: str
    pooling_url: str
    timeouts: Timeouts
    retries: int = 1

    @property
    def options(self) -> dict[str, Any]:
        """The settings under the names that most classes use."""
        return {"timeout": self.timeouts, "max_retries": self.retries}


def all_paths(connection: Connection) -> list[Path]:
    """Return the paths of every installed framework."""
    modules = [import_module(f"soak.{name}") for name, package in FRAMEWORKS.items() if _is_installed(package)]
    return [path for module in modules for path in module.paths(connection)]


def cancelled(call: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """Return ``call``, cancelled at a random moment within half a second."""

    async def run(argument: Any) -> Any:
        task = asyncio.ensure_future(call(argument))
        await asyncio.sleep(random.random() / 2)
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return Cancelled()

    return run


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is not installed
        return False
