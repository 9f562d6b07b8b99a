# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]"]
# ///
"""Ask a vision model about an image, given as a file or drawn here, through Haystack's own message parts.

The tests check what it sends, not what a model sees: none of the small test models has eyes.

Needs:  pip install 'vllm-adapters[haystack]'
Server: vllm serve VISION-MODEL   (such as Qwen/Qwen2.5-VL-3B-Instruct)
Run:    VLLM_BASE_URL=http://localhost:8000 python ask_about_an_image.py [IMAGE.png]
"""

from __future__ import annotations

import base64
import os
import struct
import sys
import zlib

from haystack.dataclasses import ChatMessage, ImageContent

from vllm_adapters.haystack import VLLMChatGenerator


def red_square(side: int = 64) -> str:
    """A PNG, for want of a better picture."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\xff\0\0" * side) * side)
    png = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", pixels) + part(b"IEND", b"")
    return base64.b64encode(png).decode()


def main() -> None:
    if len(sys.argv) > 1:
        image = ImageContent.from_file_path(sys.argv[1])
    else:
        image = ImageContent(base64_image=red_square(), mime_type="image/png")
    llm = VLLMChatGenerator(
        model=os.environ.get("VLLM_MODEL"),
        generation_kwargs={"temperature": 0, "max_tokens": 100},
    )
    message = ChatMessage.from_user(content_parts=["What color is this?", image])
    print(llm.run([message])["replies"][0].text)


if __name__ == "__main__":
    main()
