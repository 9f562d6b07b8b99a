"""The cassettes of this repository: recorded from a real vLLM, without API keys and traces of a machine."""

from pathlib import Path

from vllm_adapters.testing.cassettes import audit, load

CASSETTES = Path(__file__).parents[2] / "cassettes"


def test_every_cassette_can_be_shared():
    problems = {}
    for path in sorted(CASSETTES.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        found = [*audit(text, ["canary"]), *([] if load(text) else ["no interaction"])]
        if found:
            problems[path.relative_to(CASSETTES).as_posix()] = found
    assert problems == {}


def test_cassettes_are_found():
    assert len(list(CASSETTES.rglob("*.yaml"))) > 500
