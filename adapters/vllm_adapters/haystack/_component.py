"""What all components here share: where the server is, clients made when warmed up, and how they are saved."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, Self, cast

import openai
from haystack import Document, default_from_dict, default_to_dict
from haystack.utils import Secret
from haystack.utils.auth import TokenSecret

from vllm_adapters._transport.credentials import PLACEHOLDER_KEY, normalize_base_url, normalize_headers
from vllm_adapters.client import AsyncVLLMClient, VLLMClient
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.haystack.headers import change_headers, leave_texts_out, load, resolve, save
from vllm_adapters.server import VLLMServer, reject_conflicts
from vllm_adapters.timeouts import Timeouts

NAMESPACE = "haystack_integrations.components.vllm_adapters"
"""The module that pipelines name in their YAML."""

API_KEY = Secret.from_env_var("VLLM_API_KEY", strict=False)
_ALIVE = frozenset({"_client", "_async_client", "_server", "_tokenizer"})


class Connected:
    """A component that talks to one server."""

    _left_out: ClassVar[frozenset[str]] = frozenset({"server_version"})
    """Parameters that are saved only if they were given."""

    model: str | None
    api_key: Secret | None
    api_base_url: str
    timeout: float | dict[str, float | None] | None
    max_retries: int | None
    http_client_kwargs: dict[str, Any] | None
    server_version: str | None

    def _place(
        self,
        model: str | None,
        server: VLLMServer | None,
        api_key: Secret | None,
        api_base_url: str | None,
        timeout: float | dict[str, float | None] | None,
        max_retries: int | None,
        http_client_kwargs: dict[str, Any] | None,
        server_version: str | None,
    ) -> None:
        if not isinstance(api_key, Secret | None):
            raise TypeError(f"api_key must be a haystack.utils.Secret, not {type(api_key).__name__}")
        if server is not None:
            reject_conflicts(server, api_base_url, {"server_version": server_version})
        self.model = model or (server.model if server else None)
        self.api_key = api_key
        self.api_base_url = server.base_url if server else api_base_url or normalize_base_url(None)
        self.timeout = timeout
        self.max_retries = max_retries
        self.http_client_kwargs = change_headers(http_client_kwargs, normalize_headers)
        self.server_version = server_version
        self._given_server = self._server = server.serving(self.model) if server and self.model else server
        self._client: VLLMClient | None = None
        self._async_client: AsyncVLLMClient | None = None

    def _connect(self) -> VLLMServer:
        if self._server is None:
            options = change_headers(self.http_client_kwargs, resolve) or {}
            limit = options.pop("timeout", None)
            limit = limit if self.timeout is None else self.timeout
            self._server = VLLMServer(
                self.api_base_url,
                api_key=(self.api_key.resolve_value() if self.api_key else None) or PLACEHOLDER_KEY,
                model=self.model,
                timeout=Timeouts() if limit is None else Timeouts(**limit) if isinstance(limit, dict) else limit,
                max_retries=openai.DEFAULT_MAX_RETRIES if self.max_retries is None else self.max_retries,
                http_options=options,
                server_version=self.server_version,
            )
        return self._server

    def warm_up(self) -> None:
        """Read the key and make the client; nothing is sent."""
        if self._client is None:
            self._client = self._connect().client

    async def warm_up_async(self) -> None:
        """``warm_up``, for ``run_async``."""
        if self._async_client is None:
            self._async_client = self._connect().async_client

    def _sync(self) -> VLLMClient:
        self.warm_up()
        return cast(VLLMClient, self._client)

    async def _async(self) -> AsyncVLLMClient:
        await self.warm_up_async()
        return cast(AsyncVLLMClient, self._async_client)

    def close(self) -> None:
        """Close the client's connections; the next ``warm_up`` makes new ones."""
        if self._client is not None and self._given_server is None:
            self._client.close()
        self._client = None
        self._disconnect()

    async def close_async(self) -> None:
        """``close``, for ``run_async``."""
        if self._async_client is not None and self._given_server is None:
            await self._async_client.close()
        self._async_client = None
        self._disconnect()

    def _disconnect(self) -> None:
        if self._client is None and self._async_client is None:
            self._server = self._given_server

    def _served(self) -> str | None:
        """The model's name as far as it is known."""
        return self.model or self._connect().client.facts.model

    def __getstate__(self) -> dict[str, Any]:
        # As for the client: a pickle holds no key and no connection; the process that opens it reads VLLM_API_KEY.
        state = {name: None if name in _ALIVE else value for name, value in vars(self).items()}
        state["_server"] = self._given_server
        state["http_client_kwargs"] = change_headers(self.http_client_kwargs, leave_texts_out)
        if isinstance(self.api_key, TokenSecret):
            state["api_key"] = API_KEY
        return state

    def __copy__(self) -> Self:
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = memo[id(self)] = object.__new__(type(self))
        vars(twin).update(deepcopy(vars(self), memo))
        return twin

    def _saved(self) -> dict[str, Any]:
        """The constructor's arguments as they are saved."""
        saved = {}
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name not in ("self", "server"):
                value = getattr(self, name)
                if name not in self._left_out or value != parameter.default:
                    saved[name] = value
        return {**saved, "http_client_kwargs": change_headers(self.http_client_kwargs, save)}

    def to_dict(self) -> dict[str, Any]:
        """The component as basic types: the key by the name of its variable, our own parameters if they are set."""
        return default_to_dict(self, **self._saved())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """The component that ``to_dict`` saved."""
        return cls._load(data)

    @classmethod
    def _load(cls, data: dict[str, Any]) -> Any:
        given = data.get("init_parameters", {})
        kwargs = change_headers(given.get("http_client_kwargs"), load)
        return default_from_dict(cls, {**data, "init_parameters": {**given, "http_client_kwargs": kwargs}})


def refuse_own(parameters: Mapping[str, Any] | None, own: Collection[str]) -> None:
    """Refuse extra parameters that the component has itself and that would quietly win over it.

    Raises:
        InvalidRequest: There is one.
    """
    for name in own:
        if name in (parameters or {}):
            raise InvalidRequest(
                f"`{name}` is no extra parameter here", hint="The component sets it itself", param=name
            )


def with_meta(documents: Sequence[Document], fields: Sequence[str], separator: str) -> list[str]:
    """The documents' texts, each behind its meta fields."""
    return [
        separator.join(
            [
                *(str(document.meta[field]) for field in fields if document.meta.get(field) is not None),
                document.content or "",
            ]
        )
        for document in documents
    ]
