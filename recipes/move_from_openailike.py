# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[llamaindex]"]
# ///
"""Move a LlamaIndex program from OpenAILike to VLLM: before and after.

Needs:  pip install 'vllm-adapters[llamaindex]'
Server: vllm serve MODEL --reasoning-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python move_from_openailike.py
"""

from __future__ import annotations

import os

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import LLM
from llama_index.llms.openai_like import OpenAILike  # type: ignore[import-untyped, unused-ignore]

from vllm_adapters import VLLMServer
from vllm_adapters.llamaindex import VLLM

THINK = {"enable_thinking": True}


def before() -> LLM:
    server = VLLMServer()  # OpenAILike needs the /v1, a key, the model and its features
    llm: LLM = OpenAILike(
        api_base=server.base_url,
        api_key=server.client.api_key,
        model=os.environ.get("VLLM_MODEL") or server.client.vllm.served_model(),
        context_window=server.models()[0].max_model_len or 4096,
        is_chat_model=True,
        is_function_calling_model=True,
        temperature=0,
        # Typos in here are not detected.
        additional_kwargs={"extra_body": {"top_k": 20, "chat_template_kwargs": THINK}},
    )
    return llm


def after() -> LLM:
    return VLLM(
        model=os.environ.get("VLLM_MODEL", ""),
        temperature=0,
        top_k=20,  # flat, validated, and also per call: llm.chat(..., top_k=1)
        chat_template_kwargs=THINK,
    )


def main() -> None:
    for llm in (before(), after()):
        # The rest of the program is unchanged: both are LlamaIndex LLMs.
        reply = llm.chat([ChatMessage(role="user", content="What is the capital of Japan?")]).message
        blocks = ", ".join(block.block_type for block in reply.blocks)
        print(f"{type(llm).__name__}: {(reply.content or '').strip()}  [{blocks}]")


if __name__ == "__main__":
    main()
