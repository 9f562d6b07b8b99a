"""The ways to ask: what all of them share. Each room's are its own, in ``on_<room>``."""

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
ASKED: dict[str, Any] = {"temperature": 0, "max_tokens": 16}
"""Of every chat request. A reply that the token limit cuts is right, too, as far as it goes."""

BATCH = 2  # several requests at once for the texts of one call: more places to put a vector wrong

ROOMS = {"on_client": "openai", "on_langchain": "langchain_openai", "on_llamaindex": "llama_index.llms.openai_like"}
ROOMS["on_haystack"] = "haystack"
"""Modules here with ``ways``, and what must be installed for them."""


class Left(str):
    """What had been said when the stream was left."""


@dataclass(frozen=True)
class Way:
    """One way to ask.

    Args:
        name: The table's row.
        task: What is asked: ``say`` takes a prompt and returns the reply's text, or ``Left``; ``count`` takes a
            prompt and returns its tokens; ``embed`` takes texts and returns a vector for each; ``rank`` takes
            texts and returns them with their scores for ``QUERY``, best first.
        ask: A function, or a coroutine function.
    """

    name: str
    task: Task
    ask: Callable[[Any], Any]


@dataclass(frozen=True)
class Line:
    """How to reach the servers.

    Args:
        talks: Address of the one that chats.
        embeds: Address of the one that embeds.
        limits: Time limits of each call.
        retries: Further attempts of each request.
    """

    talks: str
    embeds: str
    limits: Timeouts
    retries: int = 1

    @property
    def options(self) -> dict[str, Any]:
        """As most classes take them."""
        return {"timeout": self.limits, "max_retries": self.retries}


def all_ways(line: Line) -> list[Way]:
    """Those of every room that is installed."""
    return [way for room, needs in ROOMS.items() if _there(needs) for way in import_module(f"soak.{room}").ways(line)]


def cancelled(ask: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """``ask``, cancelled at any moment of its first half second."""

    async def begin(asked: Any) -> Any:
        task = asyncio.ensure_future(ask(asked))
        await asyncio.sleep(random.random() / 2)
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return Left()

    return begin


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False
