# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[haystack]"]
# ///
"""Fail over to a second server in Haystack: if the first is dead, slow or overloaded, not if the request is wrong.

Needs:  pip install 'vllm-adapters[haystack]'
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 FIRST_URL=http://localhost:9 python fail_over_in_haystack.py
"""

import os
from typing import Any, cast

from haystack import component
from haystack.components.generators.chat import FallbackChatGenerator
from haystack.dataclasses import ChatMessage

from vllm_adapters.errors import RateLimited, ServerFailed, ServerNotReady, ServerTimeout, ServerUnreachable
from vllm_adapters.haystack import VLLMChatGenerator

SERVER = (ServerUnreachable, ServerTimeout, ServerNotReady, ServerFailed, RateLimited)  # others are of the request


@component
class ServerFallback(FallbackChatGenerator):  # Haystack's own tries the next one after any error
    @component.output_types(replies=list[ChatMessage])
    def run(
        self, messages: Any, generation_kwargs: Any = None, tools: Any = None, streaming_callback: Any = None
    ) -> Any:
        *others, last = cast(list[Any], self.chat_generators)
        for llm in others:
            try:
                return llm.run(messages, streaming_callback, generation_kwargs, tools=tools)
            except SERVER as error:
                if error.partial:  # the callback has it already
                    raise
        return last.run(messages, streaming_callback, generation_kwargs, tools=tools)

    @component.output_types(replies=list[ChatMessage])
    async def run_async(
        self, messages: Any, generation_kwargs: Any = None, tools: Any = None, streaming_callback: Any = None
    ) -> Any:
        *others, last = cast(list[Any], self.chat_generators)
        for llm in others:
            try:
                return await llm.run_async(messages, streaming_callback, generation_kwargs, tools=tools)
            except SERVER as error:
                if error.partial:
                    raise
        return await last.run_async(messages, streaming_callback, generation_kwargs, tools=tools)


if __name__ == "__main__":
    dead = VLLMChatGenerator(api_base_url=os.environ.get("FIRST_URL", "http://localhost:9"), max_retries=0)
    llm = ServerFallback([dead, VLLMChatGenerator(generation_kwargs={"temperature": 0, "max_tokens": 30})])
    print(llm.run("What is the capital of France?")["replies"][0].text)
