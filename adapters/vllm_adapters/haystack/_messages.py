"""Haystack's messages and tools on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from haystack.dataclasses import ChatMessage, ChatRole, TextContent
from haystack.tools import ToolsType, flatten_tools_or_toolsets
from haystack.tools.tool import Tool, _check_duplicate_tool_names

from vllm_adapters.errors import InvalidRequest

_MEDIA = ("image", "audio", "video")


def messages_to_wire(messages: Sequence[ChatMessage], *, replay_reasoning: bool = False) -> list[dict[str, Any]]:
    """The messages of a chat completion.

    Last messages of an assistant that say nothing are left out: sent as an empty turn, models end theirs too. An agent
    gathers several where all calls of each are broken.

    Args:
        messages: The conversation.
        replay_reasoning: Send the reasoning of earlier replies back with them.

    Raises:
        InvalidRequest: A file is neither an image, nor audio, nor video.
    """
    sent = [_to_wire(message, replay_reasoning) for message in messages]
    while sent and sent[-1]["role"] == ChatRole.ASSISTANT and not sent[-1].keys() & {"tool_calls", "reasoning"}:
        if sent[-1]["content"]:
            break
        del sent[-1]
    return sent


def _to_wire(message: ChatMessage, replay_reasoning: bool) -> dict[str, Any]:
    result = message.tool_call_result
    if result and isinstance(result.result, list) and not all(isinstance(p, TextContent) for p in result.result):
        # Haystack's own conversion knows results with images for OpenAI's other API only; vLLM takes them here.
        shown = ChatMessage.from_user(content_parts=list(result.result)).to_openai_dict_format()["content"]
        sent = {"role": "tool", "content": shown, "tool_call_id": result.origin.id}
    else:
        sent = message.to_openai_dict_format()
    if isinstance(sent.get("content"), list):
        sent["content"] = [_media(part) if part["type"] == "file" else part for part in sent["content"]]
    if replay_reasoning and message.reasoning:
        sent["reasoning"] = message.reasoning.reasoning_text
    return sent


def _media(part: dict[str, Any]) -> dict[str, Any]:
    url = part["file"]["file_data"]
    mime_type = url.removeprefix("data:").partition(";")[0]
    kind = mime_type.partition("/")[0]
    if kind not in _MEDIA:
        raise InvalidRequest(
            f"vLLM takes images, audio and video, not a file of type {mime_type}",
            hint="Put its text into the message",
            param="messages",
        )
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def tools_to_wire(tools: ToolsType | None, *, strict: bool = False) -> list[dict[str, Any]]:
    """The tools of a chat completion or of ``/tokenize``.

    Args:
        tools: Haystack's tools and toolsets.
        strict: Have vLLM enforce the tools' schemas.

    Raises:
        ValueError: Two have the same name.
    """
    flat: list[Tool] = flatten_tools_or_toolsets(tools)
    _check_duplicate_tool_names(flat)
    enforced = {"strict": True} if strict else {}
    return [{"type": "function", "function": {**tool.tool_spec, **enforced}} for tool in flat]
