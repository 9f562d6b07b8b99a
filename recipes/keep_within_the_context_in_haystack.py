# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]"]
# ///
"""Keep a growing conversation within the context length in Haystack: compaction with exact token counts.

Needs:  pip install 'vllm-adapters[haystack]'
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python keep_within_the_context_in_haystack.py
        CONTEXT=110 VLLM_BASE_URL=... python ...   limits the context, so that messages are left out
"""

from __future__ import annotations

import os

from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage
from haystack.hooks.compaction import CompactionHook, SlidingWindowCompactor

from vllm_adapters import VLLMServer
from vllm_adapters.haystack import VLLMChatGenerator, VLLMTokenCounter

FOR_THE_REPLY = 60


def main() -> None:
    server = VLLMServer(model=os.environ.get("VLLM_MODEL"))  # None: the served model
    context = int(os.environ.get("CONTEXT", "0")) or server.models()[0].max_model_len or 4096
    fit = CompactionHook(  # experimental in Haystack
        SlidingWindowCompactor(omission_note=None),  # None: adds no note about omitted messages
        context_window=context - FOR_THE_REPLY,
        compact_at=1.0,
        compact_to=0.9,
        token_counter=VLLMTokenCounter(server=server),
    )
    llm = VLLMChatGenerator(server=server, generation_kwargs={"temperature": 0, "max_tokens": FOR_THE_REPLY})
    agent = Agent(chat_generator=llm, hooks={"before_llm": [fit]})
    messages = [ChatMessage.from_system("Be brief.")]
    for question in ["My name is Ada.", "What is my name?", "Count to three"]:
        conversation = [*messages, ChatMessage.from_user(question)]
        messages = agent.run(messages=conversation)["messages"]
        reply = messages[-1]
        used = reply.meta["usage"]["prompt_tokens"]
        left_out = len(conversation) + 1 - len(messages)
        print(f"{question} -> {reply.text}   [{used} of {context} tokens, {left_out} messages left out]")


if __name__ == "__main__":
    main()
