"""One plan, two methods: a request and how to read its reply, sent by the sync or the async client."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from operator import index
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeAlias, TypeVar

from openai._constants import RAW_RESPONSE_HEADER
from openai._legacy_response import LegacyAPIResponse
from openai._models import FinalRequestOptions

from vllm_adapters._client.base import BaseVLLMClient
from vllm_adapters._compat import http
from vllm_adapters._response.error_mapping import RequestContext, invalid_response
from vllm_adapters._response.validate import sort_by_index, validate_shape
from vllm_adapters.client import AsyncVLLMClient, VLLMClient
from vllm_adapters.types import Classified, ModelCard, Ranked, Tokens

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

if TYPE_CHECKING:
    import numpy as np
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
class EndpointCall(Generic[R]):
    """One request and how to read its reply: all that a sync and an async method share."""

    path: str
    read: Callable[[Any, RequestContext, http.Response], R]
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

    def with_usage(self) -> EndpointCall[tuple[R, dict[str, Any]]]:
        """The same, answering with the reply's ``usage`` beside what it says."""
        return EndpointCall(
            self.path,
            lambda reply, call, response: (self.read(reply, call, response), parse_usage(reply, call, response)),
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

    def answer(self, client: BaseVLLMClient, raw: LegacyAPIResponse[Any]) -> R:
        """What the reply says."""
        response = raw.http_response
        call = RequestContext(client.address, response.request.url.path)
        with client.reading(response):
            reply = raw.parse()
        if self.cast_to is not str and not isinstance(reply, Mapping):
            raise invalid_response("The reply is not a JSON object", call=call, response=response)
        try:
            return self.read(reply, call, response)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise invalid_response(f"The reply lacks something ({error!r})", call=call, response=response) from None


def sync_method(plan: Callable[Concatenate[S, P], EndpointCall[R]]) -> Callable[Concatenate[S, P], R]:
    """The sync method that sends what ``plan`` asks."""

    @wraps(plan)
    def send(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return plan(self, *args, **kwargs).send(self.client)

    return _named(send, plan.__name__.lstrip("_"))


def async_method(
    plan: Callable[Concatenate[S, P], EndpointCall[R]],
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


Parser: TypeAlias = Callable[[Any, RequestContext, Any], R]


def parse_models(reply: Mapping[str, Any], call: RequestContext, response: Any) -> list[ModelCard]:
    """The cards of ``/v1/models``."""
    return [ModelCard(str(c["id"]), _length(c), _text(c, "root"), _text(c, "parent")) for c in reply["data"]]


def _length(card: Mapping[str, Any]) -> int | None:
    """The context length that a card tells; of gateways' cards not all have a number there."""
    length = card.get("max_model_len")
    return length if isinstance(length, int) and length > 0 else None


def _text(card: Mapping[str, Any], field: str) -> str | None:
    text = card.get(field)
    return text if isinstance(text, str) else None


def parse_usage(reply: Mapping[str, Any], call: RequestContext, response: Any) -> dict[str, Any]:
    """The reply's ``usage``, empty if it has none."""
    validate_shape({"usage": reply.get("usage")}, call=call, response=response)
    return dict(reply.get("usage") or {})


def parse_text(reply: str, call: RequestContext, response: Any) -> str:
    """A reply of plain text."""
    return reply


def parse_tokens(reply: Mapping[str, Any], call: RequestContext, response: Any) -> Tokens:
    """The reply of ``/tokenize``."""
    return Tokens(_list_of(reply["tokens"], int), int(reply["max_model_len"]), reply.get("token_strs"))


def _list_of(values: Any, kind: type[T]) -> list[T]:
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise ValueError(f"no list of {kind.__name__}: {values!r:.80}")
    return values


def vectors_parser(count: int, dimensions: int | None = None) -> Parser[np.ndarray[Any, Any]]:
    """Reads ``count`` base64 vectors into one float32 array of shape (count, dimensions)."""

    def read(reply: Mapping[str, Any], call: RequestContext, response: Any) -> np.ndarray[Any, Any]:
        import numpy as np

        items = [item["embedding"] for item in sort_by_index(reply["data"], count, call=call, response=response)]
        if not all(isinstance(item, str) for item in items):
            block = np.asarray(items, dtype=np.float32)  # a gateway may not pass base64 on; ragged lists raise
        else:
            raw = [base64.b64decode(item, validate=True) for item in items]
            if len({len(vector) for vector in raw}) != 1:
                raise ValueError("vectors of different dimensions")
            block = np.frombuffer(b"".join(raw), dtype="<f4").reshape(count, -1)
        if block.ndim != 2 or block.shape[1] == 0 or not np.isfinite(block).all():
            raise invalid_response("A vector is empty or holds NaN or infinity", call=call, response=response)
        if dimensions and block.shape[1] != dimensions:
            reason = f"The vectors have {block.shape[1]} dimensions, not the {dimensions} that were asked for"
            raise invalid_response(reason, call=call, response=response)
        return block

    return read


def pooled_parser(count: int) -> Parser[list[np.ndarray[Any, Any]]]:
    """Reads the pooler's output for ``count`` texts."""

    def read(reply: Mapping[str, Any], call: RequestContext, response: Any) -> list[np.ndarray[Any, Any]]:
        import numpy as np

        items = sort_by_index(reply["data"], count, call=call, response=response)
        arrays = [np.asarray(item["data"], dtype=np.float32) for item in items]
        if not all(array.size and np.isfinite(array).all() for array in arrays):
            raise invalid_response("An output is empty or holds NaN or infinity", call=call, response=response)
        return arrays

    return read


def classes_parser(count: int) -> Parser[list[Classified]]:
    """Reads label and probabilities of ``count`` texts."""

    def read(reply: Mapping[str, Any], call: RequestContext, response: Any) -> list[Classified]:
        items = sort_by_index(reply["data"], count, call=call, response=response)
        return [_classified(item, call, response) for item in items]

    return read


def _classified(item: Mapping[str, Any], call: RequestContext, response: Any) -> Classified:
    label, probs = item.get("label"), [_finite(p, call, response) for p in item["probs"]]
    if not probs or not isinstance(label, str | None):
        raise ValueError(f"no class: {item!r:.80}")
    return Classified(label, probs)


def scores_parser(count: int) -> Parser[list[float]]:
    """Reads ``count`` scores, in the order of what was sent."""

    def read(reply: Mapping[str, Any], call: RequestContext, response: Any) -> list[float]:
        items = sort_by_index(reply["data"], count, call=call, response=response)
        return [_finite(item["score"], call, response) for item in items]

    return read


def ranking_parser(documents: Sequence[str], top_n: int | None) -> Parser[list[Ranked]]:
    """Reads a ranking of ``documents``, best first, which must name each document at most once."""
    expected = min(top_n or len(documents), len(documents))

    def read(reply: Mapping[str, Any], call: RequestContext, response: Any) -> list[Ranked]:
        results = list(reply["results"])
        indices = [index(result["index"]) for result in results]
        if len(set(indices)) != expected or len(indices) != expected:
            reason = f"{len(set(indices))} different documents ranked in {len(indices)} results, not {expected}"
            raise invalid_response(reason, call=call, response=response)
        if not all(0 <= index < len(documents) for index in indices):
            reason = f"An index is not of the {len(documents)} documents: {indices[:10]}"
            raise invalid_response(reason, call=call, response=response)
        scores = [_finite(result["relevance_score"], call, response) for result in results]
        ranked = [Ranked(i, score, documents[i]) for i, score in zip(indices, scores, strict=True)]
        return sorted(ranked, key=lambda document: -document.score)

    return read


def _finite(value: Any, call: RequestContext, response: Any) -> float:
    number = float(value) if isinstance(value, int | float) else math.nan
    if not math.isfinite(number):
        raise invalid_response(f"A score is {value!r}", call=call, response=response)
    return number
