"""One visit to a server: how it is asked, and what is known of it so far."""

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
from vllm_adapters._response.error_mapping import RequestContext
from vllm_adapters._transport.credentials import PLACEHOLDER_KEY
from vllm_adapters._transport.http import DEADLINE, Deadline
from vllm_adapters.doctor import parsers
from vllm_adapters.errors import FeatureNotEnabled, ServerTimeout, ServerUnreachable, VLLMError
from vllm_adapters.server import VLLMServer
from vllm_adapters.timeouts import Timeouts
from vllm_adapters.types import ModelCard

CAPITAL = "What is the capital of Japan?"
CHAT = "/v1/chat/completions"
_BRIEF, _LONG = 64, 512  # tokens of a reply, without and with thinking
_STREAMED_TOKENS = 48
_CONNECT, _IDLE = 10, 120  # seconds
_QUICK = http.Timeout(30, connect=_CONNECT)
GONE = (ServerUnreachable, ServerTimeout)
"""Errors after which a server is not asked anything more."""

UNFIT_REASONING = "The reasoning parser it has does not fit the model, or the version"
NOT_THINKING = {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}


@dataclass(frozen=True)
class Streamed:
    """A streamed reply: how many pieces of text came, when (in seconds from the call), and the usage."""

    pieces: int
    first: float
    last: float
    usage: CompletionUsage | None


