# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]"]
# ///
"""Ask a vision model about images, from files or a built-in one, with Haystack's message parts.

Needs:  pip install 'vllm-adapters[haystack]'
Server: vllm serve VISION-MODEL, such as Qwen/Qwen2.5-VL-3B-Instruct   (or: vllm-adapters serve eye --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python ask_about_an_image_in_haystack.py [IMAGE.png ...]
"""

from __future__ import annotations

import os
import sys

from haystack.dataclasses import ChatMessage, ImageContent

from vllm_adapters.haystack import VLLMChatGenerator

# A small PNG, used if no file is given.
RED_SQUARE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP8z4AdMDEMKQkAzUEBD7t4NqoAAAAASUVORK5CYII="


def main() -> None:
    images = [ImageContent.from_file_path(path) for path in sys.argv[1:]]
    llm = VLLMChatGenerator(model=os.environ.get("VLLM_MODEL"), generation_kwargs={"temperature": 0, "max_tokens": 100})
    images = images or [ImageContent(base64_image=RED_SQUARE, mime_type="image/png")]
    message = ChatMessage.from_user(content_parts=["What color is this?", *images])
    print(llm.run([message])["replies"][0].text)


if __name__ == "__main__":
    main()
