# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters"]
# ///
"""Show what a model thinks and then answers, word by word, with the OpenAI SDK's own client.

Needs:  pip install vllm-adapters
Server: vllm serve MODEL --reasoning-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python stream_reasoning_with_the_client.py
"""

from __future__ import annotations

import os

from vllm_adapters import VLLMClient
from vllm_adapters.errors import IncompleteStream

MODEL = os.environ.get("VLLM_MODEL", "")  # empty: the one that is served


def main() -> None:
    stream = VLLMClient().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the capital of Japan?"}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        # Qwen3 and others read enable_thinking; another model's chat template may have another name for it.
        extra_body={"chat_template_kwargs": {"enable_thinking": True}},
    )
    shown = ""
    try:
        for chunk in stream:
            for choice in chunk.choices:  # the last chunk has none, but the usage
                # A chunk holds one kind of delta. Older servers call it reasoning_content; it is read, too.
                thought = getattr(choice.delta, "reasoning", None)
                kind, text = ("thought", thought) if thought else ("answer", choice.delta.content or "")
                if kind != shown and text.strip():
                    print(f"\n{kind}: {text.lstrip()}", end="", flush=True)
                    shown = kind
                else:
                    print(text, end="", flush=True)
            if chunk.usage:
                print(f"\n[{chunk.usage.completion_tokens} tokens]")
    except IncompleteStream as error:  # a stream that breaks off is never taken for a whole answer
        print(f"\nbroken off: {error}")


if __name__ == "__main__":
    main()
