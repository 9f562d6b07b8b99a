"""Metadata of the package that the build computes: the project's URLs, and a README whose links work elsewhere.

A package index shows the README without the files beside it, so relative links become URLs of the repository. Its
address is set in one place, ``repository`` of ``[tool.hatch.metadata.hooks.custom]`` in ``pyproject.toml``; a fork may
set ``VLLM_ADAPTERS_REPOSITORY`` instead. Without one, links become plain text, and pictures are left out. The address
of the documentation site is ``documentation`` there, or ``VLLM_ADAPTERS_DOCUMENTATION``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|mailto:|#)([^)\s]+)\)")


def absolute_links(text: str, repository: str) -> str:
    """Return Markdown whose relative links lead to the repository, or are plain text if it has no address."""

    def replace(match: re.Match[str]) -> str:
        mark, title, target = match.groups()
        if repository:
            return f"{mark}[{title}]({repository}/{'raw' if mark else 'blob'}/main/{target})"
        return "" if mark else title

    return _LINK.sub(replace, text)


def project_urls(repository: str, documentation: str) -> dict[str, str]:
    """Return the project's URLs by label."""
    if not repository:
        return {"Documentation": documentation} if documentation else {}
    return {
        "Homepage": repository,
        "Documentation": documentation or f"{repository}/blob/main/docs/index.md",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Source": repository,
        "Issues": f"{repository}/issues",
    }


class PackageMetadata(MetadataHookInterface):
    """Hatchling's hook."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set ``readme`` and ``urls``."""
        repository = os.environ.get("VLLM_ADAPTERS_REPOSITORY") or self.config.get("repository", "")
        documentation = os.environ.get("VLLM_ADAPTERS_DOCUMENTATION") or self.config.get("documentation", "")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        readme = absolute_links(text, repository.rstrip("/"))
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}
        metadata["urls"] = project_urls(repository.rstrip("/"), documentation)
