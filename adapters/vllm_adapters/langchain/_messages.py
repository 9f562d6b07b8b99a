"""Conversions between LangChain's messages and vLLM's JSON."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from langchain_core.messages import AIMessage, BaseMessage, InvalidToolCall
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call
from langchain_core.utils.json import parse_partial_json

from vllm_adapters._response.tool_calls import parse_tool_call, parse_tool_calls
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.types import ToolCall

# Content of requests


def convert_content(message: BaseMessage) -> BaseMessage:
    """Return a message with the content blocks that vLLM has, or that LangChain itself converts to them (images).

    OpenAI's API has fewer: LangChain has no conversion for audio by URL, for video and for plain text.

    Args:
        message: A message whose content is a list; it is not changed.

    Raises:
        InvalidRequest: It contains a file, or media by file id, which vLLM cannot read.
    """
    return message.model_copy(update={"content": [_convert_block(block) for block in message.content]})


def _convert_block(block: Any) -> Any:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind == "audio":
        data, url = _base64(block), block.get("url")
        if data:
            audio = {"data": data, "format": _mime_type(block, "wav").split("/")[-1]}
            return {"type": "input_audio", "input_audio": audio}
        return {"type": "audio_url", "audio_url": {"url": url}} if url else _reject(block)
    if kind == "video":
        data = _base64(block)
        url = f"data:{_mime_type(block, 'video/mp4')};base64,{data}" if data else block.get("url")
        return {"type": "video_url", "video_url": {"url": url}} if url else _reject(block)
    if kind == "text-plain" or (kind == "text" and block.get("source_type") == "text"):
        data = _base64(block)
        text = block.get("text") or (base64.b64decode(data).decode() if data else None)
        return {"type": "text", "text": text} if text else _reject(block)
    if kind == "text":  # its id is random: the same request would differ each time
        return {name: value for name, value in block.items() if name != "id"}
    if kind == "image" and not (_base64(block) or block.get("url") or block.get("source")):
        _reject(block)
    if kind == "file":
        _reject(block)
    return block


def _base64(block: Mapping[str, Any]) -> str | None:
    return block.get("base64") or (block.get("data") if block.get("source_type") == "base64" else None)


def _mime_type(block: Mapping[str, Any], default: str) -> str:
    return str(block.get("mime_type") or default)


def _reject(block: Mapping[str, Any]) -> NoReturn:
    fields = ", ".join(name for name in block if name not in ("type", "id", "extras"))
    raise InvalidRequest(
        f"vLLM cannot read a content block of type {block['type']!r} with {fields or 'no content'}",
        hint="Pass text, or images, audio or video by URL or base64",
        param="messages",
    )


def reasoning_of(message: BaseMessage) -> str:
    """Return the reasoning of an assistant's message, as ``ChatVLLM`` or LangChain's content blocks store it."""
    if not isinstance(message, AIMessage):
        return ""
    if reasoning := message.additional_kwargs.get("reasoning_content"):
        return str(reasoning)
    blocks = message.content if isinstance(message.content, list) else []
    return "".join(
        str(block.get("reasoning") or "")
        for block in blocks
        if isinstance(block, dict) and block.get("type") == "reasoning"
    )


# Tool calls of replies

_INVALID_END = re.compile(r'…"?[\]}] \(([^…]*)\)\Z')


def invalid_end(call: ToolCall) -> str:
    """Return what to add to the streamed arguments of an invalid call, so that LangChain reads none from them.

    LangChain adds up the chunks of a stream, and again when they are stored and loaded, and closes the brackets of
    the arguments each time: a call that the token limit truncated would be a tool call, with a shorter path or a
    smaller number than the model was about to write. A bracket that closes nothing is what it cannot complete.

    Args:
        call: A call of a reply that has ended.

    Returns:
        Such as ``…"] (The reply was truncated while this call was being generated)``; empty if nothing is needed.
    """
    if call.error is None or (call.raw_arguments and not _reads_as_object(call.raw_arguments)):
        return ""
    error = call.error.replace("…", "...")
    ends = [f"…{bracket} ({error})" for bracket in ("]", "}", '"]', '"}')]  # within a string, or not
    return next(end for end in ends if not _reads_as_object(call.raw_arguments + end))


def _reads_as_object(arguments: str) -> bool:
    try:
        return isinstance(parse_partial_json(arguments), dict)
    except (ValueError, RecursionError):
        return False


def original_arguments(arguments: str | None) -> tuple[str, str | None]:
    """Return arguments as they arrived, and the error that ``invalid_end`` added to them, if it did."""
    found = _INVALID_END.search(arguments or "")
    return (arguments or "", None) if found is None else (found.string[: found.start()], found[1])


def restore_message(message: BaseMessage) -> BaseMessage:
    """Return a message of a stream as if it had not been streamed.

    Its invalid tool calls have the arguments as they arrived, and their errors; its blocks are not empty texts.

    Args:
        message: Any message; it is not changed.
    """
    if not isinstance(message, AIMessage):
        return message
    content, invalid = message.content, message.invalid_tool_calls
    if invalid:
        invalid = [_restore_call(call) for call in invalid]
    if isinstance(content, list):
        content = [_restore_block(block, invalid) for block in content if block != ""]
    if invalid == message.invalid_tool_calls and content == message.content:
        return message
    return message.model_copy(update={"invalid_tool_calls": invalid, "content": content})


def _restore_call(call: InvalidToolCall) -> InvalidToolCall:
    arguments, error = original_arguments(call["args"])
    error = error or call["error"] or parse_tool_call(0, call["id"], call["name"], arguments).error
    return {**call, "args": arguments, "error": error}


def _restore_block(block: Any, invalid: list[InvalidToolCall]) -> Any:
    """Return a content block, as an invalid tool call if it is one of ``invalid``."""
    if not isinstance(block, Mapping) or block.get("type") not in ("tool_call", "tool_call_chunk"):
        return block
    return next((dict(call) for call in invalid if call["id"] == block.get("id")), block)


def to_langchain_tool_call(call: ToolCall) -> LangChainToolCall | InvalidToolCall:
    """Return a tool call as LangChain's, invalid ones with the arguments as they arrived."""
    if call.arguments is None:
        return invalid_tool_call(name=call.name, args=call.raw_arguments, id=call.id or None, error=call.error)
    return tool_call(name=call.name, args=call.arguments, id=call.id or None)