class Visit:
    """One visit to a server.

    Args:
        base_url: As for ``VLLMServer``.
        api_key: As for ``VLLMServer``.
        model: The served model to ask; default: the first base model.
        time_limit: How long the visit may take, in seconds.
    """

    def __init__(
        self, base_url: str | None, api_key: str | SecretStr | None, model: str | None, time_limit: float
    ) -> None:
        self.requests = 0
        self.time_limit = time_limit
        options: dict[str, Any] = {"max_retries": 0, "http_options": {"event_hooks": {"request": [self._count]}}}
        self.server = VLLMServer(base_url, api_key=api_key, model=model, **options)
        self.anonymous = VLLMServer(self.server.base_url, api_key=PLACEHOLDER_KEY, **options)
        self.told_version: str | None = None
        self.cards: list[ModelCard] = []
        self.document: dict[str, Any] = {}

    def _count(self, request: http.Request) -> None:
        self.requests += 1

    def __enter__(self) -> Visit:
        limits = Timeouts(connect=_CONNECT, idle=_IDLE, total=self.time_limit)
        self._end = time.monotonic() + self.time_limit
        self._token = DEADLINE.set(Deadline(limits, RequestContext(self.server.base_url), self._end))
        return self

    def __exit__(self, *_: object) -> None:
        DEADLINE.reset(self._token)
        self.server.close()
        self.anonymous.close()

    @property
    def is_over(self) -> bool:
        """Whether the time limit has passed."""
        return time.monotonic() >= self._end

    def get(self, path: str) -> http.Response:
        """The raw reply to a GET at the server's root."""
        response: http.Response = self.server.client.get(
            self.server.at_root(path), cast_to=http.Response, options={"timeout": _QUICK}
        )
        return response

    @property
    def key(self) -> str | None:
        """The key that is sent; None for the placeholder."""
        key = self.server.client.api_key
        return None if key == PLACEHOLDER_KEY else key

    @property
    def version(self) -> Version | None:
        """Its vLLM version, as far as it tells."""
        return compat.parse_version(self.told_version or "")

    def older_than(self, version: str) -> bool:
        """Whether the server is known to be older."""
        return self.version is not None and self.version < Version(version)

    def shown(self, text: str, size: int = 60) -> str:
        """The beginning of a text from the server, quoted, and without the key."""
        text = self.without_key(" ".join(text.split()))
        return repr(text if len(text) <= size else text[:size] + "…")

    def without_key(self, text: str) -> str:
        """A server may say the key it was sent; nobody else gets to read it."""
        return text.replace(self.key, "***") if self.key else text

    def fit_to_show(self, value: Any) -> Any:
        """What was found, without the key, and without what would steer the terminal that shows it."""
        if isinstance(value, str):
            text = self.without_key(value)
            return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        if isinstance(value, Mapping):
            return {self.fit_to_show(name): self.fit_to_show(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.fit_to_show(item) for item in value)
        return value

    def serves(self, cards: list[ModelCard]) -> None:
        """Take note of what is served; unless a model was named, the first base model is the one to ask."""
        self.cards = cards
        base = [card.id for card in cards if card.parent is None]
        self.server.model = self.server.model or (base or [card.id for card in cards])[0]

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.server.model or ""

    @property
    def paths(self) -> frozenset[str]:
        """The routes the server lists; empty if it does not."""
        return frozenset(self.document.get("paths", {}))

    def chat(self, prompt: str, **parameters: Any) -> ChatCompletion:
        """One reply to one question; vLLM's parameters flat."""
        if "max_tokens" not in parameters:
            parameters["max_tokens"] = self.room
        return self.server.client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            extra_body=parameters,
        )

    @cached_property
    def plain(self) -> ChatCompletion:
        """The reply to a plain question, as the server's defaults make it."""
        return self.chat(CAPITAL, max_tokens=self._at_most(_BRIEF))

    @cached_property
    def thinks(self) -> bool:
        """Whether the model thinks before it answers when nobody says otherwise."""
        text = text_of(self.plain)
        return bool(thought_of(self.plain)) or any(mark in text for mark in parsers.THOUGHT_MARKS)

    @property
    def hides_answers(self) -> bool:
        """Whether the server gives a whole answer as reasoning."""
        return (
            self.plain.choices[0].finish_reason == "stop" and bool(thought_of(self.plain)) and not text_of(self.plain)
        )

    @cached_property
    def misread(self) -> bool:
        """Whether the reasoning parser takes an answer for reasoning even where thinking is denied."""
        return self.hides_answers and not text_of(self.chat(CAPITAL, **NOT_THINKING)).strip()

    @property
    def room(self) -> int:
        """Tokens for a reply."""
        return self._at_most(_LONG if self.thinks else _BRIEF)

    @property
    def context(self) -> int | None:
        """How many tokens the model takes in all, if its card tells."""
        return next((card.max_model_len for card in self.cards if card.id == self.model), None)

    def _at_most(self, tokens: int) -> int:
        return min(tokens, (self.context or tokens * 4) // 4)

    @property
    def quiet(self) -> dict[str, Any]:
        """Parameters that keep a model from thinking which else would."""
        return NOT_THINKING if self.thinks else {}

    @cached_property
    def streamed(self) -> Streamed:
        """A streamed reply of a fixed length."""
        began, pieces, first, last, usage = time.monotonic(), 0, 0.0, 0.0, None
        stream = self.server.client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": CAPITAL}],
            max_tokens=self._at_most(_STREAMED_TOKENS),
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        for chunk in stream:
            usage = chunk.usage or usage
            delta = chunk.choices[0].delta if chunk.choices else None
            if delta is not None and (delta.content or getattr(delta, "reasoning", None)):
                last = time.monotonic() - began
                first, pieces = first or last, pieces + 1
        return Streamed(pieces, first, last, usage)

    @cached_property
    def reasoning_parser(self) -> bool | None:
        """Whether the server has a reasoning parser; None where it cannot be told.

        Only a server that has one takes a budget for thinking.
        """
        try:
            self.chat(CAPITAL, max_tokens=1, thinking_token_budget=1)
        except FeatureNotEnabled:
            return False
        except VLLMError:
            return None
        return True

    @property
    def enforcing_flags(self) -> tuple[str, ...]:
        """What makes a server enforce constraints that it ignores, for it sees no end of thinking."""
        if self.misread:
            return self.with_parser_names(("--reasoning-parser",))
        if self.reasoning_parser is False or self.older_than("0.11.0"):
            return ()
        return ("--structured-outputs-config '{\"enable_in_reasoning\": true}'",)

    @cached_property
    def parsers(self) -> parsers.Parsers:
        """The parsers this model seems to need."""
        card = next((card for card in self.cards if card.id == self.model), ModelCard(self.model))
        named = parsers.by_name(card.id, card.root or "")
        if named.tools or named.reasoning:
            return named
        try:
            tokens = self.server.tokenize("".join(parsers.TOKENS), return_token_strs=True)
        except VLLMError:  # a server that does not tokenize leaves the name open
            return named
        return parsers.by_tokens(tokens.strings or [])

    def with_parser_names(self, flags: tuple[str, ...]) -> tuple[str, ...]:
        """Flags with the name of the parser, where that is what they need."""
        names = {
            "--tool-call-parser": self.parsers.tools if "--tool-call-parser" in flags else None,
            "--reasoning-parser": self.parsers.reasoning if "--reasoning-parser" in flags else None,
        }
        return tuple(f"{flag} {names[flag] or 'NAME'}" if flag in names else flag for flag in flags)


def text_of(reply: ChatCompletion) -> str:
    """The reply's text."""
    return reply.choices[0].message.content or ""


def thought_of(reply: ChatCompletion) -> str:
    """The reply's reasoning, parsed by the server."""
    return getattr(reply.choices[0].message, "reasoning", None) or ""


def json_of(response: http.Response) -> Any:
    """What the body says; None if it is no JSON, or nested deeper than Python reads."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def counted(count: int, one: str, many: str = "") -> str:
    """``1 token``, ``2 tokens``."""
    return f"{count} {one if count == 1 else many or one + 's'}"
