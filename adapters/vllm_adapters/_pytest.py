"""The pytest entry point of the package: it loads the plugin only in projects that enable it."""

from __future__ import annotations

from typing import Any

CASSETTES = ("vllm_cassettes", "Folder of the cassettes of tests that talk to vLLM; enables the plugin.")


def pytest_addoption(parser: Any) -> None:
    """Add the ini option that enables the plugin."""
    parser.addini(*CASSETTES, default="")


def pytest_load_initial_conftests(early_config: Any) -> None:
    """Load the plugin if it is enabled, before its command line options are parsed.

    Raises:
        pytest.UsageError: The plugin is enabled, but a package that it needs is not installed.
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
