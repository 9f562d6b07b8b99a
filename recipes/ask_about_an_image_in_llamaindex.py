# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[llamaindex]"]
# ///
"""Ask a vision model about images, from files or a built-in one, with LlamaIndex's message blocks.

Needs:  pip install 'vllm-adapters[llamaindex]'
Server: vllm serve VISION-MODEL, such as Qwen/Qwen2.5-VL-3B-Instruct   (or: vllm-adapters serve eye --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python ask_about_an_image_in_llamaindex.py [IMAGE.png ...]
"""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock

from vllm_adapters.llamaindex import VLLM

# A small PNG, used if no file is given.
RED_SQUARE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP8z4AdMDEMKQkAzUEBD7t4NqoAAAAASUVORK5CYII="


def main() -> None:
    images = [ImageBlock(path=Path(path)) for path in sys.argv[1:]]
    images = images or [ImageBlock(image=base64.b64decode(RED_SQUARE), image_mimetype="image/png")]
    llm = VLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=100)
    message = ChatMessage(role="user", blocks=[TextBlock(text="What color is this?"), *images])
    print(llm.chat([message]).message.content)


if __name__ == "__main__":
    main()
