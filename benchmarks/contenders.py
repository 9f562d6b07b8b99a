"""The contenders: how each library sends a chat, reads a stream and embeds texts.

Each is a small class with the same methods, so that a case is a list of names. A contender whose library is not
installed is left out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any

import openai
from stub import CHUNKS

from vllm_adapters import AsyncVLLMClient, VLLMClient
from vllm_adapters._compat import http

QUESTION = "What is the capital of France?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Contender:
    """One way to talk to the server at ``url``; ``model`` selects the stub's reply.

    Async methods run in ``loop``, so that their connections live on.
    """

    name = ""

    def __init__(self, url: str, model: str, loop: asyncio.AbstractEventLoop) -> None:
        self.url, self.model, self.loop = url, model, loop
        self.set_up()

    def set_up(self) -> None:
        """Make the clients."""

    def limit(self, tokens: int) -> None:
        """Make every reply of ``tokens`` tokens."""
        raise NotImplementedError

    def call(self) -> Any:
        """Return a reply."""
        raise NotImplementedError

    async def acall(self) -> Any:
        """Return a reply."""
        raise NotImplementedError

    def stream(self) -> int:
        """Read a stream to its end, and return its number of chunks."""
        raise NotImplementedError

    async def astream(self) -> int:
        """Read a stream to its end, and return its number of chunks."""
        raise NotImplementedError


def calls(contender: Contender, number: int) -> Callable[[], None]:
    """Return what sends ``number`` chats in turn."""

    def work() -> None:
        for _ in range(number):
            assert contender.call()

    return work


def acalls(contender: Contender, number: int) -> Callable[[], None]:
    """Return what sends ``number`` chats in turn in the event loop."""

    async def work() -> None:
        for _ in range(number):
            assert await contender.acall()

    return lambda: contender.loop.run_until_complete(work())


def stream(contender: Contender) -> Callable[[], None]:
    """Return what reads one stream and checks that no chunk is missing."""

    def work() -> None:
        found = contender.stream()
        assert found >= CHUNKS, f"{contender.name} read {found} chunks of {CHUNKS}"

    return work


def astream(contender: Contender) -> Callable[[], None]:
    """Async version of ``stream``."""

    def work() -> None:
        found = contender.loop.run_until_complete(contender.astream())
        assert found >= CHUNKS, f"{contender.name} read {found} chunks of {CHUNKS}"

    return work


def count(chunks: Iterable[Any]) -> int:
    """Return the number of chunks."""
    return sum(1 for _ in chunks)


async def acount(chunks: AsyncIterable[Any]) -> int:
    """Return the number of chunks."""
    total = 0
    async for _ in chunks:
        total += 1
    return total


class RawHTTPX(Contender):
    """httpx and ``json``: what the network alone costs."""

    name = "raw httpx"

    def set_up(self) -> None:
        self.client, self.aclient = http.Client(), http.AsyncClient()
        self.chat = f"{self.url}/chat/completions"
        self.body: dict[str, Any] = {"model": self.model, "messages": MESSAGES}

    def limit(self, tokens: int) -> None:
        self.body |= {"max_tokens": tokens, "min_tokens": tokens}

    def call(self) -> Any:
        return self.client.post(self.chat, json=self.body).json()

    async def acall(self) -> Any:
        return (await self.aclient.post(self.chat, json=self.body)).json()

    def stream(self) -> int:
        with self.client.stream("POST", self.chat, json={**self.body, "stream": True}) as response:
            return count(filter(None, map(_event, response.iter_lines())))

    async def astream(self) -> int:
        total = 0
        async with self.aclient.stream("POST", self.chat, json={**self.body, "stream": True}) as response:
            async for line in response.aiter_lines():
                total += bool(_event(line))
        return total


def _event(line: str) -> Any:
    return json.loads(line[6:]) if line.startswith("data: {") else None


_SESSIONS: list[Any] = []
_CLIENTS: list[Any] = []


async def close() -> None:
    """Close what must be closed in its event loop."""
    for each in (*_SESSIONS, *_CLIENTS):
        await each.close()


class RawAiohttp(RawHTTPX):
    """aiohttp and ``json``."""

    name = "raw aiohttp"

    def set_up(self) -> None:
        super().set_up()
        import aiohttp

        async def make() -> aiohttp.ClientSession:
            return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

        self.session = self.loop.run_until_complete(make())
        _SESSIONS.append(self.session)

    async def acall(self) -> Any:
        async with self.session.post(self.chat, json=self.body) as response:
            return await response.json()

    async def astream(self) -> int:
        total = 0
        async with self.session.post(self.chat, json={**self.body, "stream": True}) as response:
            async for line in response.content:
                total += bool(_event(line.decode().rstrip()))
        return total


class SDK(Contender):
    """The OpenAI SDK's clients."""

    name = "openai"
    sync_class: Any = openai.OpenAI
    async_class: Any = openai.AsyncOpenAI

    def set_up(self) -> None:
        self.client = self.sync_class(base_url=self.url, api_key="none")
        self.aclient = self.async_class(base_url=self.url, api_key="none")
        self.body: dict[str, Any] = {"model": self.model, "messages": MESSAGES}
        if self.model == "tools":
            self.body["tools"] = [TOOL]

    def limit(self, tokens: int) -> None:
        self.body |= {"max_tokens": tokens, "extra_body": {"min_tokens": tokens}}

    def call(self) -> Any:
        return self.client.chat.completions.create(**self.body).choices

    async def acall(self) -> Any:
        return (await self.aclient.chat.completions.create(**self.body)).choices

    def stream(self) -> int:
        return count(self.client.chat.completions.create(**self.body, stream=True))

    async def astream(self) -> int:
        return await acount(await self.aclient.chat.completions.create(**self.body, stream=True))


