# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]"]
# ///
"""Keep a growing conversation within the context length in LangChain: trim_messages with exact token counts.

Needs:  pip install 'vllm-adapters[langchain]'
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python keep_within_the_context_in_langchain.py
        CONTEXT=110 VLLM_BASE_URL=... python ...   limits the context, so that messages are left out
"""

from __future__ import annotations

import os

from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage, trim_messages

from vllm_adapters.langchain import ChatVLLM

FOR_THE_REPLY = 60


def main() -> None:
    llm = ChatVLLM.from_server(model=os.environ.get("VLLM_MODEL", ""), temperature=0, max_tokens=FOR_THE_REPLY)
    context = int(os.environ.get("CONTEXT", "0")) or (llm.profile or {}).get("max_input_tokens", 4096)
    messages: list[AnyMessage] = [SystemMessage("Be brief.")]
    for question in ["My name is Ada.", "What is my name?", "Count to three"]:
        messages.append(HumanMessage(question))
        sent = trim_messages(
            messages,
            max_tokens=context - FOR_THE_REPLY,
            token_counter=llm,  # exact, including the chat template
            strategy="last",
            include_system=True,
            start_on="human",  # keeps complete turns
        )
        reply = llm.invoke(sent)
        used = reply.usage_metadata["input_tokens"] if reply.usage_metadata else 0
        left_out = len(messages) - len(sent)
        print(f"{question} -> {reply.text}   [{used} of {context} tokens, {left_out} messages left out]")
        messages.append(reply)


if __name__ == "__main__":
    main()
