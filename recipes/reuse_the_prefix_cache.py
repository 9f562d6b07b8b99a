# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters"]
# ///
"""Process a long prompt once for many questions, and isolate the cached prompts of tenants with cache_salt.

Without a salt, a tenant who guesses the beginning of another's prompt can tell from the speed that it is cached.

Needs:  pip install vllm-adapters
Server: vllm serve MODEL --enable-prompt-tokens-details   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python reuse_the_prefix_cache.py
"""

from __future__ import annotations

import os

from vllm_adapters import VLLMClient

MODEL = os.environ.get("VLLM_MODEL", "")  # empty: the served model
MANUAL = "\n".join(f"Rule {n}: robots of kind {n} wait at door {n}." for n in range(1, 41))


def cached_tokens(client: VLLMClient, tenant: str, question: str) -> str:
    reply = client.chat.completions.create(
        model=MODEL,
        # The common text comes first, unchanged: the cached prefix ends at the first difference.
        messages=[{"role": "user", "content": f"{MANUAL}\n\n{question}"}],
        temperature=0,
        max_tokens=20,
        extra_body={"cache_salt": tenant},  # in production a secret of at least 32 random characters per tenant
    )
    if reply.usage is None or reply.usage.prompt_tokens_details is None:
        return "unknown: the server needs --enable-prompt-tokens-details"
    return f"{reply.usage.prompt_tokens_details.cached_tokens or 0} of {reply.usage.prompt_tokens} tokens cached"


def main() -> None:
    client = VLLMClient()
    for tenant in ("tenant-a", "tenant-b"):
        for question in ("Hello", "Tell me a joke"):
            print(f"{tenant}, {question!r}: {cached_tokens(client, tenant, question)}")


if __name__ == "__main__":
    main()
