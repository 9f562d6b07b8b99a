# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]"]
# ///
"""Chat in LangChain and see what the model thinks, whole and as a stream, through LangChain's own content blocks.

Needs:  pip install 'vllm-adapters[langchain]'
Server: vllm serve MODEL --reasoning-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python chat_with_reasoning_in_langchain.py
"""

from __future__ import annotations

import os

from vllm_adapters.langchain import ChatVLLM


def main() -> None:
    # Qwen3 and others read enable_thinking; another model's chat template may have another name for it.
    llm = ChatVLLM(
        model=os.environ.get("VLLM_MODEL", ""),  # empty: the one that is served
        temperature=0,
        chat_template_kwargs={"enable_thinking": True},
    )
    question = "What is the capital of Japan?"

    reply = llm.invoke(question)
    for block in reply.content_blocks:
        if block["type"] == "reasoning":
            print("thought:", block["reasoning"].strip())
    print("answer:", reply.text.strip())

    print("streamed:")
    for chunk in llm.stream(question):
        for part in chunk.content_blocks:
            if part["type"] == "reasoning":
                print(part["reasoning"], end="", flush=True)
            elif part["type"] == "text":
                print(part["text"], end="", flush=True)
    print()


if __name__ == "__main__":
    main()
