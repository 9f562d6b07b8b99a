"""Where a server is, and whether it answers yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import Any, Self

from pydantic import SecretStr

from vllm_adapters.asking import Ask
from vllm_adapters.client import AsyncVLLMClient, VLLMClient
from vllm_adapters.errors import ServerTimeout, ServerUnreachable, VLLMError
from vllm_adapters.speaker import normal_address
from vllm_adapters.transport import Timeouts

_QUICK = {"timeout": Timeouts(connect=5, idle=10, total=10), "max_retries": 0}


class Reachable:
    """One server: its address, its clients, and how to wait for it. Arguments are those of ``VLLMServer``."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | SecretStr | None = None,
        model: str | None = None,
        async_http_client: Any = None,
        **options: Any,
    ) -> None:
        self.model = model
        self.client = VLLMClient(base_url, api_key=api_key, **options)
        headers = self.client._custom_headers
        self._options = {**options, "default_headers": headers, "http_client": async_http_client}

    @cached_property
    def async_client(self) -> AsyncVLLMClient:
        """The async client of this server; what one client learns of the server, the other knows."""
        options = {**self._options, "server_version": None, "facts": self.client.facts}
        return AsyncVLLMClient(self.client.address, api_key=self.client.api_key, **options)

    @property
    def base_url(self) -> str:
        """The server's base URL, ending in ``/v1``."""
        return self.client.address

    def __repr__(self) -> str:
        address = self.base_url if "client" in vars(self) else "..."  # a traceback shows half-made objects too
        return f"{type(self).__name__}({address!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # As for the client: a pickle holds no key, no headers, no connection.
        kept = ("timeout", "max_retries", "max_connections", "server_version", "allow_unknown")
        options = {name: self._options[name] for name in kept if name in self._options}
        return partial(type(self), model=self.model, **options), (self.base_url,)

    def __copy__(self) -> Self:
        return self  # not by way of __reduce__, which leaves the key behind

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def serving(self, model: str) -> Self:
        """The same server, asked for another of its models or LoRA adapters."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, model=model)
        return twin

    def at_root(self, path: str) -> str:
        """The URL of a path beside ``/v1``, where vLLM has its own endpoints."""
        return f"{self.client.root}{path}"

    def _health(self, /) -> Ask[bool]:
        return Ask(self.at_root("/health"), lambda *reply: True, cast_to=str, how=_QUICK)

    def is_ready(self) -> bool:
        """Whether the server answers requests now; ``False`` while it loads and when nothing listens."""
        try:
            return self._health().send(self.client)
        except VLLMError as error:
            return _not_ready(error)

    async def ais_ready(self) -> bool:
        """``is_ready``, to await."""
        try:
            return await self._health().asend(self.async_client)
        except VLLMError as error:
            return _not_ready(error)

    def wait_until_ready(self, timeout: float = 600.0, *, every: float = 1.0) -> Self:
        """Wait for the server to answer.

        Args:
            timeout: How long to wait, in seconds. Loading a large model takes minutes.
            every: Seconds between two looks.

        Raises:
            ServerTimeout: It is still not ready.
        """
        for _ in self._patience(timeout, every):
            if self.is_ready():
                return self
            time.sleep(every)
        raise self._too_long(timeout)

    async def await_until_ready(self, timeout: float = 600.0, *, every: float = 1.0) -> Self:
        """``wait_until_ready``, to await."""
        for _ in self._patience(timeout, every):
            if await self.ais_ready():
                return self
            await asyncio.sleep(every)
        raise self._too_long(timeout)

    @staticmethod
    def _patience(timeout: float, every: float) -> Iterator[None]:
        end = time.monotonic() + timeout
        yield
        while time.monotonic() + every < end:
            yield

    def _too_long(self, timeout: float) -> ServerTimeout:
        return ServerTimeout(
            f"The server was not ready within {timeout:g} s",
            hint="Look at its log: it may still load the model, or have died",
            address=self.base_url,
            kind="total",
            seconds=timeout,
        )

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


def _not_ready(error: VLLMError) -> bool:
    if isinstance(error, ServerUnreachable | ServerTimeout) or error.status_code >= 500:
        return False
    raise error


_SETTINGS = ("default_headers", "default_query", "server_version", "http_client", "async_http_client")


def refuse_beside(server: Reachable, base_url: str | None, settings: Mapping[str, Any]) -> None:
    """Raise for what is given beside a server object, and would be lost without a word.

    Args:
        server: The server object.
        base_url: Another address, if one was given.
        settings: Further arguments of ``VLLMServer`` that were given.

    Raises:
        ValueError: The address is another one, or there are settings that only a new server could have.
    """
    if base_url and normal_address(base_url) != server.base_url:
        raise ValueError(f"Give either server or an address: {server.base_url} and {base_url} are two addresses.")
    for name in _SETTINGS:
        if settings.get(name):
            raise ValueError(f"Give either server or {name}: a server that is there already has its own.")
