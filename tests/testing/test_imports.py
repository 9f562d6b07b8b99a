"""What users import from ``vllm_adapters.testing`` loads the standard library only."""

import subprocess
import sys


def test_importing_the_package_loads_the_standard_library_only():
    code = (
        "import sys, vllm_adapters.testing; print([name for name in "
        "('openai', 'httpx', 'httpx2', 'pytest', 'vcr', 'yaml', 'langchain_core', 'llama_index', 'haystack') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
