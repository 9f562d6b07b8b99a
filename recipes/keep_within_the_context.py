# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters"]
# ///
"""Keep a growing conversation within the context length: count exact tokens, drop the oldest turns first.

Needs:  pip install vllm-adapters
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python keep_within_the_context.py
        CONTEXT=110 VLLM_BASE_URL=... python ...   limits the context, so that messages are left out
"""

from __future__ import annotations

import os
from typing import Any

from vllm_adapters import VLLMServer, VLLMTokenizer

FOR_THE_REPLY = 60
SYSTEM = {"role": "system", "content": "Be brief."}


def fit(messages: list[dict[str, Any]], tokenizer: VLLMTokenizer, budget: int) -> list[dict[str, Any]]:
    """Return the system message and as many of the last turns as fit; a turn starts with a user message."""
    kept = messages
    while tokenizer.count_messages([SYSTEM, *kept]) > budget:
        later_turns = [at for at, message in enumerate(kept) if at and message["role"] == "user"]
        if not later_turns:
            raise ValueError(f"The last turn alone has more than {budget} tokens. Shorten it.")
        kept = kept[later_turns[0] :]
    return [SYSTEM, *kept]


def main() -> None:
    server = VLLMServer(model=os.environ.get("VLLM_MODEL"))  # None: the served model
    tokenizer = VLLMTokenizer(server)
    context = int(os.environ.get("CONTEXT", "0")) or server.models()[0].max_model_len or 4096
    messages: list[dict[str, Any]] = []
    for question in ["My name is Ada.", "What is my name?", "Count to three"]:
        messages.append({"role": "user", "content": question})
        sent: Any = fit(messages, tokenizer, context - FOR_THE_REPLY)
        reply = server.client.chat.completions.create(
            model=server.model or "", messages=sent, temperature=0, max_tokens=FOR_THE_REPLY
        )
        text = reply.choices[0].message.content or ""
        used = reply.usage.prompt_tokens if reply.usage else 0
        print(f"{question} -> {text}   [{used} of {context} tokens, {len(messages) + 1 - len(sent)} messages left out]")
        messages.append({"role": "assistant", "content": text})


if __name__ == "__main__":
    main()
