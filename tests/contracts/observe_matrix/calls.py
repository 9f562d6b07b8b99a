"""The calls: a chat of each class, whole or streamed, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from typing import Any

from vllm_adapters import VLLMServer

PROMPT = "Count"
MESSAGES: Any = [{"role": "user", "content": PROMPT}]

Texts = Iterator[str]


class Client:
    """``VLLMClient`` and ``AsyncVLLMClient``."""

    def __init__(self, server: VLLMServer) -> None:
        self._server = server
        self._request: Any = {"model": "stub", "messages": MESSAGES}

    def whole(self) -> str:
        return str(self._server.client.chat.completions.create(**self._request).choices[0].message.content)

    async def awhole(self) -> str:
        reply = await self._server.async_client.chat.completions.create(**self._request)
        return str(reply.choices[0].message.content)

    def stream(self) -> Texts:
        how = {"stream": True, "stream_options": {"include_usage": True}}
        for chunk in self._server.client.chat.completions.create(**self._request, **how):
            yield chunk.choices[0].delta.content or "" if chunk.choices else ""

    async def astream(self) -> AsyncIterator[str]:
        how = {"stream": True, "stream_options": {"include_usage": True}}
        async for chunk in await self._server.async_client.chat.completions.create(**self._request, **how):
            yield chunk.choices[0].delta.content or "" if chunk.choices else ""


class LangChain:
    """``ChatVLLM``."""

    def __init__(self, server: VLLMServer) -> None:
        from vllm_adapters.langchain import ChatVLLM

        self._chat = ChatVLLM(server=server)

    def whole(self) -> str:
        return str(self._chat.invoke(PROMPT).text)

    async def awhole(self) -> str:
        return str((await self._chat.ainvoke(PROMPT)).text)

    def stream(self) -> Texts:
        for chunk in self._chat.stream(PROMPT):
            yield str(chunk.text)

    async def astream(self) -> AsyncIterator[str]:
        async for chunk in self._chat.astream(PROMPT):
            yield str(chunk.text)


class LlamaIndex:
    """``VLLM`` of LlamaIndex."""

    def __init__(self, server: VLLMServer) -> None:
        from llama_index.core.llms import ChatMessage

        from vllm_adapters.llamaindex import VLLM

        self._llm = VLLM(server=server, context_window=4096)
        self._messages = [ChatMessage(PROMPT)]

    def whole(self) -> str:
        return str(self._llm.chat(self._messages).message.content)

    async def awhole(self) -> str:
        return str((await self._llm.achat(self._messages)).message.content)

    def stream(self) -> Texts:
        for chunk in self._llm.stream_chat(self._messages):
            yield chunk.delta or ""

    async def astream(self) -> AsyncIterator[str]:
        async for chunk in await self._llm.astream_chat(self._messages):
            yield chunk.delta or ""


class Haystack:
    """``VLLMChatGenerator``, in a pipeline; its streams are left by an error in the callback."""

    def __init__(self, server: VLLMServer) -> None:
        from haystack.dataclasses import ChatMessage

        from vllm_adapters.haystack import VLLMChatGenerator

        self._generator = VLLMChatGenerator(server=server)
        self._messages = [ChatMessage.from_user(PROMPT)]

    def whole(self) -> str:
        return str(self._generator.run(self._messages)["replies"][0].text)

    async def awhole(self) -> str:
        return str((await self._generator.run_async(self._messages))["replies"][0].text)


class Left(Exception):
    """The caller leaves a stream after its first text."""


def _leave(text: str) -> None:
    if text:
        raise Left


def _run(call: Any, what: str) -> str:
    if isinstance(call, Haystack):
        if what == "whole":
            return call.whole()
        texts: list[str] = []

        def take(chunk: Any) -> None:
            texts.append(chunk.content)
            if what == "left":
                _leave(chunk.content)

        call._generator.run(call._messages, streaming_callback=take)
        return "".join(texts)
    if what == "whole":
        return str(call.whole())
    if what == "left":
        for text in call.stream():
            _leave(text)
    return "".join(call.stream())


async def _arun(call: Any, what: str) -> str:
    if what == "whole":
        return str(await call.awhole())
    texts: list[str] = []
    begun = asyncio.Event()

    async def read() -> None:
        if isinstance(call, Haystack):

            async def take(chunk: Any) -> None:
                texts.append(chunk.content)
                if chunk.content:
                    begun.set()

            await call._generator.run_async(call._messages, streaming_callback=take)
            return
        async for text in call.astream():
            texts.append(text)
            if text:
                begun.set()

    if what != "left":
        await read()
        return "".join(texts)
    task = asyncio.ensure_future(read())
    waiting = asyncio.ensure_future(begun.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        raise Left from None
    return "".join(texts)


def outcome(make: Callable[[VLLMServer], Any], server: VLLMServer, what: str, mode: str) -> str:
    """Return the text of a reply, or the name of the error.

    Args:
        make: A class of this module.
        server: The server.
        what: ``whole``, ``stream``, or ``left``: a stream that is left or cancelled after its first text.
        mode: ``sync`` or ``async``.
    """
    try:
        call = make(server)
        return _run(call, what) if mode == "sync" else asyncio.run(_arun(call, what))
    except Left:
        return "left"
    except BaseException as error:
        ours = next((each for each in _causes(error) if type(each).__module__.startswith("vllm_adapters")), error)
        return _public_name(ours)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _public_name(error: BaseException) -> str:
    """Return the name of an error; of a framework's class, that of ours."""
    classes = [cls for cls in type(error).__mro__ if cls.__module__ == "vllm_adapters.errors"]
    return classes[0].__name__ if classes else f"{type(error).__name__}: {error}"[:80]


FRAMEWORKS = {
    "client": Client,
    **({"LangChain": LangChain} if find_spec("langchain_openai") else {}),
    **({"LlamaIndex": LlamaIndex} if find_spec("llama_index") else {}),
    **({"Haystack": Haystack} if find_spec("haystack") else {}),
}
