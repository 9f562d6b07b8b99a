"""One clear line, with the pip command, when an optional dependency is missing."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or say which extra of this package brings it.

    Args:
        module: Dotted name to import, e.g. ``"langchain_openai"``.
        extra: The extra that installs it, e.g. ``"langchain"``.

    Raises:
        ImportError: ``module`` is not installed. (A broken install of it keeps its own error.)
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] != module.split(".")[0]:
            raise
        raise ImportError(
            f"{module.split('.')[0]} is not installed: pip install 'vllm-adapters[{extra}]'",
            name=missing.name,
        ) from None


def is_installed(module: str) -> bool:
    """Whether ``module``, a dotted name, could be imported. Packages above it are loaded, it is not."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False
