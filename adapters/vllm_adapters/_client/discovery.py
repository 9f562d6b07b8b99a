"""Cached server info, and the requests that fill it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from packaging.version import Version

R = TypeVar("R")


@dataclass
class ServerInfo:
    """What is known of one server; asked for at most once, and shared by the clients that talk to it."""

    version: Version | None = None
    version_known: bool = False
    stated: bool = False
    fingerprint: str | None = None
    model: str | None = None
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the server answered, by URL, until there is a reason to ask again."""


Discovery = Generator[str, dict[str, Any], R]
"""Work that needs answers of the server on its way: yields URLs to GET, is sent their JSON, returns ``R``."""


def make_server_info(server_version: str | Version | None, facts: ServerInfo | None) -> ServerInfo:
    """The facts of a server, with the version its user states."""
    if server_version is None:
        return facts or ServerInfo()
    model = facts.model if facts else None
    return ServerInfo(Version(str(server_version)), version_known=True, stated=True, model=model)
