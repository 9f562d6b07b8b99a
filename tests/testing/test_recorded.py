"""The cassettes of this repository: each from a real vLLM, none with a key or a trace of the machine."""

from pathlib import Path

import pytest

from vllm_adapters.testing.cassettes import audit, load

ROOT = Path(__file__).parents[2]
CASSETTES = sorted((ROOT / "cassettes").rglob("*.yaml"))


@pytest.mark.parametrize("path", CASSETTES, ids=lambda path: path.relative_to(ROOT / "cassettes").as_posix())
def test_may_be_shared(path):
    text = path.read_text(encoding="utf-8")
    assert audit(text, ["canary"]) == []
    assert load(text)