class Client(SDK):
    """This package's clients."""

    name = "VLLMClient"
    sync_class = VLLMClient
    async_class = AsyncVLLMClient


class ClientOnAiohttp(Client):
    """This package's async client with aiohttp's connections."""

    name = "VLLMClient on aiohttp"

    def set_up(self) -> None:
        from httpx_aiohttp import AiohttpTransport

        super().set_up()
        self.aclient = AsyncVLLMClient(self.url, http_options={"transport": AiohttpTransport()})
        _CLIENTS.append(self.aclient)


class ChatOpenAI(Contender):
    """LangChain's stock class."""

    name = "ChatOpenAI"

    def set_up(self) -> None:
        llm = self.make(model=self.model, base_url=self.url, api_key="none", temperature=0)
        self.llm: Any = llm.bind_tools([TOOL]) if self.model == "tools" else llm

    def make(self, **settings: Any) -> Any:
        from langchain_openai import ChatOpenAI

        return ChatOpenAI(**settings, stream_usage=True)

    def limit(self, tokens: int) -> None:
        self.llm = self.llm.bind(max_tokens=tokens, extra_body={"min_tokens": tokens})

    def call(self) -> Any:
        return self.llm.invoke(QUESTION).content

    async def acall(self) -> Any:
        return (await self.llm.ainvoke(QUESTION)).content

    def stream(self) -> int:
        return count(self.llm.stream(QUESTION))

    async def astream(self) -> int:
        return await acount(self.llm.astream(QUESTION))


class ChatVLLM(ChatOpenAI):
    """This package's class for LangChain."""

    name = "ChatVLLM"

    def make(self, **settings: Any) -> Any:
        from vllm_adapters.langchain import ChatVLLM

        return ChatVLLM(**settings)


