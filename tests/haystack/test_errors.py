"""Errors of a real server, as each way to run a chat generator raises them.

What comes of the faults of servers and networks is held for every component by the fault matrix in tests/contracts.
"""

import openai
import pytest
from version_marks import grammar_is_accepted

from vllm_adapters import errors as e

CAPITAL = "What is the capital of Japan?"


@pytest.mark.vllm("tiny")
@grammar_is_accepted
def test_errors_of_a_server(llm, run):
    with pytest.raises(e.ModelNotServed, match="It serves: tiny"):
        run(llm, CAPITAL, generation_kwargs={"model": "nope"})
    with pytest.raises(e.ContextLengthExceeded, match="--max-model-len"):
        run(llm, "word " * 5000)
    with pytest.raises(e.InvalidRequest, match="Invalid grammar") as caught:
        run(llm, CAPITAL, generation_kwargs={"structured_outputs": {"grammar": "root ::= ((("}})
    assert isinstance(caught.value, openai.BadRequestError)
