"""Instrumentations of the OpenAI SDK: each records of our clients what it records of the SDK's own.

An instrumentation patches the SDK for a whole process, so that each test runs one in a process of its own.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from vllm_adapters.testing import FaultServer, faults

from .conftest import CHAT

PROGRAM = Path(__file__).parent / "instrumented.py"
INSTRUMENTATIONS = {
    "openinference": "openinference.instrumentation.openai",
    "traceloop": "opentelemetry.instrumentation.openai",
    "opentelemetry": "opentelemetry.instrumentation.genai.openai",
    "logfire": "logfire",
    "logfire-client": "logfire",
    "logfire-class": "logfire",
    "langfuse": "langfuse",
    "langsmith": "langsmith.wrappers",
}


def installed(module):
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module", params=INSTRUMENTATIONS)
def recorded(request):
    """What an instrumentation records of each client and reply: ``recorded[client, mode, reply]``."""
    if not installed(INSTRUMENTATIONS[request.param]):
        pytest.skip(f"{INSTRUMENTATIONS[request.param]} is not installed")
    with FaultServer() as whole, FaultServer() as cut, FaultServer() as failing:
        whole.reply(faults.chat("one two three"), CHAT)
        cut.reply(faults.truncate(faults.chat("one two three four five"), after=900), CHAT)
        failing.reply(faults.error(500), CHAT)
        run = subprocess.run(
            [sys.executable, str(PROGRAM), request.param, whole.url, cut.url, failing.url],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert run.returncode == 0, run.stderr
    return {tuple(each["case"]): each for each in json.loads(run.stdout.splitlines()[-1])}


MODES = ["sync", "async"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reply", ["whole", "stream", "tool"])
def test_spans_and_token_counts_are_those_of_the_sdk(recorded, mode, reply):
    ours, stock = recorded["ours", mode, reply], recorded["stock", mode, reply]
    assert ours["result"] == stock["result"] == "one two three"
    assert ours["spans"] == stock["spans"]
    assert ours["spans"]
    assert any(span["tokens"] for span in ours["spans"])


@pytest.mark.parametrize("mode", MODES)
def test_cut_stream_raises_through_it(recorded, mode):
    assert recorded["ours", mode, "cut"]["result"] == "IncompleteStream"


@pytest.mark.parametrize("mode", MODES)
def test_error_is_recorded(recorded, mode):
    ours, stock = recorded["ours", mode, "failing"], recorded["stock", mode, "failing"]
    assert ours["result"] == "ServerFailed"
    assert [span["failed"] for span in ours["spans"]] == [span["failed"] for span in stock["spans"]]
    assert any(span["failed"] for span in ours["spans"])


@pytest.mark.skipif(not installed("langchain_openai"), reason="langchain-openai is not installed")
def test_langchain_streams_under_it(recorded):
    assert recorded["ChatVLLM", "sync", "stream"]["result"] == "one two three"
    assert recorded["ChatVLLM", "sync", "cut"]["result"] == "IncompleteStream"
