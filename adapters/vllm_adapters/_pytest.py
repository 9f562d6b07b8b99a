"""The pytest plugin's entry point: it loads the plugin only in projects that set ``vllm_cassettes``."""

from __future__ import annotations

from typing import Any

CASSETTES = ("vllm_cassettes", "Folder of the cassettes of tests that talk to a vLLM server; it enables their plugin.")


def pytest_addoption(parser: Any) -> None:
    """Add the setting."""
    parser.addini(*CASSETTES, default="")


def pytest_load_initial_conftests(early_config: Any) -> None:
    """Load the plugin before the command line is parsed: it has options.

    Raises:
        pytest.UsageError: The setting is given, but the plugin's dependencies are not installed.
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
