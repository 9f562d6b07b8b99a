"""The events of ``stream_events(version="v3")``, with what only the whole reply tells.

LangChain makes them of single chunks: of what every chunk has (token ids, log probabilities) the last one's
would be left, and a tool call that the token limit has cut would be a call if its text reads as JSON.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.language_models._compat_bridge import achunks_to_events, chunks_to_events
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.utils.utils import LC_ID_PREFIX

from vllm_adapters.langchain.calls import as_langchain, read_chunks


class _Reply:
    """The chunks of one reply, added up behind the events that are made of them."""

    def __init__(self) -> None:
        self._chunks: list[ChatGenerationChunk] = []
        self._whole: Any = None
        self._calls: Iterator[Any] = iter(())

    def note(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        self._chunks.append(chunk)
        return chunk

    def complete(self, event: Any) -> Any:
        """An event of LangChain's bridge, which sends the ends of all blocks behind the last chunk."""
        if event["event"] == "content-block-finish":
            self._add_up()
            if event["content"]["type"] in ("tool_call", "invalid_tool_call"):
                return {**event, "content": as_langchain(next(self._calls))}
        elif event["event"] == "message-finish":
            self._add_up()
            return {**event, "metadata": self._whole.message.response_metadata}
        return event

    def _add_up(self) -> None:
        if self._whole is None:
            for chunk in self._chunks:
                info = {**(chunk.generation_info or {}), **chunk.message.response_metadata}
                chunk.message.response_metadata = info
            self._whole = self._chunks[0] + self._chunks[1:]
            message = self._whole.message
            reason = message.response_metadata.get("finish_reason")
            self._calls = iter(read_chunks(message.tool_call_chunks, reason))


def protocol_events(chunks: Iterator[ChatGenerationChunk], run: BaseRunManager) -> Iterator[Any]:
    """The events of a stream of chunks."""
    reply = _Reply()
    noted = (reply.note(chunk) for chunk in chunks)
    for event in chunks_to_events(noted, message_id=f"{LC_ID_PREFIX}-{run.run_id}"):
        yield reply.complete(event)


async def aprotocol_events(chunks: AsyncIterator[ChatGenerationChunk], run: BaseRunManager) -> AsyncIterator[Any]:
    """``protocol_events``, to await."""
    reply = _Reply()
    noted = (reply.note(chunk) async for chunk in chunks)
    async for event in achunks_to_events(noted, message_id=f"{LC_ID_PREFIX}-{run.run_id}"):
        yield reply.complete(event)
