# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]"]
# ///
"""Serve tenants from one vLLM in Haystack: a LoRA adapter per request, and isolated prompt caches (cache_salt).

Needs:  pip install 'vllm-adapters[haystack]'
Server: vllm serve MODEL --enable-lora --lora-modules NAME=PATH --enable-prompt-tokens-details
        (or: vllm-adapters serve tiny --lora --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python serve_tenants_in_haystack.py
"""

from __future__ import annotations

from vllm_adapters import VLLMServer
from vllm_adapters.haystack import VLLMChatGenerator

MANUAL = "\n".join(f"Rule {n}: robots of kind {n} wait at door {n}." for n in range(1, 41))


def main() -> None:
    server = VLLMServer()
    llm = VLLMChatGenerator(server=server, generation_kwargs={"temperature": 0, "max_tokens": 20})
    for card in server.models():  # the base model and each LoRA adapter, which is selected by its model name
        # Use a secret of at least 32 random characters: whoever knows the salt can find out what is cached.
        tenant = {"model": card.id, "cache_salt": f"secret-of-{card.id}"}
        for question in ("Hello", "Tell me a joke"):
            # The common prefix comes first. In a pipeline: run({"llm": {"generation_kwargs": tenant}, ...}).
            reply = llm.run(f"{MANUAL}\n\n{question}", generation_kwargs=tenant)["replies"][0]
            cached = (reply.meta["usage"].get("prompt_tokens_details") or {}).get("cached_tokens")
            print(f"{reply.meta['model']}: {reply.text or ''!r}   [cached tokens: {cached}]")


if __name__ == "__main__":
    main()
