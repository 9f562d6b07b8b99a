"""Plain replies are checked as the SDK's objects are."""

import pytest

from vllm_adapters import VLLMClient
from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters._response.validate import validate_response
from vllm_adapters.errors import ConstraintNotEnforced, InvalidResponse, ServerFailed
from vllm_adapters.testing import faults


def reply(content, **message):
    message = {"role": "assistant", "content": content, **message}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def check(answer, body=None):
    validate_response(answer, body or {}, endpoint="chat")


@pytest.mark.parametrize("answer", [{}, [], {"choices": None}, {"choices": []}, {"choices": ["Paris"]}, "Paris", None])
def test_what_is_no_answer(answer):
    with pytest.raises(InvalidResponse):
        check(answer)


def test_a_broken_constraint():
    asked = {"structured_outputs": {"choice": ["yes", "no"]}}
    check(reply("yes"), asked)
    with pytest.raises(ConstraintNotEnforced):
        check(reply("perhaps"), asked)
    check(reply("", tool_calls=[{"id": "call-1"}]), asked)


def test_the_old_name_of_reasoning():
    answer = reply("Paris", reasoning_content="Hm")
    check(answer)
    assert answer["choices"][0]["message"]["reasoning"] == "Hm"


def test_an_error_in_a_200(fault_server):
    fault_server.reply(faults.json_reply({"error": {"message": "out of memory", "code": 500}}))
    with (
        VLLMClient(fault_server.url, max_retries=0) as client,
        pytest.raises(ServerFailed, match="out of memory") as caught,
    ):
        RawCompletions(client).create(model="stub", messages=[{"role": "user", "content": "Hello"}])
    assert caught.value.status_code == 500
