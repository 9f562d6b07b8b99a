# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[llamaindex]"]
# ///
"""Keep a growing conversation within the context length in LlamaIndex: Memory with exact token counts.

Needs:  pip install 'vllm-adapters[llamaindex]'
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python keep_within_the_context_in_llamaindex.py
        CONTEXT=110 VLLM_BASE_URL=... python ...   limits the context, so that messages are left out
"""

from __future__ import annotations

import os

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import Memory

from vllm_adapters import VLLMServer, VLLMTokenizer
from vllm_adapters.llamaindex import VLLM

FOR_THE_REPLY = 60
SYSTEM = ChatMessage(role="system", content="Be brief.")


def main() -> None:
    server = VLLMServer(model=os.environ.get("VLLM_MODEL"))  # None: the served model
    llm = VLLM(server=server, temperature=0, max_tokens=FOR_THE_REPLY)
    context = int(os.environ.get("CONTEXT", "0")) or llm.metadata.context_window
    memory = Memory.from_defaults(
        tokenizer_fn=VLLMTokenizer(server, add_special_tokens=False),
        token_limit=context - FOR_THE_REPLY,
        chat_history_token_ratio=0.6,  # leaves tokens for the system message and the chat template
        token_flush_size=1,  # drops one turn at a time
    )
    past = 0
    for question in ["My name is Ada.", "What is my name?", "Count to three"]:
        # Agents and chat engines do this if they are given memory=.
        memory.put(ChatMessage(role="user", content=question))
        sent = [SYSTEM, *memory.get()]
        reply = llm.chat(sent)
        memory.put(reply.message)
        used = reply.additional_kwargs["prompt_tokens"]
        left_out = past + 2 - len(sent)
        print(f"{question} -> {reply.message.content}   [{used} of {context} tokens, {left_out} messages left out]")
        past += 2


if __name__ == "__main__":
    main()
