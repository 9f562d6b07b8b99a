"""Errors of ``VLLM``: ours, which are openai's too."""

import openai
import pytest

pytest.importorskip("llama_index.llms.openai_like")

from version_marks import grammar_is_accepted

from vllm_adapters import errors as e
from vllm_adapters.testing import faults

recorded = pytest.mark.vllm("tiny")

CAPITAL = "What is the capital of Japan?"


@recorded
@grammar_is_accepted
def test_server_errors(llm):
    with pytest.raises(openai.NotFoundError, match="It serves: tiny"):
        llm.complete(CAPITAL, model="nope")
    with pytest.raises(e.ContextLengthExceeded, match="--max-model-len"):
        llm.complete("word " * 5000)
    for call in (llm.complete, lambda *a, **k: list(llm.stream_complete(*a, **k))):
        with pytest.raises(openai.BadRequestError, match="Invalid grammar"):
            call(CAPITAL, structured_outputs={"grammar": "root ::= ((("})


@pytest.mark.parametrize("method", ["chat", "astream_complete"], indirect=True)
def test_errors_are_openais_and_name_server_and_model(fault_llm, fault_server, method):
    fault_server.reply(faults.error(400, "bad", param="x"))
    with pytest.raises(e.InvalidRequest, match="bad") as caught:
        method(fault_llm)
    assert isinstance(caught.value, openai.BadRequestError)
    assert (caught.value.address, caught.value.model) == (fault_server.url, "stub")


@pytest.mark.parametrize("method", ["chat", "astream_complete"], indirect=True)
def test_ignored_constraint_raises(fault_llm, fault_server, method):
    fault_server.reply(faults.chat("Sure!"))
    with pytest.raises(e.ConstraintNotEnforced):
        method(fault_llm, structured_outputs={"choice": ["yes", "no"]})
