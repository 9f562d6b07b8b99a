"""Import optional dependencies, or raise an error with the pip command."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or raise an error that names the extra of this package that installs it.

    Args:
        module: Dotted name to import, e.g. ``"langchain_openai"``.
        extra: The extra that installs it, e.g. ``"langchain"``.

    Raises:
        ImportError: ``module`` is not installed. A broken installation keeps its own error.
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
    """Return whether ``module``, a dotted name, can be imported. Its parent packages are imported, it is not."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package
        return False
