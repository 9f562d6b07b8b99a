"""Images in arguments, as the URLs that vLLM takes."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import IO, TypeAlias

Image: TypeAlias = str | bytes | Path | IO[bytes]
"""An image: its URL, its path, its content, or a file that is open."""

_URLS = ("http://", "https://", "data:", "file://")
_SIGNATURES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)


def image_url(image: Image) -> str:
    """Return the URL of an image: its own, or a ``data:`` URL with its content.

    Raises:
        TypeError: It is nothing of the kind.
        ValueError: Its content is of no known format.
        OSError: Its file cannot be read.
    """
    if isinstance(image, str) and image.startswith(_URLS):
        return image
    if isinstance(image, str | Path):
        content = Path(image).read_bytes()
    elif isinstance(image, bytes):
        content = image
    elif hasattr(image, "read"):
        content = image.read()
    else:
        raise TypeError(f"`image` must be a URL, a path, bytes or an open file, not {type(image).__name__}.")
    return f"data:{_media_type(content)};base64,{base64.b64encode(content).decode()}"


def image_message(image: Image, text: str | None = None) -> dict[str, object]:
    """Return a user's message with one image, and a text if there is one."""
    parts: list[dict[str, object]] = [{"type": "image_url", "image_url": {"url": image_url(image)}}]
    if text:
        parts.append({"type": "text", "text": text})
    return {"role": "user", "content": parts}


def _media_type(content: bytes) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    for signature, kind in _SIGNATURES:
        if content.startswith(signature):
            return kind
    raise ValueError("The image is of an unknown format. Pass PNG, JPEG, GIF, WebP, BMP or TIFF, or a data URL.")
