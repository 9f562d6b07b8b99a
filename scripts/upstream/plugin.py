"""A pytest plugin that points a package's own tests at our classes, and records their results.

``run.py`` loads it with ``-p`` into the tests of the distribution that the environment names.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

SUITE = os.environ["UPSTREAM_SUITE"]
RESULTS = Path(os.environ["UPSTREAM_RESULTS"])
SERVER_VERSION = "0.32.0"  # the servers that these tests mock have no /version

_results: dict[str, dict[str, str]] = {}


def _replace(modules: list[str], **classes: Any) -> None:
    for module in map(import_module, modules):
        for name, cls in classes.items():
            if hasattr(module, name):
                setattr(module, name, cls)


def use_langchain() -> None:
    """Put our classes in place of langchain-openai's."""
    from pydantic import Field

    from vllm_adapters.langchain import VLLM, ChatVLLM, VLLMEmbeddings

    class NamedChatVLLM(ChatVLLM):
        """With a default model, as ``ChatOpenAI`` has; ours asks the server, and these tests have none."""

        model_name: str = Field(default="gpt-3.5-turbo", alias="model")
        server_version: str | None = SERVER_VERSION

    class NamedVLLM(VLLM):
        """With a default model, as ``OpenAI`` has."""

        model_name: str = Field(default="gpt-3.5-turbo-instruct", alias="model")
        server_version: str | None = SERVER_VERSION

    modules = ["", ".chat_models", ".chat_models.base", ".llms", ".llms.base", ".embeddings", ".embeddings.base"]
    _replace(
        [f"langchain_openai{module}" for module in modules],
        ChatOpenAI=NamedChatVLLM,
        OpenAI=NamedVLLM,
        OpenAIEmbeddings=VLLMEmbeddings,
    )


def use_haystack() -> None:
    """Put our components in place of vllm-haystack's."""
    from vllm_adapters.haystack import VLLMChatGenerator, VLLMDocumentEmbedder, VLLMRanker, VLLMTextEmbedder

    kinds = ["generators.vllm", "generators.vllm.chat", "generators.vllm.chat.chat_generator", "embedders.vllm"]
    kinds += ["embedders.vllm.document_embedder", "embedders.vllm.text_embedder", "rankers.vllm", "rankers.vllm.ranker"]
    _replace(
        [f"haystack_integrations.components.{kind}" for kind in kinds],
        VLLMChatGenerator=VLLMChatGenerator,
        VLLMDocumentEmbedder=VLLMDocumentEmbedder,
        VLLMRanker=VLLMRanker,
        VLLMTextEmbedder=VLLMTextEmbedder,
    )
    _use_mocked_create()


def _use_mocked_create() -> None:
    """Call the SDK's ``create`` where a test has mocked it: our components send plain dicts past it."""
    from openai import AsyncOpenAI
    from openai.resources.chat import completions

    from vllm_adapters._client.raw_completions import RawCompletions

    send = RawCompletions.create

    def create(self: RawCompletions, **body: Any) -> Any:
        is_async = isinstance(self._client, AsyncOpenAI)
        mocked = (completions.AsyncCompletions if is_async else completions.Completions).create
        if not isinstance(mocked, Mock):
            return send(self, **body)
        return _in_dicts(mocked(**body)) if is_async else _reply_in_dicts(mocked(**body))

    RawCompletions.create = create  # type: ignore[method-assign]


async def _in_dicts(reply: Any) -> Any:
    return _reply_in_dicts(await reply)


def _reply_in_dicts(reply: Any) -> Any:
    return reply.model_dump() if hasattr(reply, "model_dump") else DictStream(reply)


class DictStream:
    """The chunks of a mocked stream, as dicts."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (chunk.model_dump() for chunk in self._stream)

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        async for chunk in self._stream:
            yield chunk.model_dump()

    def __enter__(self) -> DictStream:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    async def __aenter__(self) -> DictStream:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass


def use_client() -> None:
    """Put our clients in place of the SDK's."""
    import openai

    from vllm_adapters import AsyncVLLMClient, VLLMClient

    openai.OpenAI = openai.Client = _lenient(VLLMClient)  # type: ignore[misc]
    openai.AsyncOpenAI = openai.AsyncClient = _lenient(AsyncVLLMClient)  # type: ignore[misc]


def _lenient(client: Any) -> Any:
    """Return a subclass that takes, and ignores, what the SDK's tests pass and a vLLM server has no use for."""

    class Client(client):  # type: ignore[misc]
        def __init__(self, *, _strict_response_validation: bool = False, admin_api_key: Any = None, **how: Any) -> None:
            super().__init__(**{"server_version": SERVER_VERSION, **how})
            self._strict_response_validation = _strict_response_validation

    Client.__name__ = Client.__qualname__ = client.__name__
    return Client


{"langchain-openai": use_langchain, "vllm-haystack": use_haystack, "openai": use_client}[SUITE]()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the worst outcome of a test's three phases."""
    outcome = "skipped" if report.skipped else report.outcome
    if report.when == "call" or outcome != "passed":
        known = _results.get(report.nodeid)
        if known is None or known["outcome"] != "failed":
            _results[report.nodeid] = {"outcome": outcome, "message": _message(report)}


@pytest.hookimpl(trylast=True)
def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Count a file that cannot be imported as a failed test."""
    if report.failed:
        _results[report.nodeid] = {"outcome": "failed", "message": _message(report)}


def _message(report: pytest.TestReport | pytest.CollectReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr or "")
    return text.strip().partition("\n")[0][:300]


def pytest_sessionfinish() -> None:
    """Write the results."""
    RESULTS.write_text(json.dumps(_results), encoding="utf-8")
