# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]"]
# ///
"""Serve tenants from one vLLM in LangChain: a LoRA adapter per request, and isolated prompt caches (cache_salt).

Needs:  pip install 'vllm-adapters[langchain]'
Server: vllm serve MODEL --enable-lora --lora-modules NAME=PATH --enable-prompt-tokens-details
        (or: vllm-adapters serve tiny --lora --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python serve_tenants_in_langchain.py
"""

from __future__ import annotations

from vllm_adapters import VLLMServer
from vllm_adapters.langchain import ChatVLLM

MANUAL = "\n".join(f"Rule {n}: robots of kind {n} wait at door {n}." for n in range(1, 41))


def main() -> None:
    server = VLLMServer()
    llm = ChatVLLM(server=server, temperature=0, max_tokens=20)
    for card in server.models():  # the base model and each LoRA adapter, which is selected by its model name
        # Or per call: llm.invoke(..., model=..., cache_salt=...). The connections are shared.
        # Use a secret of at least 32 random characters: whoever knows the salt can find out what is cached.
        tenant = llm.bind(model=card.id, cache_salt=f"secret-of-{card.id}")
        for question in ("Hello", "Tell me a joke"):
            reply = tenant.invoke(f"{MANUAL}\n\n{question}")  # the common prefix comes first
            usage = reply.usage_metadata
            cached = usage.get("input_token_details", {}).get("cache_read") if usage else None
            print(f"{reply.response_metadata['model_name']}: {reply.text!r}   [cached tokens: {cached}]")


if __name__ == "__main__":
    main()
