"""What ``VLLMClient`` and ``AsyncVLLMClient`` share: everything but the ``await``.

Work that needs answers of the server on its way is written once, as a generator that yields the URLs to GET
and is sent their JSON; each client runs such ``Steps`` in its own manner.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar, cast

import openai
from openai._constants import RAW_RESPONSE_HEADER
from openai._models import FinalRequestOptions
from openai._types import NotGiven
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from packaging.version import Version
from pydantic import BaseModel, ValidationError

from vllm_adapters._client.discovery import Discovery, ServerInfo
from vllm_adapters._compat import http
from vllm_adapters._request import availability, compat
from vllm_adapters._response import error_mapping
from vllm_adapters._response.error_mapping import RequestContext, sdk_parse_errors
from vllm_adapters._response.validate import decodes_as_float32, validate_response, validate_shape, validate_vectors
from vllm_adapters._transport.credentials import normalize_headers
from vllm_adapters._transport.http import DEADLINE, Deadline
from vllm_adapters._version import __version__
from vllm_adapters.errors import (
    AuthenticationFailed,
    InvalidRequest,
    InvalidResponse,
    ModelNotServed,
    PermissionDenied,
    VLLMError,
    WrongAddress,
)
from vllm_adapters.timeouts import Timeouts

log = logging.getLogger("vllm_adapters")

R = TypeVar("R")


_REPLIES = (ChatCompletionChunk, ChatCompletion, Completion)


class BaseVLLMClient:
    """What both clients share: everything but the ``await``."""

    base_url: Any
    facts: ServerInfo
    time_limits: Timeouts
    max_connections: int
    allow_unknown: bool

    @property
    def address(self) -> str:
        """The server's base URL, ending in ``/v1``."""
        return str(self.base_url).rstrip("/")

    @property
    def root(self) -> str:
        """The server's root, where ``/version``, ``/health`` and ``/tokenize`` live."""
        return self.address.removesuffix("/v1")

    @property
    def user_agent(self) -> str:
        """What requests call themselves."""
        return f"vllm-adapters/{__version__} openai/{openai.__version__}"

    def platform_headers(self) -> dict[str, str]:
        """None of the SDK's six headers about this machine: no vLLM reads them, and each costs CPU."""
        return {}

    def __repr__(self) -> str:
        address = self.address if "_base_url" in vars(self) else "..."  # a traceback shows half-made objects too
        return f"{type(self).__name__}({address!r})"

    def call_of(self, options: FinalRequestOptions | None) -> RequestContext:
        """What ``options`` asks for, for the texts of errors."""
        if options is None:
            return RequestContext(self.address)
        body = options.json_data if isinstance(options.json_data, Mapping) else {}
        return RequestContext(
            self.address, _path_of(options.url), cast("str | None", body.get("model")) or self.facts.model
        )

    def _begin(self, options: FinalRequestOptions) -> Deadline:
        if isinstance(options.headers, Mapping):
            options.headers = normalize_headers(options.headers)
        given, around, call = options.timeout, DEADLINE.get(), self.call_of(options)
        if around is not None and isinstance(given, NotGiven):  # asked on the way of another call, in its time
            options.timeout = around.limits.transport()
            return replace(around, call=call)
        limits = self.time_limits if isinstance(given, NotGiven) else Timeouts.of(given)
        options.timeout = limits.transport()
        return Deadline.start(limits, call, around)

    def _prepare(self, options: FinalRequestOptions) -> Discovery[FinalRequestOptions]:
        """Merge the caller's ``extra_body``, fill in the model, and say the body in the server's dialect."""
        endpoint = availability.endpoint_of(options.url)
        body = options.json_data
        if endpoint is None or not isinstance(body, Mapping | None) or options.method.lower() != "post":
            return options
        merged = {**(body or {}), **cast("Mapping[str, Any]", options.extra_json or {})}
        if not self.allow_unknown:
            compat.reject_unknown(endpoint, merged, self.call_of(options))  # before anything is asked
        if not merged.get("model") and "model" in availability.names(endpoint):
            merged["model"] = yield from self._served_model()
        version = (yield from self._server_version()) if compat.needs_version(endpoint, merged) else self.facts.version
        call = RequestContext(self.address, _path_of(options.url), merged.get("model"))
        if (merged.get("embed_dtype") or merged.get("endianness")) and decodes_as_float32(options.post_parser):
            merged["encoding_format"] = "float"
        options.json_data = compat.translate(
            endpoint, merged, version=version, call=call, allow_unknown=self.allow_unknown
        )
        options.extra_json = None
        return options

    def _served_model(self) -> Discovery[str]:
        """The name of the one base model that is served."""
        model = self.facts.model  # another thread may forget it meanwhile
        if model is None:
            cards = _cards((yield f"{self.address}/models"))
            base = [card for card in cards if not card.get("parent")]
            # Each alias of --served-model-name is a card of its own, with the same root.
            if len({card.get("root") or card.get("id") for card in base}) != 1:
                self.facts.answers.clear()  # a router may not know its servers yet
                served = tuple(str(card.get("id")) for card in cards)
                raise ModelNotServed(
                    "No model was named, and the server does not serve exactly one base model",
                    hint=f"Name one with model=: {', '.join(served) or 'it serves none'}",
                    address=self.address,
                    served=served,
                )
            model = self.facts.model = str(base[0]["id"])
        return model

    def _server_version(self) -> Discovery[Version | None]:
        """The server's version; ``None`` for a gateway that does not tell, which is then taken for the newest."""
        if not self.facts.version_known:
            try:
                answer = yield f"{self.root}/version"
                self.facts.version = compat.parse_version(str(answer.get("version")))
            except (
                WrongAddress,
                InvalidRequest,
                InvalidResponse,
                AuthenticationFailed,
                PermissionDenied,
            ) as silent:
                log.debug("The server tells no version: %s", silent)
                self.facts.version = self._version_in_fingerprint()
            self.facts.version_known = True
        return self.facts.version

    def _explain(self, error: VLLMError) -> Discovery[VLLMError]:
        """``error`` with what the server can add to it: the names it serves, the routes it has."""
        if isinstance(error, ModelNotServed):
            self.facts.model = None  # it may have been replaced: ask again next time
            self.facts.answers.clear()
            if not error.served and error.status_code == 404:
                served = tuple(str(card.get("id")) for card in _cards((yield f"{self.address}/models")))
                return self._again(error, f"It serves: {', '.join(served)}", served=served) if served else error
        if type(error) is WrongAddress and error.status_code == 404:
            version = (yield f"{self.root}/version").get("version")
            paths = (yield f"{self.root}/openapi.json").get("paths")
            offers = [path for path in _TASKS if isinstance(paths, Mapping) and path in paths]
            if version and offers:
                return self._again(
                    error,
                    f"This is vLLM {version}, and the model it serves has no such task or the route is switched "
                    f"off; it offers {', '.join(offers)}",
                )
        return error

    def _again(self, error: VLLMError, hint: str, **details: Any) -> VLLMError:
        text = error.message.removesuffix(error.hint or "").rstrip(". ")
        told = type(error)(text, hint=hint, response=error.response, body=error.body, **details)
        told.address, told.model, told.param = error.address, error.model, error.param
        return told

    def _learn(self, fingerprint: object) -> None:
        """Note a reply's ``system_fingerprint``: it bears the version, and another one means another server."""
        facts = self.facts
        if facts.stated or fingerprint == facts.fingerprint or not isinstance(fingerprint, str):
            return
        if facts.fingerprint is not None:
            facts.version_known = False
            facts.answers.clear()
        facts.fingerprint = fingerprint
        if facts.version is None:
            facts.version = self._version_in_fingerprint()

    def _version_in_fingerprint(self) -> Version | None:
        fingerprint = self.facts.fingerprint or ""
        return compat.parse_version(fingerprint) if fingerprint.startswith("vllm-") else None

    def _call_sent(self, response: http.Response) -> RequestContext:
        try:
            model = json.loads(response.request.content).get("model")
        except (ValueError, AttributeError, http.StreamError):
            model = None  # a GET, or a file that was streamed up
        return RequestContext(self.address, response.request.url.path, model)

    def _process_response_data(self, *, data: object, cast_to: Any, response: http.Response) -> Any:
        if cast_to in _REPLIES:
            with suppress(ValidationError):  # vLLM has finish reasons that OpenAI's types do not list
                # The SDK's lenient constructor walks every field's type in Python: ten times the cost of Pydantic's.
                return cast_to.model_validate(data)
            validate_shape(data, call=self._call_sent(response), response=response)
        parent: Any = super()
        return parent._process_response_data(data=data, cast_to=cast_to, response=response)

    def _status_error(self, body: object, response: http.Response) -> VLLMError:
        return error_mapping.from_status(response.status_code, body, call=self._call_sent(response), response=response)

    def _not_a_stream(self, response: http.Response) -> VLLMError:
        """The error for a 200 that should have been a stream of events; its body has been read."""
        call = self._call_sent(response)
        try:
            body = response.json()
        except (ValueError, RecursionError):
            body = None
        if isinstance(body, Mapping) and body.get("error"):
            return error_mapping.from_event(body, call=call, response=response)
        return error_mapping.invalid_response("The reply is not a stream of events", call=call, response=response)

    @contextmanager
    def reading(self, response: http.Response) -> Iterator[None]:
        """The SDK's bare parse errors as ``InvalidResponse``, a body that breaks off as ``ServerUnreachable``."""
        try:
            yield
        except http.RequestError as error:
            raise error_mapping.from_transport(
                error, call=self._call_sent(response), request=response.request
            ) from None
        except (ValueError, RecursionError) as error:
            raise error_mapping.invalid_response(
                f"The reply cannot be read ({error})", call=self._call_sent(response), response=response
            ) from None

    def _checking(self, options: FinalRequestOptions, response: http.Response) -> None:
        """Have a reply that was not streamed checked before the SDK's own helpers make something of it."""
        body, call, then = options.json_data, self.call_of(options), options.post_parser

        def check(answer: Any) -> Any:
            fields = answer if isinstance(answer, Mapping) else vars(answer) if isinstance(answer, BaseModel) else {}
            self._learn(fields.get("system_fingerprint"))
            validate_response(answer, body, call=call, response=response)
            if not callable(then):
                return answer
            if isinstance(answer, ChatCompletion):
                with sdk_parse_errors(lambda: answer, call):
                    return then(answer)
            made = then(answer)
            if isinstance(made, CreateEmbeddingResponse):
                asked = body.get("dimensions") if isinstance(body, Mapping) else None
                vectors = [item.embedding for item in made.data]  # out of base64
                validate_vectors(vectors, asked, call=call, response=response)
            return made

        options.post_parser = check

    def _name_failures_of_bytes(self, response: http.Response) -> None:
        """Name the failures of a stream that ``with_streaming_response`` hands out as bytes."""
        if response.request.headers.get(RAW_RESPONSE_HEADER) == "stream":
            from vllm_adapters._client.sdk_helpers import RawEventStream

            response.stream = RawEventStream(response.stream, lambda: self.reading(response))

    def _failed(self, failure: openai.OpenAIError | http.RequestError) -> VLLMError | None:
        """The SDK's error as ours; ``None`` for those that are no failure of the server."""
        if isinstance(failure, VLLMError):
            return failure
        deadline = DEADLINE.get()
        call = deadline.call if deadline else RequestContext(self.address)
        if isinstance(failure, openai.APIConnectionError | http.RequestError):  # bare: of an error's own body
            return error_mapping.from_transport(failure.__cause__ or failure, call=call, request=failure.request)
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self  # safe to share: nothing of it changes but what it learns of the server

    def __copy__(self) -> Any:
        return self  # not by way of __reduce__, which leaves the key behind

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle holds no key and no headers: the process that opens it reads VLLM_API_KEY itself.
        config = {
            "timeout": self.time_limits,
            "max_retries": self.max_retries,  # type: ignore[attr-defined]
            "max_connections": self.max_connections,
            "server_version": str(self.facts.version) if self.facts.stated else None,
            "allow_unknown": self.allow_unknown,
        }
        return _unpickle, (type(self), self.address, config)


@lru_cache(maxsize=256)
def _path_of(url: str) -> str:
    """The path of a request to ``url``, which the SDK gives whole or relative to the server's ``/v1``."""
    found = http.URL(url)
    return "/v1/" + found.path.lstrip("/") if found.is_relative_url else found.path


def as_answer(reply: object) -> dict[str, Any]:
    """What a GET returned, if it is a JSON object; a gateway may answer anything."""
    return reply if isinstance(reply, dict) else {}


def _cards(reply: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The model cards of ``/v1/models``; a gateway's may be of any shape."""
    cards = reply.get("data")
    return [card for card in cards if isinstance(card, Mapping) and card.get("id")] if isinstance(cards, list) else []


def is_event_stream(response: http.Response) -> bool:
    """Whether a reply is what a streamed request should get."""
    return "text/event-stream" in response.headers.get("content-type", "").lower()


_TASKS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/rerank",
    "/score",
    "/classify",
    "/pooling",
    "/v1/audio/transcriptions",
)


def _unpickle(cls: Callable[..., Any], address: str, config: dict[str, Any]) -> Any:
    return cls(address, **config)
