# /// script
# requires-python = ">=3.11"
# dependencies = ["vllm-adapters[llamaindex]"]
# ///
"""Fail over to a second server in LlamaIndex: if the first is dead, slow or overloaded, not if the request is wrong.

Needs:  pip install 'vllm-adapters[llamaindex]'
Server: vllm serve MODEL   (or: vllm-adapters serve --port 8000)
Run:    VLLM_BASE_URL=http://localhost:8000 FIRST_URL=http://localhost:9 python fail_over_in_llamaindex.py
"""

import os
from collections.abc import AsyncIterator
from itertools import chain
from typing import Any

from llama_index.core.llms import ChatMessage

from vllm_adapters.errors import RateLimited, ServerFailed, ServerNotReady, ServerTimeout, ServerUnreachable
from vllm_adapters.llamaindex import VLLM

SERVER = (ServerUnreachable, ServerTimeout, ServerNotReady, ServerFailed, RateLimited)  # others are of the request


class FailoverVLLM(VLLM):  # LlamaIndex has no fall-back of its own; its agents and engines call these methods
    second: VLLM

    def chat(self, messages: Any, **kwargs: Any) -> Any:
        try:
            return super().chat(messages, **kwargs)
        except SERVER:
            return self.second.chat(messages, **kwargs)

    async def achat(self, messages: Any, **kwargs: Any) -> Any:
        try:
            return await super().achat(messages, **kwargs)
        except SERVER:
            return await self.second.achat(messages, **kwargs)

    def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
        try:
            stream = super().stream_chat(messages, **kwargs)
            return chain([next(stream)], stream)  # a stream that has begun does not change its server
        except SERVER:
            return self.second.stream_chat(messages, **kwargs)

    async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
        try:
            stream = await super().astream_chat(messages, **kwargs)
            return prepend(await anext(stream), stream)
        except SERVER:
            return await self.second.astream_chat(messages, **kwargs)


async def prepend(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    yield first
    async for chunk in rest:
        yield chunk


if __name__ == "__main__":
    dead = os.environ.get("FIRST_URL", "http://localhost:9")  # nothing listens there
    llm = FailoverVLLM(api_base=dead, max_retries=0, second=VLLM(temperature=0, max_tokens=30))
    print(llm.chat([ChatMessage("What is the capital of France?")]).message.content)
