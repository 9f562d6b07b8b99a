"""One chat per framework with the same interface, for tests of what all of them must do with a real server."""

import pytest


class Client:
    """Sends messages with ``VLLMClient``, or ``AsyncVLLMClient``."""

    def __init__(self, url, **settings):
        from vllm_adapters import AsyncVLLMClient, VLLMClient

        self.client, self.async_client = (cls(url, max_retries=0, **settings) for cls in (VLLMClient, AsyncVLLMClient))

    def send(self, messages, **parameters):
        reply = self.client.chat.completions.create(model="", messages=messages, extra_body=parameters)
        return reply.choices[0].message.content

    async def asend(self, messages, **parameters):
        reply = await self.async_client.chat.completions.create(model="", messages=messages, extra_body=parameters)
        return reply.choices[0].message.content


class LangChain:
    """Sends messages with ``ChatVLLM``."""

    def __init__(self, url, **settings):
        pytest.importorskip("langchain_openai")
        from vllm_adapters import langchain

        self.llm = langchain.ChatVLLM(base_url=url, max_retries=0, **settings)

    def send(self, messages, **parameters):
        return self.llm.invoke(messages, **parameters).text

    async def asend(self, messages, **parameters):
        return (await self.llm.ainvoke(messages, **parameters)).text


class LlamaIndex:
    """Sends messages with ``VLLM``."""

    def __init__(self, url, **settings):
        pytest.importorskip("llama_index.llms.openai_like")
        from vllm_adapters import llamaindex

        self.llm = llamaindex.VLLM(api_base=url, max_retries=0, **settings)

    def send(self, messages, **parameters):
        return self.llm.chat(self._converted(messages), **parameters).message.content

    async def asend(self, messages, **parameters):
        return (await self.llm.achat(self._converted(messages), **parameters)).message.content

    def _converted(self, messages):
        from llama_index.core.llms import ChatMessage

        return [ChatMessage(**message) for message in messages]


class Haystack:
    """Sends messages with ``VLLMChatGenerator``."""

    def __init__(self, url, **settings):
        pytest.importorskip("haystack")
        from vllm_adapters import haystack

        self.llm = haystack.VLLMChatGenerator(api_base_url=url, max_retries=0, **settings)

    def send(self, messages, **parameters):
        return self.llm.run(self._converted(messages), generation_kwargs=parameters)["replies"][0].text

    async def asend(self, messages, **parameters):
        output = await self.llm.run_async(self._converted(messages), generation_kwargs=parameters)
        return output["replies"][0].text

    def _converted(self, messages):
        from haystack.dataclasses import ChatMessage

        return [ChatMessage.from_openai_dict_format(message) for message in messages]


CHATS = (Client, LangChain, LlamaIndex, Haystack)
