"""Where each test's cassette lies: ``cassettes/`` mirrors ``tests/``."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from vllm_adapters.testing.cassette import cassettes

__all__ = ["Library"]

_NAME_LIMIT = 200


class Library:
    """The folder of cassettes and its mirror.

    Args:
        root: the folder of the cassettes.
        sources: folders of tests, the first that holds a test is the one mirrored.
    """

    def __init__(self, root: Path, sources: Sequence[Path]) -> None:
        self.root = root
        self._sources = sources

    def path(self, item: pytest.Item) -> Path:
        """``tests/rag/test_chat.py::TestX::test_y[1]`` -> ``rag/test_chat/TestX.test_y[1].yaml``."""
        classes = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
        name = ".".join([*classes, item.name])
        for character in r"<>?%*:|\"'/":
            name = name.replace(character, "-")
        if len(name.encode()) > _NAME_LIMIT:
            name = f"{name[: _NAME_LIMIT // 4]}...{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return self._folder(item.path) / f"{name}.yaml"

    def orphans(self, owned: Collection[Path], modules: Collection[Path]) -> list[Path]:
        """Cassettes that no test owns: their module is gone, or is among ``modules`` without owning them."""
        folders = {self._folder(module) for module in modules}
        found = []
        for cassette, _ in cassettes(self.root):
            folder = cassette.parent
            gone = not any(self._module(folder, source).is_file() for source in self._sources)
            if cassette not in owned and (gone or folder in folders):
                found.append(cassette)
        return found

    def _folder(self, module: Path) -> Path:
        source = next((source for source in self._sources if module.is_relative_to(source)), None)
        if source is None:
            raise pytest.UsageError(f"{module} lies outside of {self._sources[-1]}: its cassettes have no place")
        return self.root / module.relative_to(source).with_suffix("")

    def _module(self, folder: Path, source: Path) -> Path:
        return (source / folder.relative_to(self.root)).with_suffix(".py")