class OpenAILike(Contender):
    """LlamaIndex's stock class."""

    name = "OpenAILike"

    def set_up(self) -> None:
        from llama_index.core.base.llms.types import ChatMessage

        self.llm = self.make(model=self.model, api_base=self.url, api_key="none", context_window=8192, max_retries=0)
        self.messages = [ChatMessage(content=QUESTION)]
        self.options: dict[str, Any] = {"tools": [TOOL]} if self.model == "tools" else {}

    def make(self, **settings: Any) -> Any:
        from llama_index.llms.openai_like import OpenAILike

        return OpenAILike(**settings, is_chat_model=True)

    def limit(self, tokens: int) -> None:
        self.options |= {"max_tokens": tokens, "extra_body": {"min_tokens": tokens}}

    def call(self) -> Any:
        return self.llm.chat(self.messages).message

    async def acall(self) -> Any:
        return (await self.llm.achat(self.messages)).message

    def stream(self) -> int:
        return count(self.llm.stream_chat(self.messages, **self.options))

    async def astream(self) -> int:
        return await acount(await self.llm.astream_chat(self.messages, **self.options))


class LlamaIndexVLLM(OpenAILike):
    """This package's class for LlamaIndex."""

    name = "VLLM"

    def make(self, **settings: Any) -> Any:
        from vllm_adapters.llamaindex import VLLM

        return VLLM(**settings)


class OpenAIChatGenerator(Contender):
    """Haystack's stock component."""

    name = "OpenAIChatGenerator"

    def set_up(self) -> None:
        from haystack.utils import Secret

        self.generator = self.make(model=self.model, api_base_url=self.url, api_key=Secret.from_token("none"))
        self.options: dict[str, Any] = {"tools": [_haystack_tool()]} if self.model == "tools" else {}

    def make(self, **settings: Any) -> Any:
        from haystack.components.generators.chat import OpenAIChatGenerator

        return OpenAIChatGenerator(**settings)

    def limit(self, tokens: int) -> None:
        limits = {"max_tokens": tokens, "extra_body": {"min_tokens": tokens}}
        self.options |= {"generation_kwargs": limits}

    def call(self) -> Any:
        return self.generator.run(QUESTION)["replies"]

    async def acall(self) -> Any:
        return (await self.generator.run_async(QUESTION))["replies"]

    def stream(self) -> int:
        chunks: list[Any] = []
        self.generator.run(QUESTION, streaming_callback=chunks.append, **self.options)
        return len(chunks)

    async def astream(self) -> int:
        chunks: list[Any] = []

        async def add(chunk: Any) -> None:
            chunks.append(chunk)

        await self.generator.run_async(QUESTION, streaming_callback=add, **self.options)
        return len(chunks)


def _haystack_tool() -> Any:
    from haystack.tools import Tool

    return Tool(function=print, **TOOL["function"])


class VLLMHaystack(OpenAIChatGenerator):
    """deepset's component for vLLM."""

    name = "vllm-haystack"

    def make(self, **settings: Any) -> Any:
        from haystack_integrations.components.generators.vllm import VLLMChatGenerator

        return VLLMChatGenerator(**settings)


class HaystackVLLM(OpenAIChatGenerator):
    """This package's component for Haystack."""

    name = "VLLMChatGenerator"

    def make(self, **settings: Any) -> Any:
        from vllm_adapters.haystack import VLLMChatGenerator

        return VLLMChatGenerator(**settings)


ALL = (
    *(RawHTTPX, RawAiohttp, SDK, Client, ClientOnAiohttp),
    *(ChatOpenAI, ChatVLLM, OpenAILike, LlamaIndexVLLM, OpenAIChatGenerator, VLLMHaystack, HaystackVLLM),
)


def make(url: str, model: str, loop: asyncio.AbstractEventLoop, names: Iterable[str] = ()) -> dict[str, Contender]:
    """Return the contenders whose libraries are installed, by name; of all, those that do everything."""
    wanted, found = set(names), {}
    for kind in ALL:
        if kind.name not in wanted if wanted else kind is ClientOnAiohttp:
            continue
        try:
            found[kind.name] = kind(url, model, loop)
        except ImportError as missing:
            print(f"{kind.name} is left out: {missing}")
    return found
