"""``VLLMServer``: the address of a server, its readiness, and vLLM's own endpoints."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self

import openai
from openai import NOT_GIVEN, NotGiven
from packaging.version import Version
from pydantic import SecretStr

from vllm_adapters._client import endpoint, readiness
from vllm_adapters._client.discovery import Plan, arun_plan, run_plan
from vllm_adapters._client.endpoint import EndpointCall, async_method, sync_method
from vllm_adapters._client.readiness import Probe
from vllm_adapters._compat import http
from vllm_adapters._optional import require
from vllm_adapters._request.compat import validate_params
from vllm_adapters._request.media import Image, image_message
from vllm_adapters._request.texts import json_object, list_of, text_or_ids, texts_of, token_id
from vllm_adapters._transport.credentials import (
    PLACEHOLDER_KEY,
    APIKey,
    normalize_base_url,
    normalize_query,
    redact_values,
)
from vllm_adapters.client import AsyncVLLMClient, VLLMClient
from vllm_adapters.errors import (
    InvalidRequest,
    ModelNotServed,
    PermissionDenied,
    VLLMError,
    WrongAddress,
)
from vllm_adapters.timeouts import Timeouts
from vllm_adapters.types import Capabilities, Classified, Decision, ModelCard, Ranked, Tokens

if TYPE_CHECKING:
    import numpy as np
    from prometheus_client import Metric

__all__ = ["VLLMServer"]

Messages = Sequence[Mapping[str, Any]]

_TOKENIZE_ONLY = ("add_special_tokens", "return_token_strs")
_ROUTER_BREAKS_RERANK = re.compile(r"Failed to build rerank response|The model `default` does not exist")
_UNSET: dict[str, tuple[Any, ...]] = {
    "api_key": (None, PLACEHOLDER_KEY),
    "timeout": (None, Timeouts()),
    "max_retries": (None, openai.DEFAULT_MAX_RETRIES),
    "max_connections": (None,),
    "default_headers": (None, {}),
    "default_query": (None, {}),
    "server_version": (None,),
    "http_client": (None,),
    "async_http_client": (None,),
    "http_options": (None, {}),
}
"""Settings that belong to a server, each with the values that do not set it."""


class _Clients:
    """The clients of one server, shared by the ``VLLMServer`` objects of its models."""

    def __init__(
        self, base_url: str | None, api_key: APIKey | None, async_http_client: Any, options: Mapping[str, Any]
    ) -> None:
        http_client, http_options = options["http_client"], options["http_options"]
        if http_client is not None and async_http_client is not None and http_options:
            raise ValueError("`http_options` has no effect beside `http_client` and `async_http_client`. Remove it.")
        own_options = {**options, "http_options": None} if http_client is not None else options
        self.address_given = base_url is not None
        self.client = VLLMClient(base_url, api_key=api_key, **own_options)
        self.options = {
            **options,
            "default_headers": self.client._custom_headers,
            "default_query": self.client._custom_query,
            "http_options": redact_values(http_options),
        }
        self._async_http_client = async_http_client

    @cached_property
    def async_client(self) -> AsyncVLLMClient:
        """The async client; what one client knows of the server, the other knows too."""
        options = {
            **self.options,
            "http_client": self._async_http_client,
            "http_options": self.options["http_options"] if self._async_http_client is None else None,
            "server_version": None,
            "server_info": self.client.vllm.info,
        }
        key = self.client.vllm.api_key_provider or self.client.api_key
        return AsyncVLLMClient(self.client.vllm.address, api_key=key, **options)


class VLLMServer:
    """One vLLM server: what it serves, and the endpoints that OpenAI's API does not have.

    >>> from vllm_adapters import VLLMServer
    >>> server = VLLMServer("http://localhost:8000")  # vllm serve MODEL
    >>> server.version
    '0.32.0'
    >>> server.count_tokens("What is the capital of France?") > 0
    True

    Every method that sends a request has an async version with ``a`` before its name. Parameters beyond those listed
    are vLLM's own, under their own names (``truncate_prompt_tokens``, ``use_activation``, ``priority``, ...).

    Args:
        base_url: As for ``VLLMClient``; default ``VLLM_BASE_URL``, else ``http://localhost:8000/v1``.
        api_key: As for ``VLLMClient``; default ``VLLM_API_KEY``.
        model: Served model name for every request; default: the one base model that is served.
        timeout: As for ``VLLMClient``, like all arguments that are not listed here.
        async_http_client: As ``http_client`` of ``VLLMClient``, for the async client.

    Raises:
        VLLMError: Every method raises the errors of ``vllm_adapters.errors``; the constructor sends nothing.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: APIKey | None = None,
        model: str | None = None,
        timeout: float | Timeouts | http.Timeout | NotGiven | None = NOT_GIVEN,
        max_retries: int = openai.DEFAULT_MAX_RETRIES,
        max_connections: int = 1000,
        server_version: str | Version | None = None,
        allow_unknown: bool = False,
        default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        http_client: Any = None,
        async_http_client: Any = None,
        http_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        options: dict[str, Any] = {
            "timeout": timeout,
            "max_retries": max_retries,
            "max_connections": max_connections,
            "server_version": server_version,
            "allow_unknown": allow_unknown,
            "default_headers": default_headers,
            "default_query": default_query,
            "http_client": http_client,
            "http_options": http_options,
        }
        self._clients = _Clients(base_url, api_key, async_http_client, options)
        self.client = self._clients.client

    if not TYPE_CHECKING:  # type checkers know that other attributes cannot be assigned

        def __setattr__(self, name: str, value: object) -> None:
            if name in (*_UNSET, "base_url", "allow_unknown"):
                raise AttributeError(
                    f"`{name}` of a VLLMServer cannot be changed. Make another VLLMServer, which has its own clients."
                )
            if name == "model" and not isinstance(value, str | None):
                raise TypeError(f"`model` must be a str, not {type(value).__name__}.")
            super().__setattr__(name, value)

    @classmethod
    def connect(
        cls, server: VLLMServer | None, base_url: str | None = None, *, model: str | None = None, **settings: Any
    ) -> VLLMServer:
        """Return the server of an object that takes either ``server`` or settings of its own.

        Args:
            server: A server to use.
            base_url: The address, if ``server`` is not given.
            model: Served model name; it takes precedence over the server's.
            settings: Further arguments of the constructor, if ``server`` is not given.

        Raises:
            ValueError: ``server`` is given with another address, or with settings that differ from its own.
        """
        if base_url and normalize_query(base_url, None):
            raise ValueError(
                "The base URL contains a query, which copies of this object would lose. Set default_query."
            )
        if server is None:
            return cls(base_url, model=model or None, **settings)
        if base_url and normalize_base_url(base_url) != server.base_url:
            raise ValueError(
                f"`server` ({server.base_url}) and the base URL ({base_url}) are different addresses. Pass one of them."
            )
        own = server._own_settings()
        for name, unset in _UNSET.items():
            value = settings.get(name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            elif name == "timeout" and value is not None:
                value = Timeouts.of(value)
            if value not in (*unset, own.get(name)):
                raise ValueError(f"`{name}` cannot be set beside `server`, which has its own. Remove one of them.")
        return server.serving(model) if model else server

    def _own_settings(self) -> dict[str, Any]:
        client = self.client
        return {
            **self._clients.options,
            "api_key": client.vllm.api_key_provider or client.api_key,
            "timeout": client.vllm.timeouts,
            "max_retries": client.max_retries,
        }

    @property
    def async_client(self) -> AsyncVLLMClient:
        """The async client."""
        return self._clients.async_client

    @property
    def base_url(self) -> str:
        """The server's base URL, ending in ``/v1``."""
        return self.client.vllm.address

    @property
    def model_name(self) -> str:
        """The served model's name, as far as it is known without a request; else empty."""
        return self.model or self.client.vllm.info.model or ""

    def __repr__(self) -> str:
        address = self.base_url if "_clients" in vars(self) else "..."  # a traceback shows half-made objects too
        return f"{type(self).__name__}({address!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # As for the client: a pickle contains no key, no headers, no connection.
        kept = ("timeout", "max_retries", "max_connections", "server_version", "allow_unknown")
        options = {name: self._clients.options[name] for name in kept}
        options["timeout"] = self.client.vllm.timeouts
        return partial(type(self), model=self.model, **options), (self.base_url,)

    def __copy__(self) -> Self:
        return self  # not by way of __reduce__, which drops the key

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def serving(self, model: str | None) -> Self:
        """Return the same server for another of its models or LoRA adapters; both share their connections."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, model=model)
        return other

    def at_root(self, path: str) -> str:
        """Return the URL of a path beside ``/v1``, where vLLM has its own endpoints."""
        return f"{self.client.vllm.root}{path}"

    # Readiness

    def is_ready(self, *, probe: Probe | None = None) -> bool:
        """Return whether the server responds now; ``False`` while it loads and when nothing listens.

        Args:
            probe: As for ``wait_until_ready``.
        """
        return self._readiness_error(probe) is None

    def _readiness(self, probe: Probe | None) -> Plan[EndpointCall[Any], Any, VLLMError | None]:
        return readiness.examine(self.at_root("/health"), partial(self._body, parameters={}), probe)

    def _readiness_error(self, probe: Probe | None) -> VLLMError | None:
        return run_plan(self._readiness(probe), lambda call: call.send(self.client))

    async def ais_ready(self, *, probe: Probe | None = None) -> bool:
        """Async version of ``is_ready``."""
        return await self._areadiness_error(probe) is None

    async def _areadiness_error(self, probe: Probe | None) -> VLLMError | None:
        return await arun_plan(self._readiness(probe), lambda call: call.asend(self.async_client))

    def wait_until_ready(self, timeout: float = 600.0, *, every: float = 1.0, probe: Probe | None = None) -> Self:
        """Wait for the server to respond.

        Args:
            timeout: How long to wait, in seconds. Loading a large model takes minutes.
            every: Seconds between two attempts.
            probe: Request one token or vector, too: ``"chat"``, ``"completions"`` or ``"embeddings"``. Default: only
                if ``/health`` is that of a gateway, which may respond although all servers behind it are down.

        Raises:
            ServerTimeout: It is still not ready.
        """
        for _ in readiness.attempts(timeout, every):
            if (error := self._readiness_error(probe)) is None:
                return self
            time.sleep(every)
        raise readiness.not_ready(timeout, error, address=self.base_url)

    async def await_until_ready(
        self, timeout: float = 600.0, *, every: float = 1.0, probe: Probe | None = None
    ) -> Self:
        """Async version of ``wait_until_ready``."""
        for _ in readiness.attempts(timeout, every):
            if (error := await self._areadiness_error(probe)) is None:
                return self
            await asyncio.sleep(every)
        raise readiness.not_ready(timeout, error, address=self.base_url)

    def close(self) -> None:
        """Close the connections of the sync client."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def aclose(self) -> None:
        """Close the connections of the async client that were opened in this event loop."""
        await self.async_client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # What it serves

    def _body(self, endpoint: str, fields: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        model = {"model": self.model} if self.model else {}
        return {**model, **fields, **validate_params(endpoint, parameters)}

    def _models(self, /) -> EndpointCall[list[ModelCard]]:
        """Return the served models: base models, their aliases and LoRA adapters."""
        return EndpointCall("/models", endpoint.parse_models)

    models, amodels = sync_method(_models), async_method(_models)

    def _read_version(self, /) -> EndpointCall[str]:
        """Return the server's vLLM version, such as ``"0.32.0"``."""
        return EndpointCall(self.at_root("/version"), lambda response: str(response["version"]))

    aversion = async_method(_read_version)

    @cached_property
    def version(self) -> str:
        """The server's vLLM version, such as ``"0.32.0"``; looked up once."""
        return self._read_version().send(self.client)

    def _look_up_capabilities(self) -> Plan[EndpointCall[Any], Any, Capabilities]:
        models = yield self._models()
        found: dict[str, Any] = {}
        for name, call in (
            ("version", self._read_version()),
            ("routes", EndpointCall(self.at_root("/openapi.json"), lambda response: dict(response.get("paths") or {}))),
        ):
            if name == "version" and (known := vars(self).get("version")):
                found[name] = known
                continue
            try:
                found[name] = yield call
            except (WrongAddress, PermissionDenied):  # a gateway does not pass it on
                found[name] = None
        return Capabilities.from_responses(found["version"], models, found["routes"])

    def capabilities(self) -> Capabilities:
        """Return what the server can do: version, models, context length, tasks and routes.

        Tasks are derived from the routes of the server. Servers before 0.16.0 have every route, whatever their model
        can do. What a gateway hides is named in ``hidden``.
        """
        found = run_plan(self._look_up_capabilities(), lambda call: call.send(self.client))
        if found.version is not None:
            vars(self)["version"] = found.version
        return found

    async def acapabilities(self) -> Capabilities:
        """Async version of ``capabilities``."""
        return await arun_plan(self._look_up_capabilities(), lambda call: call.asend(self.async_client))

    def context_length(self) -> int | None:
        """Return the context length of the model in tokens; a LoRA adapter has its base model's.

        Returns:
            ``None`` if the server does not tell.

        Raises:
            ModelNotServed: The server does not serve the model.
        """
        return self._context_length(self.models())

    async def acontext_length(self) -> int | None:
        """Async version of ``context_length``."""
        return self._context_length(await self.amodels())

    def _context_length(self, cards: Sequence[ModelCard]) -> int | None:
        name = self.model
        found = next((card for card in cards if (card.id == name if name else card.parent is None)), None)
        if found is None:
            served = tuple(card.id for card in cards)
            hint = f"It serves: {', '.join(served) or 'none'}"
            raise ModelNotServed(f"The model `{name}` is not served", hint=hint, address=self.base_url, served=served)
        base = [card for card in cards if found.parent is not None and found.parent in (card.id, card.root)]
        return next((card.max_model_len for card in (found, *base) if card.max_model_len), None)

    # Tokens

    def _tokenize(
        self,
        /,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **parameters: Any,
    ) -> EndpointCall[Tokens]:
        """Return the tokens of a prompt, or of messages as the model's chat template renders them.

        Args:
            prompt: Text; either this or ``messages``.
            messages: Chat messages as for chat completions.
            tools: Tools whose descriptions the template renders with ``messages``.
            parameters: Such as ``add_special_tokens``, ``return_token_strs``, ``chat_template_kwargs``.
        """
        if (prompt is None) == (messages is None):
            raise InvalidRequest("Either `prompt` or `messages` must be given", address=self.base_url, param="prompt")
        if messages is not None:
            fields: dict[str, Any] = {"messages": list_of(messages, "messages", "dict", json_object)}
        elif isinstance(prompt, str):
            fields = {"prompt": prompt}
        else:
            raise TypeError(f"`prompt` must be a str, not {type(prompt).__name__}.")
        if tools is not None and (offered := list_of(tools, "tools", "dict", json_object)):
            fields["tools"] = offered
        body = self._body("tokenize", fields, parameters)
        return EndpointCall(self.at_root("/tokenize"), endpoint.parse_tokens, body)

    tokenize, atokenize = sync_method(_tokenize), async_method(_tokenize)

    def _count_tokens(self, /, prompt: str | None = None, **given: Any) -> EndpointCall[int]:
        """Return the number of tokens of a prompt or messages; arguments are those of ``tokenize``.

        Behind a gateway that does not pass ``/tokenize`` on, the model counts them in a request of one token.
        """
        call = self._tokenize(prompt, **given).map(lambda tokens: tokens.count)
        return replace(call, fallback=lambda error: self._count_by_usage(error, call.body or {}))

    def _count_by_usage(self, error: VLLMError, body: Mapping[str, Any]) -> EndpointCall[int] | None:
        if type(error) is not WrongAddress or error.status_code not in (404, 405):  # not for a redirect
            return None
        limits = {"max_tokens": 1, "temperature": 0}
        if "messages" in body:
            fields = {name: value for name, value in body.items() if name not in _TOKENIZE_ONLY}
            return EndpointCall("/chat/completions", _prompt_tokens, {**fields, **limits})
        fields = {name: value for name, value in body.items() if name not in (*_TOKENIZE_ONLY, "prompt")}
        embedded: EndpointCall[int] = EndpointCall("/embeddings", _prompt_tokens, {**fields, "input": body["prompt"]})
        return EndpointCall(
            "/completions",
            _prompt_tokens,
            {**fields, "prompt": body["prompt"], **limits},
            fallback=lambda other: embedded if type(other) is WrongAddress else None,
        )

    count_tokens, acount_tokens = sync_method(_count_tokens), async_method(_count_tokens)

    def _detokenize(self, /, ids: Sequence[int]) -> EndpointCall[str]:
        """Return the text of token ids. vLLM returns nothing for ids outside of the vocabulary."""
        tokens = list_of(ids, "ids", "int", token_id)
        body = {**({"model": self.model} if self.model else {}), "tokens": tokens}
        return EndpointCall(self.at_root("/detokenize"), lambda response: str(response["prompt"]), body)

    detokenize, adetokenize = sync_method(_detokenize), async_method(_detokenize)

    # Vectors and scores

    def _embed(
        self,
        /,
        texts: str | Sequence[str] | Sequence[Sequence[int]],
        *,
        dimensions: int | None = None,
        **parameters: Any,
    ) -> EndpointCall[np.ndarray[Any, Any]]:
        """Embed texts (or lists of the model's token ids) in one request.

        Args:
            texts: One text or many.
            dimensions: Dimensions of a Matryoshka model's shortened vectors.
            parameters: Such as ``truncate_prompt_tokens`` (-1: to what the model can take).

        Returns:
            float32 array of shape (number of texts, dimensions), in the order of ``texts``. Without texts nothing is
            sent, and the shape is (0, ``dimensions`` or 0).

        Raises:
            InvalidResponse: Not one vector per text, different dimensions, NaN or infinity.
        """
        inputs = [texts] if isinstance(texts, str) else list_of(texts, "texts", "str", text_or_ids)
        body = self._vectors_body({"input": inputs}, dimensions, parameters)
        if not inputs:
            return EndpointCall.of_nothing(lambda: _no_vectors(dimensions))
        return EndpointCall("/embeddings", endpoint.vectors_parser(len(inputs), dimensions), body)

    embed, aembed = sync_method(_embed), async_method(_embed)

    def _vectors_body(
        self, fields: Mapping[str, Any], dimensions: int | None, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        for name in ("embed_dtype", "endianness", "encoding_format"):
            if parameters.get(name) is not None:
                raise InvalidRequest(
                    f"`{name}` cannot be set: embed() always requests base64 of float32",
                    hint="Use client.embeddings.create(), which takes it",
                    address=self.base_url,
                    param=name,
                )
        shortened = {} if dimensions is None else {"dimensions": dimensions}
        return self._body("embeddings", {**fields, "encoding_format": "base64", **shortened}, parameters)

    def _embed_messages(
        self, /, messages: Messages, *, dimensions: int | None = None, **parameters: Any
    ) -> EndpointCall[np.ndarray[Any, Any]]:
        """Embed one conversation, as the model's chat template renders it: texts, images, or both.

        Args:
            messages: Chat messages as for chat completions, with parts such as ``image_url``.
            dimensions: Dimensions of a Matryoshka model's shortened vector.
            parameters: Such as ``add_generation_prompt``, ``continue_final_message``, ``mm_processor_kwargs``.

        Returns:
            float32 array of shape (dimensions,).

        Raises:
            InvalidRequest: The model has no chat template, or does not take such parts.
        """
        conversation = list_of(messages, "messages", "dict", json_object)
        if not conversation:
            raise InvalidRequest("`messages` is empty", address=self.base_url, param="messages")
        body = self._vectors_body({"messages": conversation}, dimensions, parameters)
        call = EndpointCall("/embeddings", endpoint.vectors_parser(1, dimensions), body)
        return call.map(lambda block: block[0])

    embed_messages, aembed_messages = sync_method(_embed_messages), async_method(_embed_messages)

    def _embed_image(
        self, /, image: Image, *, text: str | None = None, dimensions: int | None = None, **parameters: Any
    ) -> EndpointCall[np.ndarray[Any, Any]]:
        """Embed one image with a multimodal embedding model.

        Args:
            image: Its URL, its path, its content as bytes, or an open file.
            text: A text to embed with it, such as an instruction that the model expects.
            dimensions: As for ``embed_messages``.
            parameters: As for ``embed_messages``.

        Returns:
            float32 array of shape (dimensions,).
        """
        return self._embed_messages([image_message(image, text)], dimensions=dimensions, **parameters)

    embed_image, aembed_image = sync_method(_embed_image), async_method(_embed_image)

    def _embed_tokens(
        self, /, texts: str | Sequence[str], **parameters: Any
    ) -> EndpointCall[list[np.ndarray[Any, Any]]]:
        """Return one vector for each token of each text, for late interaction (ColBERT) and its vector stores.

        Needs ``vllm serve MODEL --runner pooling --pooler-config '{"task": "token_embed"}'``. On such a server
        ``rerank`` and ``score`` compare texts by late interaction, too.

        Args:
            texts: One text or many.
            parameters: Such as ``truncate_prompt_tokens``.

        Returns:
            One float32 array per text, of shape (tokens, dimensions).
        """
        inputs = texts_of(texts, "texts")
        if not inputs:
            return EndpointCall.of_nothing(list)
        body = self._body("pooling", {"input": inputs}, {"task": "token_embed", **parameters})
        return EndpointCall(self.at_root("/pooling"), endpoint.token_vectors_parser(len(inputs)), body)

    embed_tokens, aembed_tokens = sync_method(_embed_tokens), async_method(_embed_tokens)

    def _pooling(
        self, /, texts: str | Sequence[str], *, task: str | None = None, **parameters: Any
    ) -> EndpointCall[list[np.ndarray[Any, Any]]]:
        """Return the pooler's output for each text: a vector, or for token tasks one vector per token.

        Args:
            texts: One text or many.
            task: Such as ``"embed"`` or ``"token_embed"``, depending on the model.
            parameters: vLLM's own.

        Returns:
            One float array per text, of shape (dimensions,) or (tokens, dimensions).
        """
        inputs = texts_of(texts, "texts")
        if not inputs:
            return EndpointCall.of_nothing(list)
        body = self._body("pooling", {"input": inputs}, {"task": task, **parameters})
        return EndpointCall(self.at_root("/pooling"), endpoint.pooled_parser(len(inputs)), body)

    pooling, apooling = sync_method(_pooling), async_method(_pooling)

    def _classify(self, /, texts: str | Sequence[str], **parameters: Any) -> EndpointCall[list[Classified]]:
        """Return label and probabilities of each text, from a classification model."""
        inputs = texts_of(texts, "texts")
        if not inputs:
            return EndpointCall.of_nothing(list)
        body = self._body("classify", {"input": inputs}, parameters)
        return EndpointCall(self.at_root("/classify"), endpoint.classes_parser(len(inputs)), body)

    classify, aclassify = sync_method(_classify), async_method(_classify)

    def _score(
        self, /, text_1: str | Sequence[str], text_2: str | Sequence[str], **parameters: Any
    ) -> EndpointCall[list[float]]:
        """Score pairs of texts, with a cross-encoder, or by cosine similarity with an embedding model.

        Args:
            text_1: One text, compared with each of ``text_2``; or as many texts as ``text_2`` has.
            text_2: One text or many.
            parameters: vLLM's own.

        Returns:
            One score per pair, in order.
        """
        left, right = len(texts_of(text_1, "text_1")), len(texts_of(text_2, "text_2"))
        if not left or not right:
            return EndpointCall.of_nothing(list)
        if left not in (1, right) and right != 1:
            problem = f"`text_1` has {left} texts and `text_2` has {right}, which are no pairs"
            hint = "Pass one text for each of the other, or one for all"
            raise InvalidRequest(problem, hint=hint, address=self.base_url, param="text_1")
        fields = {
            # Of the four forms of this request, this is the one that every version supports.
            "text_1": text_1 if isinstance(text_1, str) else list(text_1),
            "text_2": text_2 if isinstance(text_2, str) else list(text_2),
        }
        body = self._body("score", fields, parameters)
        return EndpointCall("/score", endpoint.scores_parser(max(left, right)), body)

    score, ascore = sync_method(_score), async_method(_score)

    def _rerank(
        self, /, query: str, documents: Sequence[str], *, top_n: int | None = None, **parameters: Any
    ) -> EndpointCall[list[Ranked]]:
        """Rank documents by their relevance to a query, best first.

        Args:
            query: The query.
            documents: The texts; without any, nothing is sent.
            top_n: How many to return; default all.
            parameters: vLLM's own, such as ``truncate_prompt_tokens`` or ``instruction``.

        Raises:
            InvalidResponse: Too few results, an index twice or out of range, NaN or infinity.
        """
        if isinstance(documents, str):
            raise TypeError("`documents` must be a sequence of str, not str. Pass [text].")
        if not isinstance(query, str):
            raise TypeError(f"`query` must be a str, not {type(query).__name__}.")
        texts = texts_of(documents, "documents")
        if not texts:
            return EndpointCall.of_nothing(list)
        fields: dict[str, Any] = {"query": query, "documents": texts}
        if top_n is not None:
            if isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 0:
                problem = f"`top_n` must be a positive integer, or 0 for all, not {top_n!r}"
                raise InvalidRequest(problem, address=self.base_url, param="top_n")
            fields["top_n"] = top_n
        body = self._body("rerank", fields, parameters)
        parse, other = endpoint.ranking_parser(texts, top_n), self.at_root("/v2/rerank")
        path = other if self.client.vllm.info.needs_rerank_v2 else "/rerank"
        return EndpointCall(path, parse, body, fallback=lambda error: self._rerank_v2(error, parse, body))

    def _rerank_v2(
        self, error: VLLMError, parse: Callable[[Any], list[Ranked]], body: Mapping[str, Any]
    ) -> EndpointCall[list[Ranked]] | None:
        """Return the call that vllm-router passes on as it is: it rewrites those to the other two routes."""
        info = self.client.vllm.info
        if info.needs_rerank_v2 or not _ROUTER_BREAKS_RERANK.search(error.reason):
            return None

        def parse_and_note(response: Any) -> list[Ranked]:
            info.needs_rerank_v2 = True
            return parse(response)

        return EndpointCall(self.at_root("/v2/rerank"), parse_and_note, body)

    rerank, arerank = sync_method(_rerank), async_method(_rerank)

    def _decide(
        self, /, text: str | Messages, questions: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> EndpointCall[list[Decision]]:
        """Ask the model typed questions about a text, each answered with probabilities and without generating text.

        Needs vLLM 0.33.0 or newer, and a model that it supports here, such as Qwen3 or Gemma 4.

        Args:
            text: The text, or messages of the user.
            questions: Dicts with ``instructions``, optionally a ``name``, and ``type``: ``"predicate"`` (is it true?),
                ``"choice"`` with ``choices`` (``[{"value": "spam"}, ...]``), or ``"score"`` with ``levels``
                (``[{"label": "low"}, ...]``).
            parameters: vLLM's own, such as ``cache_salt``.

        Returns:
            One answer per question, in order. Without questions, nothing is sent.

        Raises:
            WrongAddress: The model does not support it.
        """
        asked = list_of(questions, "questions", "dict", json_object)
        if not asked:
            return EndpointCall.of_nothing(list)
        content = text if isinstance(text, str) else list_of(text, "text", "dict", json_object)
        body = self._body("decisions", {"input": content, "questions": asked}, parameters)
        return EndpointCall("/decisions", endpoint.decisions_parser(asked), body)

    decide, adecide = sync_method(_decide), async_method(_decide)

    # LoRA adapters and metrics

    def _load_lora(self, /, name: str, path: str, *, load_inplace: bool | None = None) -> EndpointCall[str]:
        """Load a LoRA adapter from a path on the server, which then serves it as the model ``name``.

        Needs ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve ... --enable-lora``.

        Args:
            name: The model name to serve it as.
            path: Directory on the server's machine, or a hub name.
            load_inplace: Replace an adapter of that name (0.15.0 and newer).
        """
        body = {"lora_name": name, "lora_path": path}
        extra = {} if load_inplace is None else {"load_inplace": load_inplace}
        return EndpointCall("/load_lora_adapter", endpoint.parse_text, {**body, **extra}, str)

    load_lora, aload_lora = sync_method(_load_lora), async_method(_load_lora)

    def _unload_lora(self, /, name: str) -> EndpointCall[str]:
        """Stop serving a LoRA adapter. Needs the same flags as ``load_lora``."""
        return EndpointCall("/unload_lora_adapter", endpoint.parse_text, {"lora_name": name}, str)

    unload_lora, aunload_lora = sync_method(_unload_lora), async_method(_unload_lora)

    def _metrics(self, /) -> EndpointCall[list[Metric]]:
        """Return the server's Prometheus metrics, parsed. Needs ``pip install 'vllm-adapters[metrics]'``."""
        parser = require("prometheus_client.parser", "metrics")
        return EndpointCall(
            self.at_root("/metrics"),
            lambda response: list(parser.text_string_to_metric_families(response)),
            cast_to=str,
        )

    metrics, ametrics = sync_method(_metrics), async_method(_metrics)


def _no_vectors(dimensions: int | None) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.empty((0, dimensions or 0), dtype=np.float32)


def _prompt_tokens(response: Mapping[str, Any]) -> int:
    return int(response["usage"]["prompt_tokens"])
