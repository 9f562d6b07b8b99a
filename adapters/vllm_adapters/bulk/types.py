"""Value objects of bulk jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_adapters._response.tool_calls import parse_tool_calls
from vllm_adapters.errors import VLLMError
from vllm_adapters.types import ToolCall

__all__ = ["BulkProgress", "BulkResult"]


@dataclass(frozen=True)
class BulkResult:
    """The reply to one item, or its error.

    Args:
        index: The item's position among all items, from 0.
        id: The item's own ``"id"``, if it has one.
        reply: The server's reply, as JSON data; ``None`` if the item failed.
        error: Why the item failed; ``None`` if it did not.
        resumed: Whether it was read from the file of an earlier run.
    """

    index: int
    id: str | int | None = None
    reply: Mapping[str, Any] | None = None
    error: VLLMError | None = None
    resumed: bool = False

    @property
    def _choice(self) -> Mapping[str, Any]:
        if self.error is not None:
            raise self.error
        choice: Mapping[str, Any] = (self.reply or {})["choices"][0]
        return choice

    @property
    def text(self) -> str:
        """The text of the reply.

        Raises:
            VLLMError: The item failed. So do ``reasoning``, ``finish_reason`` and ``tool_calls``.
        """
        return self._choice["message"].get("content") or ""

    @property
    def reasoning(self) -> str:
        """The reasoning of the reply."""
        message = self._choice["message"]
        return message.get("reasoning") or message.get("reasoning_content") or ""

    @property
    def finish_reason(self) -> str:
        """Why the reply ended, such as ``"stop"`` or ``"length"``."""
        return str(self._choice["finish_reason"])

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The tool calls of the reply."""
        return parse_tool_calls(self._choice["message"].get("tool_calls"), self.finish_reason)

    @property
    def usage(self) -> Mapping[str, Any]:
        """The tokens that the server counted; empty if the item failed."""
        return (self.reply or {}).get("usage") or {}


@dataclass(frozen=True)
class BulkProgress:
    """How far a job is.

    Args:
        succeeded: Items with a reply, including those of earlier runs.
        failed: Items with an error, including those of earlier runs.
        resumed: Those of both that were read from the file of an earlier run.
        in_flight: Requests that the server is working on.
        concurrency: Requests at once at present: fewer than ``max_concurrency`` after the server was overloaded.
        total: The number of items, if it is known.
    """

    succeeded: int = 0
    failed: int = 0
    resumed: int = 0
    in_flight: int = 0
    concurrency: int = 0
    total: int | None = None

    @property
    def done(self) -> int:
        """Items with a reply or an error."""
        return self.succeeded + self.failed
