# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters"]
# ///
"""Chat with a model on vLLM through the OpenAI SDK, with vLLM's own parameters.

Needs:  pip install vllm-adapters
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python chat_with_the_client.py
"""

from __future__ import annotations

import os
from typing import Any

from vllm_adapters import VLLMClient, VLLMError

MODEL = os.environ.get("VLLM_MODEL", "")  # empty: the served model
QUESTIONS = ["My name is Ada.", "What is my name?"]


def main() -> None:
    client = VLLMClient()  # uses VLLM_BASE_URL and VLLM_API_KEY
    messages: list[Any] = []
    try:
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            reply = client.chat.completions.create(
                model=MODEL,
                messages=messages,
                temperature=0,
                max_tokens=200,
                extra_body={"top_k": 20, "repetition_penalty": 1.0},  # unknown names are rejected
            )
            text = reply.choices[0].message.content
            messages.append({"role": "assistant", "content": text})
            print("you:  ", question)
            print("model:", text)
    except VLLMError as error:  # says what is wrong, where, and how to fix it
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main()
