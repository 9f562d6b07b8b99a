"""Conversions between LangChain's messages and tools and vLLM's JSON."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from langchain_core.messages import AIMessage, BaseMessage, InvalidToolCall
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from vllm_adapters._response.tool_calls import parse_tool_calls
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


# Tools


def convert_tools(
    tools: Iterable[Mapping[str, Any] | type | Callable[..., Any] | BaseTool], strict: bool | None
) -> list[dict[str, Any]]:
    """Return tools in OpenAI's form, their schemas as the user wrote them.

    LangChain's own conversion rewrites the schemas of strict tools for OpenAI: no additional properties anywhere,
    which empties dict arguments. vLLM enforces any schema.

    Args:
        tools: Functions, classes, schemas or LangChain tools.
        strict: The user's setting; ``None`` leaves it to the client, which marks forced tools as strict.
    """
    converted = [convert_to_openai_tool(tool) for tool in tools]
    if strict is None:
        return converted
    return [
        {**tool, "function": {"strict": strict, **tool["function"]}} if "function" in tool else tool
        for tool in converted
    ]


# Tool calls of replies


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
    """Return the tool calls of a streamed reply, from the chunks of its merged message.

    LangChain closes the brackets of truncated arguments, and takes the result for a tool call: with a shorter path,
    or a smaller number, than the model was about to write.
    """
    calls = ({"id": c["id"], "function": {"name": c["name"], "arguments": c["args"]}} for c in chunks)
    return parse_tool_calls(calls, finish_reason)
