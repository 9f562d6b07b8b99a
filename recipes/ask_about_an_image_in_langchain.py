# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]"]
# ///
"""Ask a vision model about images, from files or a built-in one, with LangChain's content blocks.

Needs:  pip install 'vllm-adapters[langchain]'
Server: vllm serve VISION-MODEL, such as Qwen/Qwen2.5-VL-3B-Instruct   (or: vllm-adapters serve eye --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python ask_about_an_image_in_langchain.py [IMAGE.png ...]
"""

from __future__ import annotations

import base64
import mimetypes
import os
import sys
from pathlib import Path

from langchain_core.messages import HumanMessage
from langchain_core.messages.content import ImageContentBlock, create_image_block, create_text_block

from vllm_adapters.langchain import ChatVLLM

# A small PNG, used if no file is given.
RED_SQUARE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP8z4AdMDEMKQkAzUEBD7t4NqoAAAAASUVORK5CYII="


def image(path: str) -> ImageContentBlock:
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return create_image_block(base64=data, mime_type=mimetypes.guess_type(path)[0])


def main() -> None:
    images = [image(path) for path in sys.argv[1:]]
    images = images or [create_image_block(base64=RED_SQUARE, mime_type="image/png")]
    llm = ChatVLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=100)
    message = HumanMessage(content_blocks=[create_text_block("What color is this?"), *images])
    print(llm.invoke([message]).text)


if __name__ == "__main__":
    main()
