# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]"]
# ///
"""Ask one server's base model and each of its LoRA adapters the same: an adapter is a model name, per request.

Needs:  pip install 'vllm-adapters[langchain]'
Server: vllm serve MODEL --enable-lora --lora-modules NAME=PATH   (or: vllm-adapters serve tiny --lora)
Run:    VLLM_BASE_URL=http://localhost:8000 python switch_lora_per_request.py
"""

from __future__ import annotations

from vllm_adapters import VLLMServer
from vllm_adapters.langchain import ChatVLLM


def main() -> None:
    server = VLLMServer()
    llm = ChatVLLM(server=server, temperature=0, max_tokens=20)
    question = "What is the capital of Japan?"
    print("base:", llm.invoke(question).text)

    adapters = [card.id for card in server.models() if card.parent]
    if not adapters:
        print("no adapter is served: the server needs --enable-lora --lora-modules NAME=PATH")
    for name in adapters:
        # Per call, or bound: llm.bind(model=name). The base model's connections and settings are shared.
        reply = llm.invoke(question, model=name)
        print(f"{reply.response_metadata['model_name']}:", reply.text)


if __name__ == "__main__":
    main()
