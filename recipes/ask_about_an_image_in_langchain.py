# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]"]
# ///
"""Ask a vision model about an image in LangChain, through its standard content blocks.

Needs:  pip install 'vllm-adapters[langchain]'
Server: vllm serve VISION-MODEL   (such as Qwen/Qwen2.5-VL-3B-Instruct)
Run:    VLLM_BASE_URL=http://localhost:8000 python ask_about_an_image_in_langchain.py [IMAGE]
"""

from __future__ import annotations

import base64
import mimetypes
import os
import sys
from pathlib import Path

from langchain_core.messages import HumanMessage

from vllm_adapters.langchain import ChatVLLM

RED_SQUARE = (  # a PNG, for want of a better picture
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQMAAACQp+OdAAAAA1BMVEX/AAAZ4gk3"
    "AAAAD0lEQVR42mNgGAWjgHwAAAJAAAHgTR1EAAAAAElFTkSuQmCC"
)


def main() -> None:
    data, kind = RED_SQUARE, "image/png"
    if len(sys.argv) > 1:
        data = base64.b64encode(Path(sys.argv[1]).read_bytes()).decode()
        kind = mimetypes.guess_type(sys.argv[1])[0] or kind
    llm = ChatVLLM(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=100)
    # Or "url": "https://..." for "base64": then the server fetches the image itself.
    image = {"type": "image", "base64": data, "mime_type": kind}
    print(llm.invoke([HumanMessage([{"type": "text", "text": "What color is this?"}, image])]).text)


if __name__ == "__main__":
    main()
