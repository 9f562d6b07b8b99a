"""The live servers of a test run: one per kind, started on first use, stopped after its last test."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from vllm_adapters.errors import LocalVLLMError, ServerUnreachable
from vllm_adapters.testing.cassettes import Origin

__all__ = ["Kind", "NoServer", "Running", "Servers", "launch_local"]

_ADDRESS_OF = {
    "tiny": "VLLM_BASE_URL",
    "minilm": "VLLM_EMBED_BASE_URL",
    "cross-encoder": "VLLM_RERANK_BASE_URL",
}
_SECRET_OPTIONS = ("api_key",)


class NoServer(Exception):
    """This run cannot have the server that a test needs; the test is skipped."""


class Running(Protocol):
    """A server that was started: what `vllm_adapters.local.LocalVLLM` is."""

    @property
    def base_url(self) -> str:
        """Where it listens."""

    def stop(self) -> None:
        """Stop it."""


@dataclass(frozen=True)
class Kind:
    """What a test wants of its server: ``@pytest.mark.vllm("tiny", lora=True)``.

    Attributes:
        model: one of the bundled models.
        options: what else goes to `LocalVLLM`.
    """

    model: str = "tiny"
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)
    _identity: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_identity", repr(sorted(self.options.items())))

    def __str__(self) -> str:
        shown = {n: "***" if n in _SECRET_OPTIONS else repr(v) for n, v in sorted(self.options.items())}
        return " ".join([self.model, *(f"{name}={value}" for name, value in shown.items())])


def launch_local(kind: Kind) -> Running:
    """Start a `LocalVLLM` of that kind.

    Raises:
        LocalVLLMError: it cannot be set up here, or did not start.
    """
    from vllm_adapters.local import LocalVLLM

    local = LocalVLLM(kind.model, quiet=True, **kind.options)
    local.start()
    return local


class Servers:
    """Hands out the address for each kind.

    Args:
        environ: where ``VLLM_BASE_URL`` (for ``tiny``), ``VLLM_EMBED_BASE_URL`` (for ``minilm``),
            ``VLLM_RERANK_BASE_URL`` (for ``cross-encoder``) and ``VLLM_API_KEY`` may be given. A kind with
            options, or without a given address, is started here.
        launch: starts a server.
    """

    def __init__(self, environ: Mapping[str, str], launch: Callable[[Kind], Running] = launch_local) -> None:
        self._environ = dict(environ)
        self._launch = launch
        self._running: dict[Kind, Running] = {}
        self._origins: dict[Kind, Origin] = {}
        self._failed: dict[Kind, LocalVLLMError] = {}

    def given(self, kind: Kind) -> str | None:
        """The address in the environment for this kind, if it may be used."""
        return None if kind.options else self._environ.get(_ADDRESS_OF.get(kind.model, "")) or None

    def api_key(self, kind: Kind) -> str | None:
        """The key for a server given in the environment; a local one needs none unless its options say so."""
        return self._environ.get("VLLM_API_KEY") if self.given(kind) else None

    def origin(self, kind: Kind) -> Origin:
        """The server for this kind, started if need be.

        Raises:
            NoServer: ``VLLM_BASE_URL`` is given, this kind is not that server, and none can be started here.
            LocalVLLMError: none can be started here; tried once per kind.
            ServerUnreachable: nothing answers at the address that is given.
        """
        if kind not in self._origins:
            self._origins[kind] = self._probe(kind, self.given(kind) or self._start(kind))
        return self._origins[kind]

    def retire(self, kind: Kind) -> None:
        """Stop the server of this kind, if it was started here."""
        running = self._running.pop(kind, None)
        if running is not None:
            del self._origins[kind]
            running.stop()

    def close(self) -> None:
        """Stop them all."""
        for kind in list(self._running):
            self.retire(kind)

    def _start(self, kind: Kind) -> str:
        if kind in self._failed:
            raise self._failed[kind]
        try:
            running = self._launch(kind)
        except LocalVLLMError as error:
            self._failed[kind] = error
            if self._environ.get("VLLM_BASE_URL"):
                raise NoServer(f"VLLM_BASE_URL is not a {kind} server, and here: {error}") from error
            raise
        self._running[kind] = running
        return running.base_url

    def _probe(self, kind: Kind, url: str) -> Origin:
        """What the server says about itself, asked outside of any cassette."""
        url = url.rstrip("/")
        url = url if url.endswith("/v1") else f"{url}/v1"
        key = self.api_key(kind) or kind.options.get("api_key")
        version = _get(url.removesuffix("/v1") + "/version", key).get("version")
        cards = _get(f"{url}/models", key).get("data", [])
        # A card's root is the folder the model was loaded from: it is written down as the served name.
        names = {c["root"]: c["id"] for c in cards if str(c.get("root", "")).startswith("/")}
        names[url.removesuffix("/v1")] = "http://localhost:8000"
        names[urlsplit(url).netloc] = "localhost:8000"
        if key:
            names[key] = "<key>"
        return Origin(url, version, str(kind), names)


def _get(url: str, key: str | None) -> dict[str, Any]:
    """A JSON object from a server; empty if it has none there (a gateway without ``/version``).

    Raises:
        ServerUnreachable: nothing answers.
    """
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})  # noqa: S310
    # No proxies: the address was given for this run, and a proxy cannot reach a server on loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            found = json.load(response)
    except (urllib.error.HTTPError, ValueError):
        return {}
    except OSError as error:
        hint = "Start it, or unset its variable: then one is started here"
        raise ServerUnreachable(f"No answer from the server: {error}", hint=hint, address=url) from error
    return found if isinstance(found, dict) else {}
