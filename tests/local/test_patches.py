"""Patches of packages in vLLM's environment."""

import importlib.metadata
import subprocess
import sys

from vllm_adapters.local.patches import apply_patches

# The parts of torchvision and torch that the patch uses.
EXTENSION = "import torch\n\n\ndef _has_ops():\n    return {loads}\n"
TORCH = """
class Library:
    defined = []

    def __init__(self, namespace, kind):
        assert (namespace, kind) == ("torchvision", "FRAGMENT")

    def define(self, schema):
        Library.defined.append(schema)
"""


def site_packages(tmp_path, loads):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("from torch import library\n")
    (tmp_path / "torch" / "library.py").write_text(TORCH)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    (tmp_path / "torchvision" / "extension.py").write_text(EXTENSION.format(loads=loads))
    return tmp_path


def count_schemas(path):
    program = "import torchvision.extension, torch.library; print(len(torch.library.Library.defined))"
    result = subprocess.run([sys.executable, "-c", program], cwd=path, capture_output=True, text=True, check=True)
    return int(result.stdout)


def test_patches_are_applied_once(tmp_path):
    path = site_packages(tmp_path, loads=False)
    assert len(apply_patches(path, "0.32.0")) == 2
    assert apply_patches(path, "0.32.0") == []


def test_vllm_is_registered_as_a_cpu_build(tmp_path):
    apply_patches(tmp_path, "0.32.0")
    distributions = {d.name: d.version for d in importlib.metadata.distributions(path=[str(tmp_path)])}
    assert distributions == {"vllm": "0.32.0+cpu"}


def test_torchvision_that_loads_gets_no_schemas(tmp_path):
    path = site_packages(tmp_path, loads=True)
    apply_patches(path, "0.32.0")
    assert count_schemas(path) == 0


def test_torchvision_without_operators_gets_their_schemas(tmp_path):
    path = site_packages(tmp_path, loads=False)
    apply_patches(path, "0.32.0")
    assert count_schemas(path) == 2


def test_environment_without_torchvision(tmp_path):
    assert len(apply_patches(tmp_path, "0.32.0")) == 1


def test_memory_is_pinned_only_beside_a_gpu(tmp_path):
    module = tmp_path / "vllm" / "v1" / "structured_output" / "utils.py"
    module.parent.mkdir(parents=True)
    module.write_text('x = torch.tensor(\n    indices, dtype=torch.int32, device="cpu", pin_memory=True\n)\n')
    assert "let vLLM pin memory only where there is a GPU" in apply_patches(tmp_path, "0.14.1")
    assert "pin_memory=torch.cuda.is_available()" in module.read_text()
    assert apply_patches(tmp_path, "0.14.1") == []
