"""LlamaIndex's messages as vLLM takes them: media by address where they have one, nothing dropped."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    AudioBlock,
    CachePoint,
    ChatMessage,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)

from vllm_adapters.errors import InvalidRequest

_ROLES = {MessageRole.CHATBOT: "assistant", MessageRole.MODEL: "assistant"}


def to_wire(messages: Sequence[ChatMessage], *, replay_reasoning: bool = False) -> list[dict[str, Any]]:
    """Messages as ``/v1/chat/completions`` takes them.

    Args:
        messages: Text, images, audio, video, thinking and tool calls, in any role.
        replay_reasoning: Send thinking back, as ``reasoning``.

    Raises:
        InvalidRequest: There is a kind of block that vLLM has nothing for, such as a document.
    """
    return [_message(message, replay_reasoning) for message in messages]


def refuse_media(messages: Sequence[ChatMessage]) -> None:
    """Raise for what a text prompt would lose.

    Raises:
        InvalidRequest: There is an image, audio or video.
    """
    for message in messages:
        for block in message.blocks:
            if (part := _part(block)) is not None and part["type"] != "text":
                raise InvalidRequest(
                    f"A text prompt has no place for a {type(block).__name__}",
                    hint="Use chat: is_chat_model=True",
                    param="messages",
                )


def _message(message: ChatMessage, replay_reasoning: bool) -> dict[str, Any]:
    parts = [part for block in message.blocks if (part := _part(block)) is not None]
    calls = [_call(block) for block in message.blocks if isinstance(block, ToolCallBlock)]
    added = message.additional_kwargs
    calls = calls or [_legacy_call(call) for call in added.get("tool_calls") or ()]
    wire: dict[str, Any] = {"role": _ROLES.get(message.role, message.role.value)}
    if all(part["type"] == "text" for part in parts):
        text = "".join(part["text"] for part in parts)
        wire["content"] = text or (None if calls else "")
    else:
        wire["content"] = parts
    if calls:
        wire["tool_calls"] = calls
    if replay_reasoning:
        thoughts = [block.content or "" for block in message.blocks if isinstance(block, ThinkingBlock)]
        if any(thoughts):
            wire["reasoning"] = "".join(thoughts)
    for name in ("tool_call_id", "name"):
        if added.get(name):
            wire[name] = added[name]
    return wire


def _part(block: Any) -> dict[str, Any] | None:
    """A block as a part of a message's content; ``None`` for what has its place elsewhere."""
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    if isinstance(block, ImageBlock):
        address = block.url or _data(block.image_mimetype or "image/png", block.resolve_image())
        image = {"url": str(address), **({"detail": block.detail} if block.detail else {})}
        return {"type": "image_url", "image_url": image}
    if isinstance(block, AudioBlock):
        if block.url:
            return {"type": "audio_url", "audio_url": {"url": str(block.url)}}
        data = _base64(block.resolve_audio())
        return {"type": "input_audio", "input_audio": {"data": data, "format": block.format or "wav"}}
    if isinstance(block, VideoBlock):
        address = block.url or _data(block.video_mimetype or "video/mp4", block.resolve_video())
        return {"type": "video_url", "video_url": {"url": str(address)}}
    if isinstance(block, ThinkingBlock | ToolCallBlock | CachePoint):
        return None  # vLLM finds prefixes to reuse by itself: a cache point has nothing to add
    kind = type(block).__name__
    raise InvalidRequest(
        f"vLLM has no message part for a {kind}", hint="Give its text, or its pages as images", param="messages"
    )


def _data(mimetype: str, file: Any) -> str:
    return f"data:{mimetype};base64,{_base64(file)}"


def _base64(file: Any) -> str:  # LlamaIndex says IOBase, which has no read()
    # Blocks asked for base64 themselves hand out a file object's bytes as they are.
    return b64encode(file.read()).decode()


def _call(block: ToolCallBlock) -> dict[str, Any]:
    arguments = block.tool_kwargs if isinstance(block.tool_kwargs, str) else json.dumps(block.tool_kwargs)
    function = {"name": block.tool_name, "arguments": arguments}
    return {"id": block.tool_call_id or "", "type": "function", "function": function}


def _legacy_call(call: Any) -> dict[str, Any]:
    """A call that another LLM class left in a message's ``additional_kwargs``."""
    return dict(call) if isinstance(call, Mapping) else dict(call.model_dump(exclude_none=True, exclude={"index"}))
