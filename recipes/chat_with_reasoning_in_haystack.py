# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]"]
# ///
"""Show a model's reasoning in Haystack, streamed and not streamed, with Haystack's ReasoningContent.

Needs:  pip install 'vllm-adapters[haystack]'
Server: vllm serve MODEL --reasoning-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python chat_with_reasoning_in_haystack.py
"""

from __future__ import annotations

import os

from haystack.dataclasses import StreamingChunk

from vllm_adapters.haystack import VLLMChatGenerator


def show(chunk: StreamingChunk) -> None:
    print(chunk.reasoning.reasoning_text if chunk.reasoning else chunk.content, end="", flush=True)


def main() -> None:
    # enable_thinking is read by the chat template of Qwen3 and others; other models may use another name.
    llm = VLLMChatGenerator(
        model=os.environ.get("VLLM_MODEL"),  # None: the served model
        generation_kwargs={"temperature": 0, "chat_template_kwargs": {"enable_thinking": True}},
    )
    question = "What is the capital of Japan?"

    reply = llm.run(question)["replies"][0]
    if reply.reasoning:
        print("thought:", reply.reasoning.reasoning_text.strip())
    print("answer:", (reply.text or "").strip())

    print("streamed:")
    llm.run(question, streaming_callback=show)
    print()


if __name__ == "__main__":
    main()
