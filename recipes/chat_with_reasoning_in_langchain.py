# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]"]
# ///
"""Show a model's reasoning in LangChain, streamed and not streamed, with LangChain's content blocks.

Needs:  pip install 'vllm-adapters[langchain]'
Server: vllm serve MODEL --reasoning-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python chat_with_reasoning_in_langchain.py
"""

from __future__ import annotations

import os

from vllm_adapters.langchain import ChatVLLM


def main() -> None:
    # enable_thinking is read by the chat template of Qwen3 and others; other models may use another name.
    llm = ChatVLLM(
        model=os.environ.get("VLLM_MODEL", ""),  # empty: the served model
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
