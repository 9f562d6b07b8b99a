"""The package's page on an index: its URLs, and a README whose links work without the files beside it."""

import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://example.org/org/vllm-adapters"


@pytest.fixture
def package_metadata(monkeypatch):
    """The build's hook, with a stand-in for hatchling, which only builds have."""
    interface = types.ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = object
    for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("package_metadata", ROOT / "scripts" / "package_metadata.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("VLLM_ADAPTERS_REPOSITORY", raising=False)
    monkeypatch.delenv("VLLM_ADAPTERS_DOCUMENTATION", raising=False)
    return module


def computed(package_metadata, repository):
    hook = package_metadata.PackageMetadata()
    hook.root, hook.config = str(ROOT), {"repository": repository}
    metadata = {}
    hook.update(metadata)
    return metadata


def test_links_of_the_page_lead_to_files_of_the_repository(package_metadata):
    metadata = computed(package_metadata, f"{REPOSITORY}/")
    targets = re.findall(r"\]\(([^)]+)\)", metadata["readme"]["text"])
    assert len(targets) > 10
    assert f"{REPOSITORY}/raw/main/docs/images/demo.svg" in targets
    for target in [*targets, *metadata["urls"].values()]:
        path = re.sub(rf"^{REPOSITORY}/(?:blob|raw)/main/", "", target)
        assert (ROOT / path).is_file() or target in (REPOSITORY, f"{REPOSITORY}/issues"), target
    assert metadata["urls"].keys() >= {"Homepage", "Documentation", "Changelog", "Source", "Issues"}


def test_the_environment_takes_precedence(package_metadata, monkeypatch):
    monkeypatch.setenv("VLLM_ADAPTERS_REPOSITORY", "https://fork.example")
    assert computed(package_metadata, REPOSITORY)["urls"]["Source"] == "https://fork.example"


def test_the_site_is_the_documentation(package_metadata, monkeypatch):
    monkeypatch.setenv("VLLM_ADAPTERS_DOCUMENTATION", "https://docs.example")
    assert computed(package_metadata, REPOSITORY)["urls"]["Documentation"] == "https://docs.example"
    assert computed(package_metadata, "")["urls"] == {"Documentation": "https://docs.example"}


def test_without_a_repository_no_link_is_broken(package_metadata):
    metadata = computed(package_metadata, "")
    text = metadata["readme"]["text"]
    assert not re.search(r"\]\((?!https?://)", text)
    assert "Contributing · Changelog · Apache-2.0" in text
    assert metadata["urls"] == {}
