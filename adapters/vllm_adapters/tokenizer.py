"""Counts tokens as the served model does: exactly, and without asking the server twice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

from vllm_adapters._optional import require
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.server import VLLMServer

_PROBE = "Hello, world!  It's 12,345.67 €\n\tdef f(x): return x**2  # Ελλάδα 中文 日本語 한국어 עברית 🙂🏽 naïve\u2028 "
"""Text on which tokenizers differ: scripts, spaces, digits, code, joined emoji."""
_BEFORE = ("system", "developer")
_OPENING = {"role": "user", "content": "?"}


class VLLMTokenizer:
    """The served model's own tokens, for whatever has to keep within a number of them.

    >>> from vllm_adapters import VLLMServer, VLLMTokenizer
    >>> tokenizer = VLLMTokenizer(VLLMServer("http://localhost:8000"))  # vllm serve MODEL
    >>> tokenizer.count("What is the capital of France?")
    12
    >>> tokenizer.count_messages([{"role": "user", "content": "Hello"}])
    12

    A text or a conversation is asked for once and then remembered. Text splitters ask for thousands of short
    texts: give them ``tokenizer``, the model's own file, which counts here what the server would, after a proof
    that it does. It needs ``pip install 'vllm-adapters[tokenizers]'``.

    Args:
        server: The server.
        tokenizer: Where the model's ``tokenizer.json`` is: that file, its directory, or the model's name on the
            Hugging Face hub. Default: ask the server for each text.
        add_special_tokens: Count the tokens that the model adds to every text (such as ``[CLS]``) too; default
            True, as vLLM counts a prompt. False for parts of a text that are put together again.
        cache_size: How many texts and conversations to remember.

    Raises:
        InvalidRequest: On first use: ``tokenizer`` is not the served model's.
        VLLMError: The server could not be asked.
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
        """Token ids of a text: what LlamaIndex's ``Settings.tokenizer`` is asked for."""
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(self._encode(text))

    def count(self, text: str) -> int:
        """How many tokens a text takes: a ``length_function`` for text splitters."""
        return len(self._encode(text))

    def count_messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **parameters: Any,
    ) -> int:
        """How many tokens the model's chat template makes of a conversation: its ``prompt_tokens``.

        Args:
            messages: As for chat completions, or a part of a conversation: one without a user's message, as trimming
                asks for, is counted as what it adds.
            tools: Tools offered with them, in OpenAI's form.
            parameters: Of ``VLLMServer.tokenize``, such as ``chat_template_kwargs``.
        """
        offered = list(tools or ())
        if any(message["role"] == "user" for message in messages):
            return self._asked(messages, offered, parameters)
        # Many chat templates refuse a conversation in which no user has spoken, or a system message after that.
        first = next((at for at, message in enumerate(messages) if message["role"] not in _BEFORE), len(messages))
        opened = [*messages[:first], _OPENING, *messages[first:]]
        return max(0, self._asked(opened, offered, parameters) - self._asked([_OPENING], [], parameters))

    def _asked(self, messages: Sequence[Mapping[str, Any]], tools: list[Any], parameters: dict[str, Any]) -> int:
        return int(self._count_messages(json.dumps([list(messages), tools, parameters], sort_keys=True)))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k in ("server", "source", "add_special_tokens", "cache_size")}

    @cached_property
    def _encode(self) -> Any:
        return lru_cache(self.cache_size)(self._ask if self.source is None else self._local(self.source))

    @cached_property
    def _count_messages(self) -> Any:
        return lru_cache(self.cache_size)(self._ask_messages)

    def _ask(self, text: str) -> tuple[int, ...]:
        return tuple(self.server.tokenize(text, add_special_tokens=self.add_special_tokens).ids)

    def _ask_messages(self, conversation: str) -> int:
        messages, tools, parameters = json.loads(conversation)
        return self.server.count_tokens(messages=messages, tools=tools, **parameters)

    def _local(self, source: str | PathLike[str]) -> Any:
        tokenizers = require("tokenizers", "tokenizers")
        path = Path(source)
        file = path / "tokenizer.json" if path.is_dir() else path
        if file.is_file():
            tokenizer = tokenizers.Tokenizer.from_file(str(file))
        else:
            tokenizer = tokenizers.Tokenizer.from_pretrained(str(source))
        tokenizer.no_truncation()  # files of embedding models ask for both
        tokenizer.no_padding()

        def encode(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=self.add_special_tokens).ids)

        if encode(_PROBE) != self._ask(_PROBE):
            raise InvalidRequest(
                f"{str(source)!r} is not the tokenizer of the served model: it makes other tokens of a text",
                hint="Give the tokenizer.json of the very model that is served, or leave tokenizer= out",
                address=self.server.base_url,
                param="tokenizer",
            )
        return encode
