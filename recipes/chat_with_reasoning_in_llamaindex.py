# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[llamaindex]"]
# ///
"""Show a model's reasoning in LlamaIndex, streamed and not streamed, with LlamaIndex's ThinkingBlock.

Needs:  pip install 'vllm-adapters[llamaindex]'
Server: vllm serve MODEL --reasoning-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python chat_with_reasoning_in_llamaindex.py
"""

from __future__ import annotations

import os

from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock

from vllm_adapters.llamaindex import VLLM


def main() -> None:
    # enable_thinking is read by the chat template of Qwen3 and others; other models may use another name.
    llm = VLLM(
        model=os.environ.get("VLLM_MODEL", ""),  # empty: the served model
        temperature=0,
        chat_template_kwargs={"enable_thinking": True},
    )
    question = [ChatMessage(role="user", content="What is the capital of Japan?")]

    reply = llm.chat(question)
    for block in reply.message.blocks:
        if isinstance(block, ThinkingBlock):
            print("thought:", (block.content or "").strip())
    print("answer:", (reply.message.content or "").strip())

    print("streamed:")
    for response in llm.stream_chat(question):
        print(response.additional_kwargs.get("thinking_delta") or response.delta or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
