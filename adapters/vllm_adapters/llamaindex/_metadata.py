"""Metadata of a ``VLLM``, and the context length, which is looked up when it is read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from pydantic import PrivateAttr, SerializationInfo, SerializerFunctionWrapHandler, model_serializer

from vllm_adapters._client.endpoint import parse_models
from vllm_adapters.errors import ServerNotReady, ServerTimeout, ServerUnreachable, VLLMError
from vllm_adapters.llamaindex._connection import SECONDS_IN_A_LOOP, run_briefly
from vllm_adapters.server import VLLMServer

log = logging.getLogger(__name__)

_NOT_NOW = (ServerUnreachable, ServerTimeout, ServerNotReady)
"""Errors of a look-up that a later one may not have."""


@dataclass
class ContextLengths:
    """The context lengths of a server's models, each looked up when it is needed.

    Where the server does not tell it, it is LlamaIndex's default: chat works all the same behind a gateway without
    ``/v1/models``. LlamaIndex reads it synchronously, also in coroutines; so while an event loop runs, the look-up
    runs in a thread, and the default stands in for what is not known within 0.1 s.

    Args:
        known: Those that have been looked up, by model.
        pending: Models whose look-up is running.
    """

    known: dict[str, int] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)

    def of(self, server: VLLMServer, model: str, *, kept: bool = False) -> int:
        """Return the context length of a model.

        Args:
            server: Its server.
            model: Its name; empty for the one that is served.
            kept: Whether a list of models will do that the client keeps since it looked up the model's name.
        """
        if model not in self.known and model not in self.pending:
            self.pending.add(model)
            if not run_briefly(self._look_up, server, model, kept):
                _warn(server, model, f"the server did not tell it within {SECONDS_IN_A_LOOP} s")
        return self.known.get(model, DEFAULT_CONTEXT_WINDOW)

    def _look_up(self, server: VLLMServer, model: str, kept: bool) -> None:
        found = None
        try:
            if kept:
                client = server.client.vllm
                found = server._context_length(parse_models(client.run(client.info.look_up_models())))
            else:
                found = server.context_length()
            if found is None:
                _warn(server, model, "the server does not tell it")
        except VLLMError as error:
            _warn(server, model, str(error))
            if isinstance(error, _NOT_NOW):
                return
        except (KeyError, TypeError, AttributeError):
            _warn(server, model, "the server's list of models is malformed")
        finally:
            self.pending.discard(model)
        self.known[model] = found or DEFAULT_CONTEXT_WINDOW


def _warn(server: VLLMServer, model: str, reason: str) -> None:
    log.warning(
        "The context length of %s is unknown, so LlamaIndex assumes %d tokens: %s. Pass context_window=.",
        model or server.model_name or "the served model",
        DEFAULT_CONTEXT_WINDOW,
        reason,
    )


class LazyMetadata(LLMMetadata):
    """Metadata whose context length is looked up when it is read.

    LlamaIndex reads metadata often, also inside a running event loop, and mostly other fields.
    """

    _look_up: Callable[..., int] = PrivateAttr()

    @classmethod
    def of(cls, payload: dict[str, Any], look_up: Callable[..., int]) -> LazyMetadata:
        """Return the metadata of a payload.

        Args:
            payload: The fields by name, with the context length if it is known.
            look_up: Returns the context length; with ``kept=True``, from what the client keeps, if it does.
        """
        metadata = cls(**{name: value for name, value in payload.items() if name != "class_name"})
        metadata._look_up = look_up
        if "context_window" not in payload:
            del metadata.__dict__["context_window"]
        return metadata

    def __getattr__(self, name: str) -> Any:
        if name == "context_window":
            return self._look_up()
        return super().__getattr__(name)  # type: ignore[misc]  # Pydantic's, for private attributes

    @model_serializer(mode="wrap")
    def _with_context_window(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        if not info.exclude_unset and "context_window" not in dumped:
            dumped["context_window"] = self._look_up(kept=True)  # events are dumps, before the first request
        return dumped
