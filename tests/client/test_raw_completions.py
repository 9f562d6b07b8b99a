"""Plain replies are checked as the SDK's objects are."""

import pytest

from vllm_adapters._compat import http
from vllm_adapters._response.error_mapping import RequestContext
from vllm_adapters._response.validate import validate_response
from vllm_adapters.errors import ConstraintNotEnforced, InvalidResponse, VLLMError

CALL = RequestContext("http://gpu:8000/v1", "/v1/chat/completions", "tiny")
RESPONSE = http.Response(200, json={}, request=http.Request("POST", "http://gpu:8000/v1/chat/completions"))


def reply(content, **message):
    message = {"role": "assistant", "content": content, **message}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def check(answer, body=None):
    validate_response(answer, body or {}, call=CALL, response=RESPONSE)


@pytest.mark.parametrize("answer", [{}, [], {"choices": None}, {"choices": []}, {"choices": ["Paris"]}, "Paris", None])
def test_what_is_no_answer(answer):
    with pytest.raises(InvalidResponse):
        check(answer)


def test_an_error_in_a_200():
    with pytest.raises(VLLMError, match="out of memory"):
        check({"error": {"message": "out of memory", "code": 500}})


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
