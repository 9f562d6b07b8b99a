# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters"]
# ///
"""Stream a model's reasoning and its answer with the OpenAI SDK.

Needs:  pip install vllm-adapters
Server: vllm serve MODEL --reasoning-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python stream_reasoning_with_the_client.py
"""

from __future__ import annotations

import os

from vllm_adapters import VLLMClient
from vllm_adapters.errors import IncompleteStream

MODEL = os.environ.get("VLLM_MODEL", "")  # empty: the served model


def main() -> None:
    stream = VLLMClient().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the capital of Japan?"}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        # enable_thinking is read by the chat template of Qwen3 and others; other models may use another name.
        extra_body={"chat_template_kwargs": {"enable_thinking": True}},
    )
    shown = ""
    try:
        for chunk in stream:
            for choice in chunk.choices:  # the last chunk has no choices but the usage
                # A chunk has one kind of delta. The reasoning_content of older servers is read as well.
                reasoning = getattr(choice.delta, "reasoning", None)
                kind, text = ("thought", reasoning) if reasoning else ("answer", choice.delta.content or "")
                if kind != shown and text.strip():
                    print(f"\n{kind}: {text.lstrip()}", end="", flush=True)
                    shown = kind
                else:
                    print(text, end="", flush=True)
            if chunk.usage:
                print(f"\n[{chunk.usage.completion_tokens} tokens]")
    except IncompleteStream as error:  # a truncated stream never looks like a complete answer
        print(f"\nincomplete: {error}")


if __name__ == "__main__":
    main()
