"""vLLM's own endpoints: each call is a request and the parser of its response, for a sync and an async method."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from operator import index
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeAlias, TypeVar

from openai._constants import RAW_RESPONSE_HEADER
from openai._legacy_response import LegacyAPIResponse
from openai._models import FinalRequestOptions

from vllm_adapters._client.base import BaseVLLMClient
from vllm_adapters._client.checks import response_errors
from vllm_adapters._response.validate import sort_by_index, validate_types
from vllm_adapters.errors import InvalidResponse, VLLMError
from vllm_adapters.types import Classified, Decision, ModelCard, Ranked, Tokens

if TYPE_CHECKING:
    import numpy as np

    from vllm_adapters.client import AsyncVLLMClient, VLLMClient

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

Parser: TypeAlias = Callable[[Any], R]
"""Parses the JSON (or text) of a response; a part that is missing or of the wrong type may raise as it will."""


class HasClients(Protocol):
    """An object with the clients of one server."""

    @property
    def client(self) -> VLLMClient:
        """For sync methods."""

    @property
    def async_client(self) -> AsyncVLLMClient:
        """For async methods."""


S = TypeVar("S", bound=HasClients)


@dataclass(frozen=True)
class EndpointCall(Generic[R]):
    """One request and the parser of its response.

    Args:
        path: Relative to ``/v1``, or a whole URL. Empty: nothing is sent, and the parser gets ``{}``.
        parse: The parser.
        body: The JSON body of a POST; ``None`` for a GET.
        cast_to: ``str`` for a response of plain text.
        options: Further request options, such as ``timeout``.
        fallback: Returns the call to send in place of one that failed, for what gateways do not pass on; ``None`` if
            the error stands.
    """

    path: str
    parse: Parser[R]
    body: Mapping[str, Any] | None = None
    cast_to: Any = dict[str, object]
    options: Mapping[str, Any] = field(default_factory=dict)
    fallback: Callable[[VLLMError], EndpointCall[R] | None] | None = None

    @classmethod
    def of_nothing(cls, result: Callable[[], R]) -> EndpointCall[R]:
        """Return a call about no texts, whose result is known without a request."""
        return cls("", lambda response: result())

    def map(self, convert: Callable[[R], T]) -> EndpointCall[T]:
        """Return the same call with its result converted."""
        parse, fallback = self.parse, self._mapped_fallback(lambda other: other.map(convert))
        new = {"parse": lambda response: convert(parse(response)), "fallback": fallback}
        return replace(self, **new)  # type: ignore[arg-type, return-value]

    def with_usage(self) -> EndpointCall[tuple[R, dict[str, Any]]]:
        """Return the same call with the response's ``usage`` beside its result."""
        parse, fallback = self.parse, self._mapped_fallback(lambda other: other.with_usage())
        new = {"parse": lambda response: (parse(response), parse_usage(response)), "fallback": fallback}
        return replace(self, **new)  # type: ignore[arg-type, return-value]

    def _mapped_fallback(
        self, convert: Callable[[EndpointCall[R]], EndpointCall[T]]
    ) -> Callable[[VLLMError], EndpointCall[T] | None] | None:
        fallback = self.fallback
        if fallback is None:
            return None

        def find(error: VLLMError) -> EndpointCall[T] | None:
            other = fallback(error)
            return convert(other) if other is not None else None

        return find

    def send(self, client: VLLMClient) -> R:
        """Send the request and parse its response."""
        if not self.path:
            return self.parse({})
        try:
            raw = client.request(self.cast_to, self._request_options(), _traced=False)
        except VLLMError as error:
            if (other := self._instead(error)) is None:
                raise
            return other.send(client)
        return self._parsed(client, raw)

    async def asend(self, client: AsyncVLLMClient) -> R:
        """Async version of ``send``."""
        if not self.path:
            return self.parse({})
        try:
            raw = await client.request(self.cast_to, self._request_options(), _traced=False)
        except VLLMError as error:
            if (other := self._instead(error)) is None:
                raise
            return await other.asend(client)
        return self._parsed(client, raw)

    def _instead(self, error: VLLMError) -> EndpointCall[R] | None:
        return self.fallback(error) if self.fallback is not None else None

    def _request_options(self) -> FinalRequestOptions:
        """Return the request; the SDK returns the raw response beside what it parses."""
        method = "get" if self.body is None else "post"
        headers = {RAW_RESPONSE_HEADER: "true"}
        return FinalRequestOptions.construct(
            method=method, url=self.path, json_data=self.body, headers=headers, **self.options
        )

    def _parsed(self, client: BaseVLLMClient, raw: LegacyAPIResponse[Any]) -> R:
        with response_errors(client.vllm, raw.http_response):
            response = raw.parse()
            if self.cast_to is not str and not isinstance(response, Mapping):
                raise InvalidResponse("The response is not a JSON object")
            try:
                return self.parse(response)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                raise InvalidResponse(f"A part of the response is missing or malformed ({error!r})") from None


