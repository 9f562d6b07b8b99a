"""Requests that the checks send, and what is known about the server so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from openai.types.chat import ChatCompletion
from openai.types.completion_usage import CompletionUsage
from packaging.version import Version
from pydantic import SecretStr

from vllm_adapters._compat import http
from vllm_adapters._request import compat
from vllm_adapters._transport.credentials import PLACEHOLDER_KEY
from vllm_adapters._transport.http import DEADLINE, Deadline
from vllm_adapters.doctor import parsers
from vllm_adapters.errors import FeatureNotEnabled, ServerTimeout, ServerUnreachable, VLLMError
from vllm_adapters.server import VLLMServer
from vllm_adapters.timeouts import Timeouts
from vllm_adapters.types import ModelCard

__all__ = [
    "CHAT_ROUTE",
    "CONNECTION_ERRORS",
    "DISABLE_THINKING",
    "QUESTION",
    "REASONING_PARSER_MISMATCH",
    "Probe",
    "StreamStats",
    "count_of",
    "parse_json",
    "reasoning_of",
    "text_of",
]

QUESTION = "What is the capital of Japan?"
CHAT_ROUTE = "/v1/chat/completions"
CONNECTION_ERRORS = (ServerUnreachable, ServerTimeout)
"""Errors after which no further request is sent."""

REASONING_PARSER_MISMATCH = "The reasoning parser does not fit the model or the vLLM version"
DISABLE_THINKING = {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}

_SHORT_REPLY, _LONG_REPLY = 64, 512  # tokens, without and with thinking
_STREAMED_TOKENS = 48
_CONNECT, _IDLE = 10, 120  # seconds
_GET_TIMEOUT = http.Timeout(30, connect=_CONNECT)


@dataclass(frozen=True)
class StreamStats:
    """Measurements of one streamed reply.

    Args:
        chunks: Number of chunks with text.
        first: Time of the first chunk, in seconds after the request.
        last: Time of the last chunk, in seconds after the request.
        usage: Token usage at the end of the stream.
        contents: Number of chunks whose text is content, not reasoning.
    """

    chunks: int
    first: float
    last: float
    usage: CompletionUsage | None
    contents: int


class Probe:
    """Requests to the server under test, and what is known about it so far.

    Args:
        base_url: As for ``VLLMServer``.
        api_key: As for ``VLLMServer``.
        model: Served model to use. Default: the first base model.
        time_limit: Time limit for all requests together, in seconds.

    Attributes:
        server: The server, with the API key.
        anonymous: The same server, without the API key.
        requests: Number of requests sent.
        reported_version: Content of ``/version``, if there is any.
        cards: Served models.
        openapi: OpenAPI document of the server; empty if it has none.
    """

    def __init__(
        self, base_url: str | None, api_key: str | SecretStr | None, model: str | None, time_limit: float
    ) -> None:
        self.requests = 0
        self.time_limit = time_limit
        options: dict[str, Any] = {
            "max_retries": 0,
            "http_options": {"event_hooks": {"request": [self._count_request]}},
        }
        self.server = VLLMServer(base_url, api_key=api_key, model=model, **options)
        self.anonymous = VLLMServer(self.server.base_url, api_key=PLACEHOLDER_KEY, **options)
        self.reported_version: str | None = None
        self.cards: list[ModelCard] = []
        self.openapi: dict[str, Any] = {}

    def _count_request(self, request: http.Request) -> None:
        self.requests += 1

    def __enter__(self) -> Probe:
        limits = Timeouts(connect=_CONNECT, idle=_IDLE, total=self.time_limit)
        self._end = time.monotonic() + self.time_limit
        self._token = DEADLINE.set(Deadline(limits, self._end))
        return self

    def __exit__(self, *_: object) -> None:
        DEADLINE.reset(self._token)
        self.server.close()
        self.anonymous.close()

    @property
    def timed_out(self) -> bool:
        """Whether the time limit has passed."""
        return time.monotonic() >= self._end

    def get(self, path: str) -> http.Response:
        """Return the raw response to a GET request at the server's root."""
        response: http.Response = self.server.client.get(
            self.server.at_root(path), cast_to=http.Response, options={"timeout": _GET_TIMEOUT}
        )
        return response

    @property
    def api_key(self) -> str | None:
        """API key of the requests, or ``None`` if there is none."""
        key = self.server.client.api_key
        return None if key == PLACEHOLDER_KEY else key

    @property
    def version(self) -> Version | None:
        """vLLM version, or ``None`` if the server does not report a valid one."""
        return compat.parse_version(self.reported_version or "")

    def older_than(self, version: str) -> bool:
        """Return whether the server is known to be older than this version."""
        return self.version is not None and self.version < Version(version)

    def excerpt(self, text: str, size: int = 60) -> str:
        """Return the beginning of a text from the server, quoted and redacted."""
        text = self.redact(" ".join(text.split()))
        return repr(text if len(text) <= size else text[:size] + "…")

    def redact(self, text: str) -> str:
        """Replace the API key in a text: a server may echo it."""
        return text.replace(self.api_key, "***") if self.api_key else text

    def sanitize(self, value: Any) -> Any:
        """Redact the texts in a JSON value and escape control characters, which could control a terminal."""
        if isinstance(value, str):
            text = self.redact(value)
            return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        if isinstance(value, Mapping):
            return {self.sanitize(name): self.sanitize(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.sanitize(item) for item in value)
        return value

    def set_models(self, cards: list[ModelCard]) -> None:
        """Store the served models, and select the first base model unless the user named one."""
        self.cards = cards
        base = [card.id for card in cards if card.parent is None]
        self.server.model = self.server.model or (base or [card.id for card in cards])[0]

    @property
    def model(self) -> str:
        """Name of the model under test."""
        return self.server.model or ""

    @property
    def routes(self) -> frozenset[str]:
        """Routes that the server lists. Empty if it lists none."""
        return frozenset(self.openapi.get("paths", {}))

    def chat(self, prompt: str, **parameters: Any) -> ChatCompletion:
        """Return the reply to one user message. vLLM's own parameters are given flat."""
        if "max_tokens" not in parameters:
            parameters["max_tokens"] = self.max_tokens
        return self.send([{"role": "user", "content": prompt}], **parameters)

    def send(self, messages: list[dict[str, Any]], **parameters: Any) -> ChatCompletion:
        """Return the reply to messages. vLLM's own parameters are given flat."""
        return self.server.client.chat.completions.create(
            model=self.model,
            messages=messages,  # type: ignore[arg-type]
            temperature=0,
            extra_body=parameters,
        )

    @cached_property
    def default_reply(self) -> ChatCompletion:
        """Reply to a plain question, with the server's defaults."""
        return self.chat(QUESTION, max_tokens=self._limit_tokens(_SHORT_REPLY))

    @cached_property
    def thinks_by_default(self) -> bool:
        """Whether the model thinks before it answers, with the server's defaults."""
        text = text_of(self.default_reply)
        return bool(reasoning_of(self.default_reply)) or any(mark in text for mark in parsers.THINKING_MARKS)

    @property
    def answers_in_reasoning(self) -> bool:
        """Whether the server returns a complete answer as reasoning."""
        reply = self.default_reply
        return reply.choices[0].finish_reason == "stop" and bool(reasoning_of(reply)) and not text_of(reply)

    @cached_property
    def reasoning_parser_mismatch(self) -> bool:
        """Whether the server returns answers as reasoning even with thinking disabled."""
        return self.answers_in_reasoning and not text_of(self.chat(QUESTION, **DISABLE_THINKING)).strip()

    @property
    def max_tokens(self) -> int:
        """Token limit of a reply."""
        return self._limit_tokens(_LONG_REPLY if self.thinks_by_default else _SHORT_REPLY)

    @property
    def context_length(self) -> int | None:
        """Context length in tokens, or ``None`` if the server does not report it."""
        return next((card.max_model_len for card in self.cards if card.id == self.model), None)

    def _limit_tokens(self, tokens: int) -> int:
        return min(tokens, (self.context_length or tokens * 4) // 4)

    @property
    def without_thinking(self) -> dict[str, Any]:
        """Parameters that disable thinking, for a model that thinks by default."""
        return DISABLE_THINKING if self.thinks_by_default else {}

    @cached_property
    def stream_stats(self) -> StreamStats:
        """Measurements of a streamed reply of fixed length."""
        start, chunks, contents, first, last, usage = time.monotonic(), 0, 0, 0.0, 0.0, None
        stream = self.server.client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=self._limit_tokens(_STREAMED_TOKENS),
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        for chunk in stream:
            usage = chunk.usage or usage
            delta = chunk.choices[0].delta if chunk.choices else None
            if delta is not None and (delta.content or getattr(delta, "reasoning", None)):
                last = time.monotonic() - start
                first, chunks = first or last, chunks + 1
                contents += bool(delta.content)
        return StreamStats(chunks, first, last, usage, contents)

    @cached_property
    def has_reasoning_parser(self) -> bool | None:
        """Whether the server has a reasoning parser, or ``None`` if unknown.

        vLLM accepts a thinking budget only with a reasoning parser.
        """
        try:
            self.chat(QUESTION, max_tokens=1, thinking_token_budget=1)
        except FeatureNotEnabled:
            return False
        except VLLMError:
            return None
        return True

    @property
    def enforcement_flags(self) -> tuple[str, ...]:
        """Flags for a server that ignores constraints because it does not detect the end of thinking."""
        if self.reasoning_parser_mismatch:
            return self.add_parser_names(("--reasoning-parser",))
        if self.has_reasoning_parser is False or self.older_than("0.11.2"):  # 0.11.0 has no such setting
            return ()
        return ("--structured-outputs-config '{\"enable_in_reasoning\": true}'",)

    @cached_property
    def parsers(self) -> parsers.Parsers:
        """Parsers that fit the model under test."""
        card = next((card for card in self.cards if card.id == self.model), ModelCard(self.model))
        by_name = parsers.by_name(card.id, card.root or "")
        if by_name.tools or by_name.reasoning:
            return by_name
        try:
            tokens = self.server.tokenize("".join(parsers.TOKENS), return_token_strs=True)
        except VLLMError:  # without /tokenize the parsers stay unknown
            return by_name
        return parsers.by_tokens(tokens.strings or [])

    def add_parser_names(self, flags: tuple[str, ...]) -> tuple[str, ...]:
        """Append the parser's name to each flag that takes one; ``NAME`` if it is unknown."""
        names = {
            "--tool-call-parser": self.parsers.tools if "--tool-call-parser" in flags else None,
            "--reasoning-parser": self.parsers.reasoning if "--reasoning-parser" in flags else None,
        }
        return tuple(f"{flag} {names[flag] or 'NAME'}" if flag in names else flag for flag in flags)


def text_of(reply: ChatCompletion) -> str:
    """Return the content of a reply."""
    return reply.choices[0].message.content or ""


def reasoning_of(reply: ChatCompletion) -> str:
    """Return the reasoning of a reply, as parsed by the server."""
    return getattr(reply.choices[0].message, "reasoning", None) or ""


def parse_json(response: http.Response) -> Any:
    """Return the parsed body, or ``None`` if it is not JSON or nested too deeply."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def count_of(count: int, singular: str, plural: str = "") -> str:
    """Return a count with its noun, such as ``"1 token"`` or ``"2 tokens"``."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"
