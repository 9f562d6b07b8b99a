"""The live servers of a test run: one per specification, started on first use, stopped after its last test."""

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

__all__ = ["RunningServer", "ServerNotAvailable", "ServerSpec", "Servers", "launch_local"]

_URL_VARIABLES = {
    "tiny": "VLLM_BASE_URL",
    "minilm": "VLLM_EMBED_BASE_URL",
    "cross-encoder": "VLLM_RERANK_BASE_URL",
}
_SECRET_OPTIONS = ("api_key",)


class ServerNotAvailable(Exception):
    """This run has no server for a test; the test is skipped."""


class RunningServer(Protocol):
    """A server that was started, such as a ``LocalVLLM``."""

    @property
    def base_url(self) -> str:
        """The server's address."""

    def stop(self) -> None:
        """Stop the server."""


@dataclass(frozen=True)
class ServerSpec:
    """The server that a test needs: ``@pytest.mark.vllm("tiny", lora=True)``.

    Attributes:
        model: The model to serve.
        options: Further options of ``LocalVLLM``.
    """

    model: str = "tiny"
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)
    _options_key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_options_key", repr(sorted(self.options.items())))

    def __str__(self) -> str:
        options = {n: "***" if n in _SECRET_OPTIONS else repr(v) for n, v in sorted(self.options.items())}
        return " ".join([self.model, *(f"{name}={value}" for name, value in options.items())])


def launch_local(spec: ServerSpec) -> RunningServer:
    """Start a ``LocalVLLM``.

    Raises:
        LocalVLLMError: It cannot be installed on this machine, or did not start.
    """
    from vllm_adapters.local import LocalVLLM

    local = LocalVLLM(spec.model, quiet=True, **spec.options)
    local.start()
    return local


class Servers:
    """The servers of a test run.

    Args:
        environ: May hold the addresses ``VLLM_BASE_URL`` (for ``tiny``), ``VLLM_EMBED_BASE_URL`` (for ``minilm``) and
            ``VLLM_RERANK_BASE_URL`` (for ``cross-encoder``), and ``VLLM_API_KEY``. A server with options, or without
            an address, is started on this machine.
        launch: Starts a server.
        version: Version of the servers that are started here. Default: that of ``LocalVLLM``.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        launch: Callable[[ServerSpec], RunningServer] = launch_local,
        *,
        version: str | None = None,
    ) -> None:
        self._environ = dict(environ)
        self._version = version
        self._launch = launch
        self._running: dict[ServerSpec, RunningServer] = {}
        self._origins: dict[ServerSpec, Origin] = {}
        self._failed: dict[ServerSpec, LocalVLLMError] = {}

    def configured_url(self, spec: ServerSpec) -> str | None:
        """Return the address in the environment; ``None`` if there is none, or if the server has options."""
        return None if spec.options else self._environ.get(_URL_VARIABLES.get(spec.model, "")) or None

    def chosen_version(self, spec: ServerSpec) -> str | None:
        """Return the version with which a server would be started here; ``None`` if its address is given.

        Without a choice it is that of ``LocalVLLM``.
        """
        if self.configured_url(spec):
            return None
        from vllm_adapters.local.server import DEFAULT_VERSION

        return str(spec.options.get("version") or self._version or DEFAULT_VERSION)

    def api_key(self, spec: ServerSpec) -> str | None:
        """Return the API key of a server whose address is in the environment."""
        return self._environ.get("VLLM_API_KEY") if self.configured_url(spec) else None

    def origin(self, spec: ServerSpec) -> Origin:
        """Return the server, started if necessary.

        Raises:
            ServerNotAvailable: ``VLLM_BASE_URL`` is set but is another server, and none can be started here.
            LocalVLLMError: No server can be started here. This is tried once per specification.
            ServerUnreachable: The server at the address in the environment does not respond.
        """
        if spec not in self._origins:
            self._origins[spec] = self._probe(spec, self.configured_url(spec) or self._start(spec))
        return self._origins[spec]

    def stop(self, spec: ServerSpec) -> None:
        """Stop the server, if it was started here."""
        running = self._running.pop(spec, None)
        if running is not None:
            del self._origins[spec]
            running.stop()

    def close(self) -> None:
        """Stop all servers that were started here."""
        for spec in list(self._running):
            self.stop(spec)

    def _start(self, spec: ServerSpec) -> str:
        if spec in self._failed:
            raise self._failed[spec]
        try:
            running = self._launch(self._with_version(spec))
        except LocalVLLMError as error:
            self._failed[spec] = error
            if self._environ.get("VLLM_BASE_URL"):
                raise ServerNotAvailable(
                    f"VLLM_BASE_URL does not serve {spec}, and a local server cannot be started: {error}"
                ) from error
            raise
        self._running[spec] = running
        return running.base_url

    def _with_version(self, spec: ServerSpec) -> ServerSpec:
        if self._version is None or "version" in spec.options:
            return spec
        return ServerSpec(spec.model, {**spec.options, "version": self._version})

    def _probe(self, spec: ServerSpec, url: str) -> Origin:
        """Ask the server for its version and models; these requests are not recorded."""
        url = url.rstrip("/")
        url = url if url.endswith("/v1") else f"{url}/v1"
        key = self.api_key(spec) or spec.options.get("api_key")
        version = _get_json(url.removesuffix("/v1") + "/version", key).get("version")
        cards = _get_json(f"{url}/models", key).get("data", [])
        # A card's root is the folder that the model was loaded from; the served name is recorded instead.
        replacements = {c["root"]: c["id"] for c in cards if str(c.get("root", "")).startswith("/")}
        replacements[url.removesuffix("/v1")] = "http://localhost:8000"
        replacements[urlsplit(url).netloc] = "localhost:8000"
        if key:
            replacements[key] = "<key>"
        return Origin(url, version, str(spec), replacements)


def _get_json(url: str, key: str | None) -> dict[str, Any]:
    """Return the JSON object at ``url``; empty if there is none, as on a gateway without ``/version``.

    Raises:
        ServerUnreachable: The server does not respond.
    """
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})  # noqa: S310
    # No proxies: the address was configured for this run, and a proxy cannot reach a server on loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            body = json.load(response)
    except (urllib.error.HTTPError, ValueError):
        return {}
    except OSError as error:
        hint = "Start it, or unset its variable to start a local server"
        raise ServerUnreachable(f"The server did not respond: {error}", hint=hint, address=url) from error
    return body if isinstance(body, dict) else {}