def sync_method(plan: Callable[Concatenate[S, P], EndpointCall[R]]) -> Callable[Concatenate[S, P], R]:
    """Return the sync method that sends the call of ``plan``."""

    @wraps(plan)
    def send(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return plan(self, *args, **kwargs).send(self.client)

    return _named(send, plan.__name__.lstrip("_"))


def async_method(
    plan: Callable[Concatenate[S, P], EndpointCall[R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Return the async method that sends the call of ``plan``."""

    @wraps(plan)
    async def send(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await plan(self, *args, **kwargs).asend(self.async_client)

    return _named(send, "a" + plan.__name__.lstrip("_"))


def _named(method: F, name: str) -> F:
    """Name a method for tracebacks and help."""
    method.__name__, method.__qualname__ = name, f"VLLMServer.{name}"
    return method


def parse_models(response: Mapping[str, Any]) -> list[ModelCard]:
    """Parse ``/v1/models``."""
    return [
        ModelCard(str(card["id"]), _length(card), _text(card, "root"), _text(card, "parent"))
        for card in response["data"]
    ]


def _length(card: Mapping[str, Any]) -> int | None:
    """Return the context length of a card; a gateway's may have none, or have it under another name."""
    lengths = (card.get(name) for name in ("max_model_len", "max_input_tokens", "context_length", "context_window"))
    return next((length for length in lengths if isinstance(length, int) and length > 0), None)


def _text(card: Mapping[str, Any], name: str) -> str | None:
    text = card.get(name)
    return text if isinstance(text, str) else None


def parse_usage(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return a response's ``usage``, empty if it has none."""
    validate_types({"usage": response.get("usage")})
    return dict(response.get("usage") or {})


def parse_text(response: str) -> str:
    """Return a response of plain text."""
    return response


def parse_tokens(response: Mapping[str, Any]) -> Tokens:
    """Parse ``/tokenize``."""
    return Tokens(_list_of(response["tokens"], int), int(response["max_model_len"]), response.get("token_strs"))


def _list_of(values: Any, kind: type[T]) -> list[T]:
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise ValueError(f"not a list of {kind.__name__}: {values!r:.80}")
    return values


def vectors_parser(count: int, dimensions: int | None = None) -> Parser[np.ndarray[Any, Any]]:
    """Return a parser of ``count`` base64 vectors, to one float32 array of shape (count, dimensions)."""

    def parse(response: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        import numpy as np

        items = [item["embedding"] for item in sort_by_index(response["data"], count)]
        if not all(isinstance(item, str) for item in items):
            block = np.asarray(items, dtype=np.float32)  # a gateway may not pass base64 on; ragged lists raise
        else:
            raw = [base64.b64decode(item, validate=True) for item in items]
            if len({len(vector) for vector in raw}) != 1:
                raise ValueError("vectors of different dimensions")
            block = np.frombuffer(b"".join(raw), dtype="<f4").reshape(count, -1)
        if block.ndim != 2 or block.shape[1] == 0 or not np.isfinite(block).all():
            raise InvalidResponse("A vector is empty or contains NaN or infinity")
        if dimensions and block.shape[1] != dimensions:
            raise InvalidResponse(f"The vectors have {block.shape[1]} dimensions, not the requested {dimensions}")
        return block

    return parse


def pooled_parser(count: int) -> Parser[list[np.ndarray[Any, Any]]]:
    """Return a parser of the pooler's output for ``count`` texts."""

    def parse(response: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]:
        import numpy as np

        items = sort_by_index(response["data"], count)
        arrays = [np.asarray(item["data"], dtype=np.float32) for item in items]
        if not all(array.size and np.isfinite(array).all() for array in arrays):
            raise InvalidResponse("An output is empty or contains NaN or infinity")
        return arrays

    return parse


def token_vectors_parser(count: int) -> Parser[list[np.ndarray[Any, Any]]]:
    """Return a parser of one vector per token for ``count`` texts, all of the same dimensions."""
    parse_arrays = pooled_parser(count)

    def parse(response: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]:
        arrays = parse_arrays(response)
        if any(array.ndim != 2 for array in arrays) or len({array.shape[1] for array in arrays}) > 1:
            raise InvalidResponse("The output of a text is not one vector per token, or of different dimensions")
        return arrays

    return parse


def classes_parser(count: int) -> Parser[list[Classified]]:
    """Return a parser of the label and probabilities of ``count`` texts."""

    def parse(response: Mapping[str, Any]) -> list[Classified]:
        return [_classified(item) for item in sort_by_index(response["data"], count)]

    return parse


def _classified(item: Mapping[str, Any]) -> Classified:
    label, probs = item.get("label"), [_finite(p) for p in item["probs"]]
    if not probs or not isinstance(label, str | None):
        raise ValueError(f"not a classification: {item!r:.80}")
    return Classified(label, probs)


def scores_parser(count: int) -> Parser[list[float]]:
    """Return a parser of ``count`` scores, in the order of the request."""

    def parse(response: Mapping[str, Any]) -> list[float]:
        return [_finite(item["score"]) for item in sort_by_index(response["data"], count)]

    return parse


def ranking_parser(documents: Sequence[str], top_n: int | None) -> Parser[list[Ranked]]:
    """Return a parser of a ranking of ``documents``, best first, which must name each document at most once."""
    expected = min(top_n or len(documents), len(documents))

    def parse(response: Mapping[str, Any]) -> list[Ranked]:
        results = list(response["results"])
        indices = [index(result["index"]) for result in results]
        if len(set(indices)) != expected or len(indices) != expected:
            raise InvalidResponse(
                f"The ranking has {len(set(indices))} different documents in {len(indices)} results, not {expected}"
            )
        if not all(0 <= index < len(documents) for index in indices):
            raise InvalidResponse(f"An index is out of range for {len(documents)} documents: {indices[:10]}")
        scores = [_finite(result["relevance_score"]) for result in results]
        ranked = [Ranked(i, score, documents[i]) for i, score in zip(indices, scores, strict=True)]
        return sorted(ranked, key=lambda document: -document.score)

    return parse


def decisions_parser(questions: Sequence[Mapping[str, Any]]) -> Parser[list[Decision]]:
    """Return a parser of one answer per question, in order."""

    def parse(response: Mapping[str, Any]) -> list[Decision]:
        answers = list(response["answers"])
        if len(answers) != len(questions):
            raise InvalidResponse(f"The response has {len(answers)} answers, not one for each of {len(questions)}")
        return [_decision(question, answer) for question, answer in zip(questions, answers, strict=True)]

    return parse


def _decision(question: Mapping[str, Any], answer: Mapping[str, Any]) -> Decision:
    kind, name = question.get("type"), question.get("name")
    if answer["type"] != kind or answer.get("name") != name:
        raise InvalidResponse(f"An answer is of another question than {name or kind!r}: {answer!r:.80}")
    if kind == "predicate":
        probability = _finite(answer["probability"])
        return Decision(name, probability, [1 - probability, probability])
    values = [choice["value"] for choice in question["choices"]] if kind == "choice" else range(len(question["levels"]))
    probs = {(type(each["value"]), each["value"]): _finite(each["probability"]) for each in answer["probabilities"]}
    best = answer["choice"] if kind == "choice" else _finite(answer["score"])
    if kind == "choice" and (type(best), best) not in probs:
        raise InvalidResponse(f"The answer {best!r} is not among the choices")
    return Decision(name, best, [probs[type(value), value] for value in values], _finite(answer["confidence"]))


def _finite(value: Any) -> float:
    number = float(value) if isinstance(value, int | float) else math.nan
    if not math.isfinite(number):
        raise InvalidResponse(f"A score is {value!r}")
    return number
