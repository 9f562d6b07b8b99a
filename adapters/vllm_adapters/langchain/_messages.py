"""From LangChain's content blocks to the parts that vLLM reads, where OpenAI's are fewer: audio, video, text."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from vllm_adapters.errors import InvalidRequest


def for_vllm(message: BaseMessage) -> BaseMessage:
    """A message whose blocks vLLM reads, or LangChain's own conversion makes so (images).

    Raises:
        InvalidRequest: It holds a file, or media by a file id: vLLM has no such part.
    """
    if isinstance(message.content, str) or isinstance(message, AIMessage):
        return message
    return message.model_copy(update={"content": [_part(block) for block in message.content]})


def _part(block: Any) -> Any:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind == "audio":
        data, url = _data(block), block.get("url")
        if data:
            return {"type": "input_audio", "input_audio": {"data": data, "format": _mime(block, "wav").split("/")[-1]}}
        return {"type": "audio_url", "audio_url": {"url": url}} if url else _refused(block)
    if kind == "video":
        data = _data(block)
        url = f"data:{_mime(block, 'video/mp4')};base64,{data}" if data else block.get("url")
        return {"type": "video_url", "video_url": {"url": url}} if url else _refused(block)
    if kind == "text-plain" or (kind == "text" and block.get("source_type") == "text"):
        data = _data(block)
        text = block.get("text") or (base64.b64decode(data).decode() if data else None)
        return {"type": "text", "text": text} if text else _refused(block)
    if kind == "text":  # its id is drawn at random: the same request would differ each time
        return {name: value for name, value in block.items() if name != "id"}
    if kind == "image" and not (_data(block) or block.get("url") or block.get("source")):
        return _refused(block)
    return _refused(block) if kind == "file" else block


def _data(block: Mapping[str, Any]) -> str | None:
    return block.get("base64") or (block.get("data") if block.get("source_type") == "base64" else None)


def _mime(block: Mapping[str, Any], default: str) -> str:
    return str(block.get("mime_type") or default)


def _refused(block: Mapping[str, Any]) -> Any:
    given = ", ".join(name for name in block if name not in ("type", "id", "extras"))
    raise InvalidRequest(
        f"vLLM reads no content block of type {block['type']!r} with {given or 'nothing in it'}",
        hint="Give text, or images, audio or video by url or base64",
        param="messages",
    )
