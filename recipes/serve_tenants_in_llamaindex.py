# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[llamaindex]"]
# ///
"""Serve tenants from one vLLM in LlamaIndex: a LoRA adapter per request, and isolated prompt caches (cache_salt).

Needs:  pip install 'vllm-adapters[llamaindex]'
Server: vllm serve MODEL --enable-lora --lora-modules NAME=PATH --enable-prompt-tokens-details
        (or: vllm-adapters serve tiny --lora --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python serve_tenants_in_llamaindex.py
"""

from __future__ import annotations

from vllm_adapters import VLLMServer
from vllm_adapters.llamaindex import VLLM

MANUAL = "\n".join(f"Rule {n}: robots of kind {n} wait at door {n}." for n in range(1, 41))


def main() -> None:
    server = VLLMServer()
    llm = VLLM(server=server, temperature=0, max_tokens=20)
    for card in server.models():  # the base model and each LoRA adapter, which is selected by its model name
        for question in ("Hello", "Tell me a joke"):
            reply = llm.complete(
                f"{MANUAL}\n\n{question}",  # the common prefix comes first
                model=card.id,
                # Use a secret of at least 32 random characters: whoever knows it can find out what is cached.
                cache_salt=f"secret-of-{card.id}",
            )
            cached = reply.additional_kwargs.get("cached_tokens")
            print(f"{reply.raw['model']}: {reply.text!r}   [cached tokens: {cached}]")


if __name__ == "__main__":
    main()
