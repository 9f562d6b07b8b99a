# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[llamaindex]"]
# ///
"""Ask a vision model about an image in LlamaIndex, through its message blocks.

Needs:  pip install 'vllm-adapters[llamaindex]'
Server: vllm serve VISION-MODEL   (such as Qwen/Qwen2.5-VL-3B-Instruct)
Run:    VLLM_BASE_URL=http://localhost:8000 python ask_about_an_image_in_llamaindex.py [IMAGE]
"""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock

from vllm_adapters.llamaindex import VLLM

RED_SQUARE = (  # a PNG, for want of a better picture
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQMAAACQp+OdAAAAA1BMVEX/AAAZ4gk3"
    "AAAAD0lEQVR42mNgGAWjgHwAAAJAAAHgTR1EAAAAAElFTkSuQmCC"
)


def main() -> None:
    if len(sys.argv) > 1:
        image = ImageBlock(path=Path(sys.argv[1]))
    else:
        image = ImageBlock(image=base64.b64decode(RED_SQUARE), image_mimetype="image/png")
    # Or ImageBlock(url="https://..."): then the server fetches the image itself.
    llm = VLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=100)
    question = ChatMessage(role="user", blocks=[TextBlock(text="What color is this?"), image])
    print(llm.chat([question]).message.content)


if __name__ == "__main__":
    main()
