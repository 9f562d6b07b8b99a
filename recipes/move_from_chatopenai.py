# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[langchain]"]
# ///
"""Move a LangChain program from ChatOpenAI to ChatVLLM: before and after.

Needs:  pip install 'vllm-adapters[langchain]'
Server: vllm serve MODEL --reasoning-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python move_from_chatopenai.py
"""

from __future__ import annotations

import os

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from vllm_adapters import VLLMServer
from vllm_adapters.langchain import ChatVLLM

THINK = {"enable_thinking": True}


def before() -> BaseChatModel:
    server = VLLMServer()  # ChatOpenAI needs the /v1, a key and the model
    return ChatOpenAI(
        base_url=server.base_url,
        api_key=SecretStr(server.client.api_key),
        model=os.environ.get("VLLM_MODEL") or server.client.vllm.served_model(),
        temperature=0,
        extra_body={"top_k": 20, "chat_template_kwargs": THINK},  # typos in here are not detected
    )


def after() -> BaseChatModel:
    return ChatVLLM(
        model=os.environ.get("VLLM_MODEL", ""),
        temperature=0,
        top_k=20,  # flat, validated, and also per call: llm.invoke(..., top_k=1)
        chat_template_kwargs=THINK,
    )


def main() -> None:
    for llm in (before(), after()):
        # The rest of the program is unchanged: both are LangChain chat models.
        reply = llm.invoke("What is the capital of Japan?")
        blocks = ", ".join(block["type"] for block in reply.content_blocks)
        print(f"{type(llm).__name__}: {reply.text.strip()}  [{blocks}]")


if __name__ == "__main__":
    main()
