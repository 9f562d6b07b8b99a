import importlib.metadata
import subprocess
import sys

from vllm_adapters.local.patches import repair

# What torchvision's extension.py and the module after it do when the operators do not load.
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


def declared(path):
    program = "import torchvision.extension, torch.library; print(len(torch.library.Library.defined))"
    result = subprocess.run([sys.executable, "-c", program], cwd=path, capture_output=True, text=True, check=True)
    return int(result.stdout)


def test_repairs_are_made_once(tmp_path):
    path = site_packages(tmp_path, loads=False)
    assert len(repair(path, "0.32.0")) == 2
    assert repair(path, "0.32.0") == []


def test_vllm_is_found_under_its_name_as_a_cpu_build(tmp_path):
    repair(tmp_path, "0.32.0")
    found = {d.name: d.version for d in importlib.metadata.distributions(path=[str(tmp_path)])}
    assert found == {"vllm": "0.32.0+cpu"}


def test_a_torchvision_whose_operators_load_is_left_as_it_is(tmp_path):
    path = site_packages(tmp_path, loads=True)
    repair(path, "0.32.0")
    assert declared(path) == 0


def test_a_torchvision_without_operators_gets_their_schemas(tmp_path):
    path = site_packages(tmp_path, loads=False)
    repair(path, "0.32.0")
    assert declared(path) == 2


def test_no_torchvision_is_fine(tmp_path):
    assert len(repair(tmp_path, "0.32.0")) == 1
