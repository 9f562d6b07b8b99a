"""Sessions of each framework through a gateway: which replica has them, and what its prefix cache has."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable, Sequence

from haystack.utils import Secret
from langchain.agents import create_agent
from llama_index.core.instrumentation.dispatcher import instrument_tags

from gateways.start import KEY, Gateway
from vllm_adapters import VLLMServer
from vllm_adapters.haystack import VLLMChatGenerator
from vllm_adapters.langchain import ChatVLLM
from vllm_adapters.llamaindex import VLLM
from vllm_adapters.testing import FaultServer

AT_LEAST, AT_MOST = 4, 20
"""How many sessions: as many as it takes until each replica has one."""

Ask = Callable[[str, str, Sequence[str]], list[int]]
"""Asks at an address in a session, and returns the cached tokens of each question."""


def in_langchain(url: str, session: str, questions: Sequence[str]) -> list[int]:
    """Ask an agent of LangGraph, whose thread is the session."""
    agent = create_agent(ChatVLLM(model="tiny", base_url=url, api_key=KEY, max_tokens=4, session="auto"))
    thread = {"configurable": {"thread_id": session}}
    states = [agent.invoke({"messages": [("user", question)]}, thread) for question in questions]
    return [state["messages"][-1].usage_metadata["input_token_details"].get("cache_read") or 0 for state in states]


def in_llamaindex(url: str, session: str, questions: Sequence[str]) -> list[int]:
    """Ask an LLM with a tag, which is the session."""
    llm = VLLM("tiny", api_base=url, api_key=KEY, max_tokens=4, session="auto")
    with instrument_tags({"session_id": session}):
        return [llm.complete(question).additional_kwargs["cached_tokens"] or 0 for question in questions]


def in_haystack(url: str, session: str, questions: Sequence[str]) -> list[int]:
    """Ask a generator whose run has the session."""
    key, parameters = Secret.from_token(KEY), {"max_tokens": 4}
    llm = VLLMChatGenerator(model="tiny", api_base_url=url, api_key=key, generation_kwargs=parameters)
    replies = [llm.run(question, session_id=session)["replies"][0] for question in questions]
    return [(reply.meta["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for reply in replies]


def has_cached(replica: str, prompt: str) -> bool:
    """Return whether a replica has had a prompt before."""
    reply = VLLMServer(replica, model="tiny").client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": prompt}], max_tokens=1
    )
    details = reply.usage.prompt_tokens_details if reply.usage else None
    return bool(details and details.cached_tokens)


def keeps_sessions(ask: Ask) -> Callable[[Gateway, FaultServer], str]:
    """Return the check that each session stays on one replica, and that each replica has sessions."""

    def check(gateway: Gateway, stub: FaultServer) -> str:
        replicas = os.environ["GATEWAYS_REPLICAS"].split()
        used: set[str] = set()
        for number in range(AT_MOST):
            prompt = f"{random.random()} " + " ".join(str(random.randrange(99)) for _ in range(200))
            # Each question has the whole text: the chat template of `tiny` shortens earlier turns.
            cached = ask(gateway.chat, str(uuid.uuid4()), [prompt + " and" * more for more in range(4)])
            had = [replica for replica in replicas if has_cached(replica, prompt)]
            if len(had) > 1:
                return "spread over the replicas"
            if cached[0] or not all(cached[1:]):
                raise AssertionError(f"the cached tokens of a session on one replica are {cached}")
            used.update(had)
            if number + 1 >= AT_LEAST and len(used) == len(replicas):
                return "ok"
        raise AssertionError(f"all sessions are on {used}")

    return check
