"""Cached server info: what the clients know of their server, and the look-ups that fill it in.

A look-up is written once, as a generator that yields URLs to GET and receives their JSON; ``run_plan`` and
``arun_plan`` run it with the sync or the async client.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

from packaging.version import InvalidVersion, Version

from vllm_adapters._request.compat import parse_version
from vllm_adapters.errors import (
    ModelNotServed,
    RateLimited,
    ServerNotReady,
    ServerTimeout,
    ServerUnreachable,
    VLLMError,
    WrongAddress,
)

log = logging.getLogger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R")

Plan: TypeAlias = Generator[Q, A, R]
"""Work that needs the answers ``A`` to requests ``Q`` on its way to a result ``R``."""

LookUp: TypeAlias = Generator[str, dict[str, Any], R]
"""A plan that yields URLs to GET and receives their JSON."""

_TASK_ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/rerank",
    "/score",
    "/classify",
    "/pooling",
    "/v1/audio/transcriptions",
)


def run_plan(plan: Plan[Q, A, R], send: Callable[[Q], A]) -> R:
    """Run a plan: send each request, and give the plan its response or its error."""
    try:
        request = next(plan)
        while True:
            try:
                response = send(request)
            except VLLMError as error:
                request = plan.throw(error)
            else:
                request = plan.send(response)
    except StopIteration as end:
        return cast(R, end.value)


async def arun_plan(plan: Plan[Q, A, R], send: Callable[[Q], Awaitable[A]]) -> R:
    """Async version of ``run_plan``."""
    try:
        request = next(plan)
        while True:
            try:
                response = await send(request)
            except VLLMError as error:
                request = plan.throw(error)
            else:
                request = plan.send(response)
    except StopIteration as end:
        return cast(R, end.value)


@dataclass
class ServerInfo:
    """What is known of one server. It is looked up at most once, and shared by the clients of the server.

    Args:
        address: The server's base URL, ending in ``/v1``.
        version: vLLM version, if known.
        version_known: Whether ``version`` has been looked up; it stays ``None`` behind a gateway.
        version_given: Whether the user gave the version.
        fingerprint: The last ``system_fingerprint``, which tells that the server was replaced.
        model: The one base model that is served, if known.
        responses: The JSON of look-ups, by URL, until there is a reason to repeat them.
        merge_system: Whether the model's chat template has refused a system message that was not the first.
        needs_rerank_v2: Whether a gateway breaks the other routes for reranking.
    """

    address: str
    version: Version | None = None
    version_known: bool = False
    version_given: bool = False
    fingerprint: str | None = None
    model: str | None = None
    responses: dict[str, dict[str, Any]] = field(default_factory=dict)
    merge_system: bool = False
    needs_rerank_v2: bool = False

    @classmethod
    def of(cls, address: str, version: str | Version | None, shared: ServerInfo | None) -> ServerInfo:
        """Return the info of a server, with the version its user gives, if any."""
        if version is None:
            return shared or cls(address)
        model = shared.model if shared else None
        try:
            given = Version(str(version))
        except InvalidVersion:
            raise ValueError(
                f"`server_version` must be a version of vLLM such as '0.32.0', not {str(version)!r}. "
                "Leave it out to ask the server."
            ) from None
        return cls(address, given, version_known=True, version_given=True, model=model)

    def unknown(self) -> ServerInfo:
        """Return the info of a server at the same address that may be another one."""
        return ServerInfo.of(self.address, self.version if self.version_given else None, None)

    @property
    def root(self) -> str:
        """The server's root, which has ``/version``, ``/health`` and ``/tokenize``."""
        return self.address.removesuffix("/v1")

    def look_up_models(self) -> LookUp[dict[str, Any]]:
        """Return the JSON of ``/v1/models``, which the client keeps."""
        return (yield f"{self.address}/models")

    def look_up_model(self) -> LookUp[str]:
        """Return the name of the one base model that is served."""
        model = self.model  # another thread may reset it meanwhile
        if model is None:
            cards = _cards((yield f"{self.address}/models"))
            base = [card for card in cards if not card.get("parent")]
            # Each alias of --served-model-name has a card of its own, with the same root.
            if len({card.get("root") or card.get("id") for card in base}) != 1:
                self.responses.clear()  # a router may not know its servers yet
                served = tuple(str(card.get("id")) for card in cards)
                raise ModelNotServed(
                    "No model was given, and the server does not serve exactly one base model",
                    hint=f"Pass model=: {', '.join(served) or 'it serves none'}",
                    served=served,
                )
            model = self.model = str(base[0]["id"])
        return model

    def look_up_version(self) -> LookUp[Version | None]:
        """Return the server's version; ``None`` behind a gateway without ``/version``, which means the newest."""
        if not self.version_known:
            try:
                self.version = parse_version(str((yield f"{self.root}/version").get("version")))
            except (ServerUnreachable, ServerTimeout):
                raise
            except VLLMError as error:  # of a gateway: the call itself may well succeed
                log.debug("The server's version is unknown: %s", error)
                self.version = self._fingerprint_version()
                if isinstance(error, ServerNotReady | RateLimited):
                    return self.version  # ask again next time
            self.version_known = True
        return self.version

    def explain(self, error: VLLMError) -> LookUp[VLLMError]:
        """Add to an error what the server can tell: the models it serves, the routes it has."""
        if isinstance(error, ModelNotServed):
            self.model = None  # it may have been replaced: look it up next time
            self.responses.clear()
            if not error.served and error.status_code == 404:
                error.served = tuple(str(card.get("id")) for card in _cards((yield f"{self.address}/models")))
                if error.served:
                    error.replace_hint(f"It serves: {', '.join(error.served)}")
        elif type(error) is WrongAddress and error.status_code == 404:
            version = (yield f"{self.root}/version").get("version")
            paths = (yield f"{self.root}/openapi.json").get("paths")
            routes = [path for path in _TASK_ROUTES if isinstance(paths, Mapping) and path in paths]
            if version and routes:
                error.replace_hint(
                    "The served model does not have this task, or the route is disabled; "
                    f"this vLLM {version} has {', '.join(routes)}"
                )
        return error

    def update(self, fingerprint: object) -> None:
        """Note a response's ``system_fingerprint``: it has the version, and another one means another server."""
        if self.version_given or fingerprint == self.fingerprint or not isinstance(fingerprint, str):
            return
        if self.fingerprint is not None:
            self.version_known = self.merge_system = False
            self.responses.clear()
        self.fingerprint = fingerprint
        if self.version is None:
            self.version = self._fingerprint_version()

    def _fingerprint_version(self) -> Version | None:
        fingerprint = self.fingerprint or ""
        return parse_version(fingerprint) if fingerprint.startswith("vllm-") else None


def _cards(response: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the model cards of ``/v1/models``; a gateway's may have any shape."""
    cards = response.get("data")
    return [card for card in cards if isinstance(card, Mapping) and card.get("id")] if isinstance(cards, list) else []