def set_tool_calls(message: AIMessage, calls: Iterable[ToolCall]) -> None:
    """Set the tool calls of a message, the valid and the invalid ones."""
    converted = [to_langchain_tool_call(call) for call in calls]
    message.tool_calls = [call for call in converted if call["type"] == "tool_call"]
    message.invalid_tool_calls = [call for call in converted if call["type"] == "invalid_tool_call"]


def parse_tool_call_chunks(chunks: Iterable[ToolCallChunk], finish_reason: str | None) -> list[ToolCall]:
    """Return the tool calls of a streamed reply, from the chunks of its merged message."""
    calls = (
        {"id": c["id"], "function": {"name": c["name"], "arguments": original_arguments(c["args"])[0]}} for c in chunks
    )
    return parse_tool_calls(calls, finish_reason)


def refusal_content(refusal: str) -> list[str | dict[Any, Any]]:
    """Return the content of a gateway's refusal: its text, and the block that LangChain's middleware looks for."""
    return [{"type": "text", "text": refusal}, {"type": "refusal", "refusal": refusal}]


def replayable(message: AIMessage) -> BaseMessage:
    """Return a message of the conversation so far as it is sent: as it arrived, a refusal as the text that it is."""
    restored = restore_message(message)
    content = restored.content
    if isinstance(content, list) and restored.text:
        kept = [block for block in content if not (isinstance(block, dict) and block.get("type") == "refusal")]
        if len(kept) < len(content):
            return restored.model_copy(update={"content": kept})
    return restored
