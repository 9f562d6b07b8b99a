"""``VLLM``: LangChain's text completion model on vLLM."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_openai.llms.base import BaseOpenAI
from pydantic import Field, PrivateAttr, model_validator

from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters._request import compat
from vllm_adapters._request.body import deep_merge, merge_and_drop_none, reject_streamed_n, sdk_and_body
from vllm_adapters._response.validate import CHOICE_FIELDS, RESPONSE_FIELDS, pick_fields
from vllm_adapters._version import __version__
from vllm_adapters.langchain._connection import OpenAIConnection, refuse_unknown
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.params import CompletionParams, wire
from vllm_adapters.types import Tokens


class VLLM(CompletionParams, OpenAIConnection, BaseOpenAI):  # type: ignore[misc]  # fewer types of key
    r"""LangChain's text completion model for a vLLM server: base models, fill-in-the-middle, scoring of texts.

    >>> from vllm_adapters.langchain import VLLM
    >>> llm = VLLM(base_url="http://localhost:8000", max_tokens=8, temperature=0)  # vllm serve MODEL
    >>> llm.invoke("user:Hello\nassistant:", max_tokens=2)
    'Hello!'
    >>> result = llm.generate(["Rome is", "Oslo is"], prompt_logprobs=1)  # both in one request
    >>> [len(generations) for generations in result.generations]
    [1, 1]

    For chat models use ``ChatVLLM``: this class sends a prompt as it is, without the model's chat template.
    Parameters are given as for ``ChatVLLM``: flat, here, in ``bind`` and per call. One that is not given is not
    sent, so that the server's own default holds; vLLM's for ``max_tokens`` is 16.

    Args:
        model: Served model name; default: the one base model that the server serves.
        base_url: As for ``VLLMClient``; default ``VLLM_BASE_URL``, else ``http://localhost:8000/v1``.
        api_key: As for ``VLLMClient``; default ``VLLM_API_KEY``. ``OPENAI_*`` is never read.
        server: A ``VLLMServer`` to use instead of url, key, timeout and retries.
        timeout: Seconds, or ``Timeouts(connect, idle, total)``; default 30 / 600 / 3600 s.
        max_retries: Further attempts after connection failures, 429 and 5xx; default 2.
        server_version: The server's vLLM version, where ``/version`` does not tell it.
        allow_unknown: Let ``extra_body`` carry fields that no vLLM version has.
        batch_size: Prompts in one request; default 64.
        max_tokens: Tokens to generate; -1: as many as the context has room for, which is asked for first.
        n: Completions for each prompt; default 1.
        echo: Return the prompt too.
        suffix: Text that follows the gap, for models and servers that can fill in the middle.
        logprobs: How many tokens' log probabilities to return at each place.
        stream_usage: Have streams end with their token usage, in ``generation_info``; default True.

    Raises:
        VLLMError: On every failure, as a class of ``vllm_adapters.langchain.errors``.
    """

    temperature: float | None = None  # type: ignore[assignment]  # the server's own default holds
    max_tokens: int | None = None  # type: ignore[assignment]
    top_p: float | None = None  # type: ignore[assignment]
    frequency_penalty: float | None = None  # type: ignore[assignment]
    presence_penalty: float | None = None  # type: ignore[assignment]
    echo: bool | None = None
    suffix: str | None = None
    batch_size: int = Field(default=64, ge=1)
    stream_usage: bool = True

    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    # Construction. Validators named like the base class's take their place.

    @model_validator(mode="before")
    @classmethod
    def build_extra(cls, values: dict[str, Any]) -> Any:
        """Refuse keywords that are no parameter, instead of moving them to ``model_kwargs`` with a warning."""
        refuse_unknown(cls, "completions", values)
        return values

    @model_validator(mode="after")
    def validate_environment(self) -> Self:
        """Connect the clients; nothing is sent."""
        self._connect()
        self._add_version("vllm-adapters", __version__)
        return self

    def _connect(self) -> None:
        super()._connect()
        self.client = RawCompletions(self._vllm.client, path="/completions")
        self.async_client = RawCompletions(self._vllm.async_client, path="/completions")

    @property
    def _llm_type(self) -> str:
        return "vllm"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        # The key of LangChain's cache: two servers may serve different models under one name.
        return {"model_name": self.model_name, "base_url": self.openai_api_base, **self._default_params}

    # Requests

    @property
    def _default_params(self) -> dict[str, Any]:
        names = ("temperature", "max_tokens", "top_p", "frequency_penalty", "presence_penalty", "logit_bias")
        sdk = {name: getattr(self, name) for name in (*names, "seed", "logprobs", "echo", "suffix")}
        several = {name: count for name in ("n", "best_of") if (count := getattr(self, name)) != 1}
        given = {name: value for name, value in (sdk | several).items() if value is not None}
        return deep_merge(
            {"model": self.model_name} if self.model_name else {},
            given,
            wire(self, CompletionParams),
            {"extra_body": self.extra_body} if self.extra_body else {},
            self.model_kwargs,
            self._given,
        )

    def _request(self, stop: list[str] | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of ``create``, but for the prompts."""
        levels = (self._default_params, given, {"stop": stop} if stop else {})
        sdk, body = sdk_and_body(*levels, model=CompletionParams, endpoint="completions")
        if self.allow_unknown:
            body[compat.ALLOW_UNKNOWN] = True
        return {**merge_and_drop_none(sdk), "extra_body": merge_and_drop_none(body)}

    def _batches(self, prompts: list[str], request: Mapping[str, Any]) -> list[list[str]]:
        size = 1 if _wants_all(request) else self.batch_size
        return [prompts[at : at + size] for at in range(0, len(prompts), size)]

    def generate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
        """``BaseLLM.generate``, with the call's parameters in the key of LangChain's cache, which leaves them out."""
        return super(VLLM, self._with(kwargs)).generate(prompts, *args, **kwargs)

    async def agenerate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
        """``generate``, to await."""
        return await super(VLLM, self._with(kwargs)).agenerate(prompts, *args, **kwargs)

    def _with(self, kwargs: Mapping[str, Any]) -> Self:
        given = {name: value for name, value in kwargs.items() if name not in _OF_THE_RUN}
        twin = self.model_copy()
        twin._given = deep_merge(self._given, given)
        return twin

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        with langchain_errors():
            if self.streaming:
                return _collected([list(self._stream(p, stop, run_manager, **kwargs)) for p in prompts])
            request = self._request(stop, kwargs)
            replies = []
            for batch in self._batches(prompts, request):
                room = self._vllm.tokenize(batch[0], model=request.get("model")) if _wants_all(request) else None
                replies.append((batch, self.client.create(prompt=batch, **_fitted(request, room))))
            return _result(replies, request.get("n") or 1)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        with langchain_errors():
            if self.streaming:
                return _collected([[c async for c in self._astream(p, stop, run_manager, **kwargs)] for p in prompts])
            request = self._request(stop, kwargs)
            replies = []
            for batch in self._batches(prompts, request):
                room = await self._vllm.atokenize(batch[0], model=request.get("model")) if _wants_all(request) else None
                replies.append((batch, await self.async_client.create(prompt=batch, **_fitted(request, room))))
            return _result(replies, request.get("n") or 1)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        with langchain_errors():
            request = self._streamed(stop, kwargs)
            room = self._vllm.tokenize(prompt, model=request.get("model")) if _wants_all(request) else None
            for reply in self.client.create(prompt=prompt, **_fitted(request, room)):
                chunk = _chunk(reply)
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk, **_logprobs(chunk))
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        with langchain_errors():
            request = self._streamed(stop, kwargs)
            room = await self._vllm.atokenize(prompt, model=request.get("model")) if _wants_all(request) else None
            async for reply in await self.async_client.create(prompt=prompt, **_fitted(request, room)):
                chunk = _chunk(reply)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk, **_logprobs(chunk))
                yield chunk

    def _streamed(self, stop: list[str] | None, given: Mapping[str, Any]) -> dict[str, Any]:
        request = self._request(stop, given)
        reject_streamed_n(request)
        usage = {"stream_options": {"include_usage": True}} if self.stream_usage else {}
        return {**usage, **request, "stream": True}

    # Tokens

    def get_token_ids(self, text: str) -> list[int]:
        """The served model's own token ids of a text, asked of the server once."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        with langchain_errors():
            return self._tokenizer.encode(text)


_OF_THE_RUN = frozenset({"callbacks", "tags", "metadata", "run_name", "run_id"})
"""Arguments of LangChain's ``generate`` that no server gets to see."""


