"""One plan, two methods: a request and how to read its reply, sent by the sync or the async client."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from openai._constants import RAW_RESPONSE_HEADER
from openai._legacy_response import LegacyAPIResponse
from openai._models import FinalRequestOptions

from vllm_adapters._compat import http
from vllm_adapters.client import AsyncVLLMClient, VLLMClient
from vllm_adapters.failures import Call, not_an_answer
from vllm_adapters.replies import usage_of
from vllm_adapters.speaker import Speaker

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class HasClients(Protocol):
    """Something that talks to one server."""

    @property
    def client(self) -> VLLMClient:
        """For sync methods."""

    @property
    def async_client(self) -> AsyncVLLMClient:
        """For coroutines."""


S = TypeVar("S", bound=HasClients)


@dataclass(frozen=True)
class Ask(Generic[R]):
    """One request and how to read its reply: all that a sync and an async method share."""

    path: str
    read: Callable[[Any, Call, http.Response], R]
    body: Mapping[str, Any] | None = None
    cast_to: Any = dict[str, object]
    how: Mapping[str, Any] = field(default_factory=dict)

    def options(self) -> FinalRequestOptions:
        """The request, asking the SDK for the raw response beside what it parses."""
        method = "get" if self.body is None else "post"
        headers = {RAW_RESPONSE_HEADER: "true"}
        return FinalRequestOptions.construct(
            method=method, url=self.path, json_data=self.body, headers=headers, **self.how
        )

    def with_usage(self) -> Ask[tuple[R, dict[str, Any]]]:
        """The same, answering with the reply's ``usage`` beside what it says."""
        return Ask(
            self.path,
            lambda reply, call, response: (self.read(reply, call, response), usage_of(reply, call, response)),
            self.body,
            self.cast_to,
            self.how,
        )

    def send(self, client: VLLMClient) -> R:
        """Send it, and read the reply."""
        return self.answer(client, client.request(self.cast_to, self.options()))

    async def asend(self, client: AsyncVLLMClient) -> R:
        """``send``, to await."""
        return self.answer(client, await client.request(self.cast_to, self.options()))

    def answer(self, client: Speaker, raw: LegacyAPIResponse[Any]) -> R:
        """What the reply says."""
        response = raw.http_response
        call = Call(client.address, response.request.url.path)
        with client.reading(response):
            reply = raw.parse()
        if self.cast_to is not str and not isinstance(reply, Mapping):
            raise not_an_answer("The reply is not a JSON object", call=call, response=response)
        try:
            return self.read(reply, call, response)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise not_an_answer(f"The reply lacks something ({error!r})", call=call, response=response) from None


def in_sync(plan: Callable[Concatenate[S, P], Ask[R]]) -> Callable[Concatenate[S, P], R]:
    """The sync method that sends what ``plan`` asks."""

    @wraps(plan)
    def send(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return plan(self, *args, **kwargs).send(self.client)

    return _named(send, plan.__name__.lstrip("_"))


def in_async(
    plan: Callable[Concatenate[S, P], Ask[R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """The coroutine method that sends what ``plan`` asks."""

    @wraps(plan)
    async def send(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await plan(self, *args, **kwargs).asend(self.async_client)

    return _named(send, "a" + plan.__name__.lstrip("_"))


def _named(method: F, name: str) -> F:
    """``method``, called ``name`` in tracebacks and help."""
    method.__name__, method.__qualname__ = name, f"VLLMServer.{name}"
    return method
