"""What pytest loads in every project where this package is installed: it asks whether this one wants more."""

from __future__ import annotations

from typing import Any

CASSETTES = ("vllm_cassettes", "Folder of the cassettes of tests that talk to a vLLM; switches their plugin on.")


def pytest_addoption(parser: Any) -> None:
    """The one setting."""
    parser.addini(*CASSETTES, default="")


def pytest_load_initial_conftests(early_config: Any) -> None:
    """Load the plugin, before the command line is read in full: it has options.

    Raises:
        pytest.UsageError: It is wanted, but what it needs is not installed.
    """
    if not early_config.getini(CASSETTES[0]):
        return
    import pytest

    from vllm_adapters._optional import require

    try:
        require("pytest_recording", "testing")
    except ImportError as missing:
        raise pytest.UsageError(f"vllm_cassettes is set, but {missing}") from missing
    early_config.pluginmanager.import_plugin("vllm_adapters.testing.plugin")
