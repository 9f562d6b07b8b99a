"""``VLLMTokenizer``: exact token counts of the served model, cached."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from hashlib import sha256
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

from pydantic import BaseModel

from vllm_adapters._client.discovery import Plan, arun_plan, run_plan
from vllm_adapters._client.endpoint import EndpointCall
from vllm_adapters._optional import require
from vllm_adapters._request.texts import json_object, list_of
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.server import VLLMServer

__all__ = ["VLLMTokenizer"]

_SAMPLE = (
    "Hello, world!  It's 12,345.67 €\n\tdef f(x): return x**2  # Ελλάδα 中文 日本語 한국어 עברית 🙂🏽 naïve\u2028 "
)
"""Text on which tokenizers differ: scripts, spaces, digits, code, joined emoji."""
_LEADING_ROLES = ("system", "developer")
_USER_MESSAGE = {"role": "user", "content": "?"}


def _checked(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"`text` must be a str, not {type(text).__name__}.")
    return text


def _dict(value: Any) -> Any:
    value = json_object(value)
    return value.model_dump(exclude_unset=True, mode="json") if isinstance(value, BaseModel) else value


_Counting: TypeAlias = Plan[EndpointCall[int], int, int]


class _Counts:
    """Counts of the conversations that were counted last, by digest.

    Args:
        size: How many to keep.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._counts: OrderedDict[bytes, int] = OrderedDict()
        self._lock = Lock()

    def get(self, key: bytes) -> int | None:
        """Return a count, if it is known."""
        with self._lock:
            if key in self._counts:
                self._counts.move_to_end(key)
            return self._counts.get(key)

    def put(self, key: bytes, count: int) -> None:
        """Keep a count, and drop the one that was not asked for longest."""
        with self._lock:
            self._counts[key] = count
            while len(self._counts) > self._size:
                self._counts.popitem(last=False)


class VLLMTokenizer:
    """Tokenizes and counts tokens as the served model does.

    >>> from vllm_adapters import VLLMServer, VLLMTokenizer
    >>> tokenizer = VLLMTokenizer(VLLMServer("http://localhost:8000"))  # vllm serve MODEL
    >>> tokenizer.count("What is the capital of France?")
    12
    >>> tokenizer.count_messages([{"role": "user", "content": "Hello"}])
    12

    Each text or conversation is sent to the server once, and its tokens are cached. Text splitters count thousands
    of short texts: for them pass ``tokenizer``, the model's own file, which counts locally once it has been compared
    with the server. It needs ``pip install 'vllm-adapters[tokenizers]'``.

    Args:
        server: The server.
        tokenizer: Where the model's ``tokenizer.json`` is: that file, its directory, or the model's name on the
            Hugging Face hub. Default: send each text to the server.
        add_special_tokens: Count the tokens that the model adds to every text (such as ``[CLS]``); default True, as
            vLLM counts a prompt. False for parts of a text that are joined again.
        cache_size: Number of texts and conversations to cache.

    Raises:
        InvalidRequest: On first use: ``tokenizer`` is not the served model's.
        VLLMError: A request to the server failed.
    """

    def __init__(
        self,
        server: VLLMServer,
        *,
        tokenizer: str | PathLike[str] | None = None,
        add_special_tokens: bool = True,
        cache_size: int = 4096,
    ) -> None:
        self.server = server
        self.source = tokenizer
        self.add_special_tokens = add_special_tokens
        self.cache_size = cache_size

    def __call__(self, text: str) -> list[int]:
        """Return the token ids of a text, as LlamaIndex's ``Settings.tokenizer`` must."""
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return list(self._encode(_checked(text)))

    def count(self, text: str) -> int:
        """Return the number of tokens of a text: a ``length_function`` for text splitters."""
        return len(self._encode(_checked(text)))

    def count_messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **parameters: Any,
    ) -> int:
        """Return the number of tokens of a conversation in the model's chat template: its ``prompt_tokens``.

        Args:
            messages: As for chat completions, or a part of a conversation: one without a user message, as trimming
                counts them, is counted as what it adds.
            tools: Tools offered with them, in OpenAI's form.
            parameters: Of ``VLLMServer.tokenize``, such as ``chat_template_kwargs``.
        """
        return run_plan(self._plan(messages, tools, parameters), lambda call: call.send(self.server.client))

    async def acount_messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **parameters: Any,
    ) -> int:
        """Async version of ``count_messages``."""
        client = self.server.async_client
        return await arun_plan(self._plan(messages, tools, parameters), lambda call: call.asend(client))

    def _plan(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        parameters: dict[str, Any],
    ) -> _Counting:
        messages = list_of(messages, "messages", "dict", _dict)
        offered = [] if tools is None else list_of(tools, "tools", "dict", _dict)
        if any(message.get("role") == "user" for message in messages):
            return (yield from self._counted(messages, offered, parameters))
        # Many chat templates refuse a conversation without a user message, or a system message after one.
        first = next(
            (at for at, message in enumerate(messages) if message.get("role") not in _LEADING_ROLES), len(messages)
        )
        opened = [*messages[:first], _USER_MESSAGE, *messages[first:]]
        whole = yield from self._counted(opened, offered, parameters)
        return max(0, whole - (yield from self._counted([_USER_MESSAGE], [], parameters)))

    def _counted(
        self, messages: Sequence[Mapping[str, Any]], tools: list[Any], parameters: dict[str, Any]
    ) -> _Counting:
        conversation = json.dumps([list(messages), tools, parameters], sort_keys=True)
        key = sha256(conversation.encode()).digest()  # the conversation itself may contain images
        if (count := self._counts.get(key)) is None:
            count = yield self.server._count_tokens(messages=list(messages), tools=tools, **parameters)
            self._counts.put(key, count)
        return count

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k in ("server", "source", "add_special_tokens", "cache_size")}

    @cached_property
    def _encode(self) -> Any:
        return lru_cache(self.cache_size)(self._request_tokens if self.source is None else self._local(self.source))

    @cached_property
    def _counts(self) -> _Counts:
        return _Counts(self.cache_size)

    def _request_tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.server.tokenize(text, add_special_tokens=self.add_special_tokens).ids)

    def _local(self, source: str | PathLike[str]) -> Any:
        tokenizers = require("tokenizers", "tokenizers")
        path = Path(source)
        file = path / "tokenizer.json" if path.is_dir() else path
        if file.is_file():
            tokenizer = tokenizers.Tokenizer.from_file(str(file))
        else:
            tokenizer = tokenizers.Tokenizer.from_pretrained(str(source))
        tokenizer.no_truncation()  # files of embedding models enable both
        tokenizer.no_padding()

        def encode(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=self.add_special_tokens).ids)

        if encode(_SAMPLE) != self._request_tokens(_SAMPLE):
            raise InvalidRequest(
                f"`tokenizer` {str(source)!r} does not match the served model: its tokens differ",
                hint="Pass the tokenizer.json of the served model, or remove tokenizer=",
                address=self.server.base_url,
                param="tokenizer",
            )
        return encode
