"""Parameters of several levels, given flat, in the two parts in which the SDK takes them."""

import pytest

from vllm_adapters import errors as e
from vllm_adapters import params
from vllm_adapters._request.body import sdk_and_body


def test_flat_parameters_in_two():
    given = {"temperature": 0, "top_k": 5, "chat_template_kwargs": {"a": 1}, "allow_unknown": True}
    sdk, body = sdk_and_body({**given, "extra_body": {"plugin": 1, "chat_template_kwargs": {"b": 2}}})
    assert sdk == {"temperature": 0}
    assert body == {"top_k": 5, "chat_template_kwargs": {"a": 1, "b": 2}, "plugin": 1, "allow_unknown": True}
    with pytest.raises(e.UnknownParameter, match="Did you mean `top_k`"):
        sdk_and_body({"topk": 5})
    assert sdk_and_body({"top_k": None, "seed": None}) == ({"seed": None}, {"top_k": None})
    sdk, body = sdk_and_body({"echo": True, "top_k": 1}, model=params.CompletionParams, endpoint="completions")
    assert (sdk, body) == ({"echo": True}, {"top_k": 1})


@pytest.mark.parametrize(
    ("weaker", "stronger", "sdk", "body"),
    [
        ({"temperature": 1}, {"temperature": 0}, {"temperature": 0}, {}),
        (
            {"extra_body": {"temperature": 1, "top_k": 5}},
            {"temperature": 0, "top_k": 1},
            {"temperature": 0},
            {"top_k": 1},
        ),
        ({"extra_body": {"temperature": 1}}, {"temperature": None}, {"temperature": None}, {}),
        ({"temperature": 1}, {"extra_body": {"temperature": 0}}, {"temperature": 1}, {"temperature": 0}),
        ({"max_completion_tokens": 5}, {"max_tokens": 7}, {"max_tokens": 7}, {}),
        ({"max_tokens": 5}, {"max_completion_tokens": 7}, {"max_tokens": 7}, {}),
        ({"max_tokens": 5}, {"max_completion_tokens": None}, {"max_tokens": None}, {}),
        ({"extra_body": {"max_completion_tokens": 5}}, {"max_tokens": 7}, {"max_tokens": 7}, {}),
        (
            {"mm_processor_kwargs": {"a": 1}},
            {"mm_processor_kwargs": {"b": 2}},
            {},
            {"mm_processor_kwargs": {"a": 1, "b": 2}},
        ),
    ],
)
def test_the_stronger_level_wins_under_whatever_name_and_in_whichever_part(weaker, stronger, sdk, body):
    assert sdk_and_body(weaker, stronger) == (sdk, body)


def test_one_limit_with_two_values():
    with pytest.raises(e.InvalidRequest, match="same parameter"):
        sdk_and_body({"max_tokens": 5, "max_completion_tokens": 7})
    assert sdk_and_body({"max_tokens": 5, "max_completion_tokens": 5}) == ({"max_tokens": 5}, {})