def _wants_all(request: Mapping[str, Any]) -> bool:
    return request.get("max_tokens") == -1


def _fitted(request: Mapping[str, Any], prompt: Tokens | None) -> Mapping[str, Any]:
    """``request`` with all the room that ``prompt`` leaves in the context."""
    return request if prompt is None else {**request, "max_tokens": max(1, prompt.max_model_len - prompt.count)}


def _chunk(reply: Mapping[str, Any]) -> GenerationChunk:
    choice = reply["choices"][0] if reply["choices"] else {}
    added = pick_fields(choice, CHOICE_FIELDS | {"finish_reason", "logprobs"})
    usage = {"token_usage": reply["usage"]} if not choice and reply.get("usage") else {}
    return GenerationChunk(text=choice.get("text") or "", generation_info={**added, **usage})


def _logprobs(chunk: GenerationChunk) -> dict[str, Any]:
    return pick_fields(chunk.generation_info or {}, {"logprobs"})


def _collected(streams: list[list[GenerationChunk]]) -> LLMResult:
    """What ``streaming=True`` makes of each prompt's chunks."""
    generations = [functools.reduce(operator.add, chunks) for chunks in streams]
    infos = [generation.generation_info or {} for generation in generations]
    usage = _summed(info.pop("token_usage", {}) for info in infos)
    return LLMResult(generations=[[generation] for generation in generations], llm_output={"token_usage": usage})


def _result(replies: list[tuple[list[str], dict[str, Any]]], n: int) -> LLMResult:
    generations = [
        [_generation(choice) for choice in reply["choices"][at * n : (at + 1) * n]]
        for prompts, reply in replies
        for at in range(len(prompts))
    ]
    said = [reply for _, reply in replies]
    usage = _summed(reply.get("usage") or {} for reply in said)
    first = {"model_name": said[0].get("model"), **pick_fields(said[0], RESPONSE_FIELDS)} if said else {}
    return LLMResult(generations=generations, llm_output={"token_usage": usage, **first})


def _generation(choice: Mapping[str, Any]) -> Generation:
    info = {"finish_reason": choice.get("finish_reason"), "logprobs": choice.get("logprobs")}
    return Generation(text=choice["text"], generation_info={**info, **pick_fields(choice, CHOICE_FIELDS)})


def _summed(usages: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for usage in usages:
        found.update({name: count for name, count in usage.items() if isinstance(count, int)})
    return dict(found)
