"""Where the server is, and what is known of it: the fields that the classes of this room share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openai
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from vllm_adapters import dialect
from vllm_adapters.langchain.errors import langchain_errors
from vllm_adapters.server import VLLMServer
from vllm_adapters.transport import Timeouts


def refuse_unknown(cls: type[BaseModel], endpoint: str, values: Mapping[str, Any]) -> None:
    """Raise for constructor arguments that are no field of ``cls``.

    Raises:
        UnknownParameter: With the nearest name that there is.
        TypeError: A key that is no string; the error does not show it.
    """
    known = set(cls.model_fields) | {field.alias for field in cls.model_fields.values()}
    for name in values:
        if name not in known:
            with langchain_errors():
                raise dialect.unknown_parameter(endpoint, name)
    for name in ("api_key", "openai_api_key"):
        if not isinstance(values.get(name), str | SecretStr | None):
            # Not left to Pydantic, whose error would show the value.
            raise TypeError(f"{name} must be a str or a SecretStr, not {type(values[name]).__name__}")


class Connection(BaseModel):
    """The server of a class that asks one of vLLM's own endpoints."""

    model: str = ""
    base_url: str | None = None
    api_key: SecretStr | None = Field(default=None, exclude=True)
    server: VLLMServer | None = Field(default=None, exclude=True, repr=False)
    timeout: Any = Field(default=Timeouts(), exclude=True)
    max_retries: int = openai.DEFAULT_MAX_RETRIES
    default_headers: Mapping[str, str] | None = Field(default=None, repr=False, exclude=True)
    server_version: str | None = None

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    _server: VLLMServer = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Connect; nothing is sent."""
        super().model_post_init(context)
        self._connect()

    def _connect(self) -> None:
        if self.server is not None:
            self._server = self.server.serving(self.model) if self.model else self.server
        else:
            self._server = VLLMServer(
                self.base_url,
                model=self.model or None,
                api_key=self.api_key,
                timeout=self.timeout,
                max_retries=self.max_retries,
                default_headers=self.default_headers,
                server_version=self.server_version,
            )
        self.base_url = self._server.base_url

    def __getstate__(self) -> dict[Any, Any]:
        # No key, header or connection leaves the process in a pickle; VLLM_API_KEY is read where it is opened.
        state = super().__getstate__()
        hidden = dict.fromkeys(("api_key", "default_headers", "server"))
        return {**state, "__dict__": {**state["__dict__"], **hidden}, "__pydantic_private__": None}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self.__pydantic_private__ = {}
        self._connect()
