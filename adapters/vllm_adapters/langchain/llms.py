"""``VLLM``: LangChain's text completion model on vLLM."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar, Self, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_openai.llms.base import BaseOpenAI
from pydantic import Field, PrivateAttr, SecretStr, model_validator

from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters._request import compat
from vllm_adapters._request.body import deep_merge, drop_none, request_body, set_fields
from vllm_adapters._response.validate import CHOICE_FIELDS, RESPONSE_FIELDS, pick_fields
from vllm_adapters._version import __version__
from vllm_adapters.langchain._binding import BoundModel
from vllm_adapters.langchain._connection import (
    RUN_ARGUMENTS,
    ServerConnection,
    drop_credentials_of_another_server,
    is_valid,
    move_call_parameters,
    reject_openai_settings,
    reject_unknown_arguments,
)
from vllm_adapters.langchain._schemas import convert_response_format
from vllm_adapters.langchain._secrets import SECRETS, digest, hide, redact, reveal
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.params import CompletionParams
from vllm_adapters.server import VLLMServer
from vllm_adapters.timeouts import Timeouts
from vllm_adapters.types import Tokens

__all__ = ["VLLM"]


class VLLM(CompletionParams, ServerConnection, BaseOpenAI):  # type: ignore[misc]  # fewer types of key
    r"""LangChain's text completion model for a vLLM server: base models, fill-in-the-middle, scoring of texts.

    >>> from vllm_adapters.langchain import VLLM
    >>> llm = VLLM(base_url="http://localhost:8000", max_tokens=8, temperature=0)  # vllm serve MODEL
    >>> llm.invoke("user:Hello\nassistant:", max_tokens=2)
    'Hello!'
    >>> result = llm.generate(["Rome is", "Oslo is"], prompt_logprobs=1)  # both in one request
    >>> [len(generations) for generations in result.generations]
    [1, 1]

    For chat models use ``ChatVLLM``: this class sends a prompt as it is, without the model's chat template.
    Parameters are passed as to ``ChatVLLM``: flat, here, to ``bind`` and per call. Those that are not given are not
    sent, so that the server's defaults hold; vLLM's for ``max_tokens`` is 16.

    Args:
        model: Served model name; default: the one base model that is served.
        base_url: As for ``VLLMClient``; default ``VLLM_BASE_URL``, else ``http://localhost:8000/v1``.
        api_key: As for ``VLLMClient``; default ``VLLM_API_KEY``. The environment's ``OPENAI_*`` are not read.
        server: A ``VLLMServer`` to use instead of address, key, timeout and retries of its own.
        timeout: ``Timeouts(connect=30, idle=600, total=3600)`` in seconds, or one number for all three.
        max_retries: Further attempts after connection errors, 408, 409, 429 and 5xx; default 2.
        server_version: The server's vLLM version, for gateways that do not pass on ``/version``.
        allow_unknown: Let ``extra_body`` contain fields that no vLLM version has; default False.
        default_headers: Headers of every request.
        default_query: Query parameters of every request.
        http_client: An ``httpx.Client`` to use; its pool, proxies and redirects are then its own.
        http_async_client: The same for async calls.
        validate_model_on_init: Ask the server in the constructor whether it serves the model; default False.
        batch_size: Prompts in one request; default 64.
        max_tokens: Tokens to generate; -1: as many as the context can hold, which takes one more request.
        n: Completions for each prompt; default 1.
        echo: Return the prompt as well.
        suffix: Text that follows the gap, for models and servers that can fill in the middle.
        logprobs: Number of tokens to return log probabilities of, at each position.
        stream_usage: Have streams end with their token usage, in ``generation_info``; default True.

    Raises:
        VLLMError: On every failure, as a class of ``vllm_adapters.langchain.errors``.
    """

    model_name: str = Field(default="", alias="model")
    openai_api_base: str | None = Field(default=None, alias="base_url")
    openai_api_key: SecretStr | Callable[[], Any] | None = Field(default=None, alias="api_key")
    openai_organization: str | None = Field(default=None, alias="organization", exclude=True)
    openai_proxy: str | None = Field(default=None, exclude=True)
    request_timeout: Any = Field(default=Timeouts(), alias="timeout", exclude=True)
    temperature: float | None = None  # type: ignore[assignment]  # the server's own default holds
    max_tokens: int | None = None  # type: ignore[assignment]
    top_p: float | None = None  # type: ignore[assignment]
    frequency_penalty: float | None = None  # type: ignore[assignment]
    presence_penalty: float | None = None  # type: ignore[assignment]
    echo: bool | None = None
    suffix: str | None = None
    batch_size: int = Field(default=64, ge=1)
    stream_usage: bool = True

    _setting_fields: ClassVar = ("model_name", "openai_api_base", "openai_api_key", "request_timeout")
    _endpoint: ClassVar = "completions"
    _call_params: dict[str, Any] = PrivateAttr(default_factory=dict)

    # Construction. Validators named like the base class's replace them.

    @model_validator(mode="before")
    @classmethod
    def build_extra(cls, values: dict[str, Any]) -> Any:
        """Reject unknown arguments, which LangChain would move to ``model_kwargs`` with a warning."""
        values = drop_credentials_of_another_server(cls, move_call_parameters(cls, "completions", values))
        reject_unknown_arguments(cls, "completions", values)
        return values

    @model_validator(mode="after")
    def validate_environment(self) -> Self:
        """Reject settings that vLLM does not have; the clients exist already, and the environment is not read."""
        reject_openai_settings(self)
        self._add_version("vllm-adapters", __version__)
        return self

    def _connect(self) -> None:
        super()._connect()
        self.client = RawCompletions(self._connected.client, path="/completions")
        self.async_client = RawCompletions(self._connected.async_client, path="/completions")

    @property
    def _llm_type(self) -> str:
        return "vllm"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        model = params.get("ls_model_name") or self._model_name
        return LangSmithParams(**{**params, "ls_provider": "vllm", "ls_model_name": model})

    def bind(self, **kwargs: Any) -> BoundModel[str]:
        """Bind parameters for every call."""
        return BoundModel(bound=self, kwargs=hide(kwargs), config={})

    # Requests

    @property
    def _default_params(self) -> dict[str, Any]:
        """The constructor's parameters, flat, as they were given."""
        own = {"model": self.model_name or None, "echo": self.echo, "suffix": self.suffix}
        params = drop_none({**own, **set_fields(self, CompletionParams), **super()._default_params})
        if self.n == 1:
            del params["n"]
        if self.model_kwargs:  # LangChain has replaced dicts with those in it
            fields = {**set_fields(self, CompletionParams), "extra_body": self.extra_body or {}}
            params = deep_merge(fields, params)
        if self.allow_unknown:
            params[compat.ALLOW_UNKNOWN] = True
        return params

    def _request(
        self, stop: list[str] | None, params: Mapping[str, Any], added: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the arguments of ``create`` but for the prompts."""
        secrets = {name: self._call_params[name] for name in SECRETS & self._call_params.keys()}
        call = {**params, **secrets, **({"stop": stop} if stop else {})}  # LangChain has them redacted
        body = request_body(reveal(self._default_params), reveal(call), added or {}, endpoint="completions")
        if not body.get("stream"):
            body.pop("stream_options", None)  # of the streams of the same object; else vLLM rejects it
        if body.get("response_format") is not None:
            body["response_format"] = convert_response_format(body["response_format"])
        return body

    def _stream_request(self, stop: list[str] | None, params: Mapping[str, Any]) -> dict[str, Any]:
        request = self._request(stop, params, {"stream": True})
        if not self.stream_usage:
            return request
        return {**request, "stream_options": {"include_usage": True, **(request.get("stream_options") or {})}}

    def _batches(self, prompts: list[str], request: Mapping[str, Any]) -> list[list[str]]:
        size = 1 if _fills_context(request) else self.batch_size
        return [prompts[start : start + size] for start in range(0, len(prompts), size)]

    def _server_for(self, request: Mapping[str, Any]) -> VLLMServer:
        return self._server.serving(request["model"]) if request.get("model") else self._server

    # Calls, which traces and caches begin with the model's name

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        # They are the cache's key: two servers may serve different models under one name.
        params = deep_merge(self._default_params, self._call_params)
        model = {"model_name": self._model_name, "base_url": self.openai_api_base}
        credentials = digest(*self._credentials, params.get("extra_headers"), params.get("extra_query"))
        versions = {"server_version": self.server_version, "credentials": credentials}
        return redact(
            {**model, **params, **({"model": model["model_name"]} if model["model_name"] else {}), **versions}
        )

    def generate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
        """Return ``BaseLLM.generate``, with the call's parameters in the cache's key, which LangChain omits."""
        called = self._with_known_model(kwargs)._with_call_params(kwargs)
        return super(VLLM, called).generate(prompts, *args, **redact(kwargs))

    async def agenerate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
        """Async version of ``generate``."""
        called = (await self._awith_known_model(kwargs))._with_call_params(kwargs)
        return await super(VLLM, called).agenerate(prompts, *args, **redact(kwargs))

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[str]:
        """Return ``BaseLLM.stream``, once the model's name is known."""
        called = self._with_known_model(kwargs)._with_call_params(kwargs)
        return super(VLLM, called).stream(*args, **redact(kwargs))

    def astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[str]:
        """Async version of ``stream``."""
        if self._knows_model(kwargs):
            return super(VLLM, self._with_call_params(kwargs)).astream(*args, **redact(kwargs))
        return self._astream_once_known(*args, **kwargs)

    async def _astream_once_known(self, *args: Any, **kwargs: Any) -> AsyncIterator[str]:
        called = (await self._awith_known_model(kwargs))._with_call_params(kwargs)
        stream = super(VLLM, called).astream(*args, **redact(kwargs))
        async with aclosing(cast("AsyncGenerator[str]", stream)) as texts:
            async for text in texts:
                yield text

    def _is_valid(self, call: Mapping[str, Any]) -> bool:
        return self.allow_unknown or is_valid("completions", call, lambda **params: self._request(None, params))

    def _with_call_params(self, kwargs: Mapping[str, Any]) -> Self:
        copied = self.model_copy()
        copied._call_params = {name: value for name, value in kwargs.items() if name not in RUN_ARGUMENTS}
        return copied

    # Responses

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        with self._call_errors():
            if self.streaming:
                return _collect([list(self._stream(p, stop, run_manager, **kwargs)) for p in prompts])
            request = self._request(stop, kwargs)
            replies = []
            for batch in self._batches(prompts, request):
                tokens = self._server_for(request).tokenize(batch[0]) if _fills_context(request) else None
                replies.append((batch, self.client.create(prompt=batch, **_with_limit(request, tokens))))
            return _result(replies, request.get("n") or 1)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        with self._call_errors():
            if self.streaming:
                return _collect([[c async for c in self._astream(p, stop, run_manager, **kwargs)] for p in prompts])
            request = self._request(stop, kwargs)
            replies = []
            for batch in self._batches(prompts, request):
                tokens = await self._server_for(request).atokenize(batch[0]) if _fills_context(request) else None
                replies.append((batch, await self.async_client.create(prompt=batch, **_with_limit(request, tokens))))
            return _result(replies, request.get("n") or 1)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        with self._call_errors():
            request = self._stream_request(stop, kwargs)
            tokens = self._server_for(request).tokenize(prompt) if _fills_context(request) else None
            with self.client.create(prompt=prompt, **_with_limit(request, tokens)) as stream:
                for reply in stream:
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
        with self._call_errors():
            request = self._stream_request(stop, kwargs)
            tokens = await self._server_for(request).atokenize(prompt) if _fills_context(request) else None
            async with await self.async_client.create(prompt=prompt, **_with_limit(request, tokens)) as stream:
                async for reply in stream:
                    chunk = _chunk(reply)
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk, **_logprobs(chunk))
                    yield chunk

    # Tokens

    def get_token_ids(self, text: str) -> list[int]:
        """Return the model's token ids of a text, with those that it adds to a prompt; cached."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        with langchain_errors():
            return self._tokenizer(add_special_tokens=True).encode(text)


def _fills_context(request: Mapping[str, Any]) -> bool:
    return request.get("max_tokens") == -1


def _with_limit(request: Mapping[str, Any], prompt: Tokens | None) -> Mapping[str, Any]:
    """Return ``request`` with the number of tokens that the context can hold after ``prompt``."""
    return request if prompt is None else {**request, "max_tokens": max(1, prompt.max_model_len - prompt.count)}


def _chunk(reply: Mapping[str, Any]) -> GenerationChunk:
    choice = reply["choices"][0] if reply["choices"] else {}
    info = pick_fields(choice, CHOICE_FIELDS | {"finish_reason", "logprobs"})
    usage = {"token_usage": reply["usage"]} if not choice and reply.get("usage") else {}
    return GenerationChunk(text=choice.get("text") or "", generation_info={**info, **usage})


def _logprobs(chunk: GenerationChunk) -> dict[str, Any]:
    return pick_fields(chunk.generation_info or {}, {"logprobs"})


def _collect(streams: list[list[GenerationChunk]]) -> LLMResult:
    """Return the result of ``streaming=True`` from the chunks of each prompt."""
    generations = [functools.reduce(operator.add, chunks) for chunks in streams]
    infos = [generation.generation_info or {} for generation in generations]
    usage = _sum_usage(info.pop("token_usage", {}) for info in infos)
    return LLMResult(generations=[[generation] for generation in generations], llm_output={"token_usage": usage})


def _result(replies: list[tuple[list[str], dict[str, Any]]], n: int) -> LLMResult:
    generations = [
        [_generation(choice) for choice in reply["choices"][index * n : (index + 1) * n]]
        for prompts, reply in replies
        for index in range(len(prompts))
    ]
    usage = _sum_usage(reply.get("usage") or {} for _, reply in replies)
    first = replies[0][1] if replies else {}
    output = {"model_name": first.get("model"), **pick_fields(first, RESPONSE_FIELDS)} if first else {}
    return LLMResult(generations=generations, llm_output={"token_usage": usage, **output})


def _generation(choice: Mapping[str, Any]) -> Generation:
    info = {"finish_reason": choice.get("finish_reason"), "logprobs": choice.get("logprobs")}
    return Generation(text=choice["text"], generation_info={**info, **pick_fields(choice, CHOICE_FIELDS)})


def _sum_usage(usages: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for usage in usages:
        total.update({name: count for name, count in usage.items() if isinstance(count, int)})
    return dict(total)
