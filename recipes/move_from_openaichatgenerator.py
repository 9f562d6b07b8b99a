# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]"]
# ///
"""Move a Haystack program from OpenAIChatGenerator to VLLMChatGenerator: before and after.

Needs:  pip install 'vllm-adapters[haystack]'
Server: vllm serve MODEL --reasoning-parser PARSER   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 python move_from_openaichatgenerator.py
"""

from __future__ import annotations

import os

from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret

from vllm_adapters import VLLMServer
from vllm_adapters.haystack import VLLMChatGenerator

THINK = {"enable_thinking": True}
QUESTION = [ChatMessage.from_user("What is the capital of Japan?")]


def before() -> OpenAIChatGenerator:
    server = VLLMServer()  # OpenAIChatGenerator needs the /v1, a key and the model
    return OpenAIChatGenerator(
        api_base_url=server.base_url,
        api_key=Secret.from_token(server.client.api_key),
        model=os.environ.get("VLLM_MODEL") or server.client.vllm.served_model(),
        # Typos in extra_body are not detected.
        generation_kwargs={"temperature": 0, "extra_body": {"top_k": 20, "chat_template_kwargs": THINK}},
    )


def after() -> VLLMChatGenerator:
    return VLLMChatGenerator(
        model=os.environ.get("VLLM_MODEL"),
        # Flat, validated, and also per run. In a pipeline's YAML only `type` and the parameters change.
        generation_kwargs={"temperature": 0, "top_k": 20, "chat_template_kwargs": THINK},
    )


def main() -> None:
    for llm in (before(), after()):
        # The rest of the program is unchanged: both have the same sockets.
        reply = llm.run(QUESTION)["replies"][0]
        content = "reasoning, text" if reply.reasoning else "text"
        print(f"{type(llm).__name__}: {(reply.text or '').strip()}  [{content}]")


if __name__ == "__main__":
    main()
