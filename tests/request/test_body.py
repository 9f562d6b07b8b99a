"""One flat body from the parameters of constructor, bind and call."""

import pytest
from pydantic import BaseModel

from vllm_adapters import errors as e
from vllm_adapters._request.body import request_body


class City(BaseModel):
    name: str


@pytest.mark.parametrize(
    ("levels", "body"),
    [
        ([{"temperature": 1}, {"temperature": 0}], {"temperature": 0}),
        (
            [{"extra_body": {"temperature": 1, "top_k": 5}}, {"temperature": 0, "top_k": 1}],
            {"temperature": 0, "top_k": 1},
        ),
        ([{"extra_body": {"temperature": 1}}, {"temperature": None}], {}),
        ([{"temperature": 1}, {"extra_body": {"temperature": 0}}], {"temperature": 0}),
        ([{"temperature": 1, "extra_body": {"temperature": 0}}], {"temperature": 0}),
        ([{"max_completion_tokens": 5}, {"max_tokens": 7}], {"max_tokens": 7}),
        ([{"max_tokens": 5}, {"max_completion_tokens": 7}], {"max_tokens": 7}),
        ([{"max_tokens": 5}, {"max_completion_tokens": None}], {}),
        ([{"extra_body": {"max_completion_tokens": 5}}, {"max_tokens": 7}], {"max_tokens": 7}),
        (
            [{"mm_processor_kwargs": {"a": 1}}, {"mm_processor_kwargs": {"b": 2}}],
            {"mm_processor_kwargs": {"a": 1, "b": 2}},
        ),
        (
            [{"mm_processor_kwargs": {"a": 1}}, {"mm_processor_kwargs": None}, {"mm_processor_kwargs": {"b": 2}}],
            {"mm_processor_kwargs": {"b": 2}},
        ),
        (
            [{"structured_outputs": {"choice": ["a"]}}, {"structured_outputs": {"regex": "b"}}],
            {"structured_outputs": {"regex": "b"}},
        ),
        ([{"extra_headers": {"a": "1"}}, {"extra_headers": {"b": "2"}}], {"extra_headers": {"a": "1", "b": "2"}}),
        ([{"plugin": 1, "allow_unknown": True}], {"plugin": 1, "allow_unknown": True}),
    ],
)
def test_higher_level_wins_under_either_name_and_form(levels, body):
    assert request_body(*levels) == body


def test_arguments_are_not_changed():
    low, high = {"chat_template_kwargs": {"a": 1}, "extra_body": {"top_k": 1}}, {"chat_template_kwargs": {"b": 2}}
    request_body(low, high)
    assert low == {"chat_template_kwargs": {"a": 1}, "extra_body": {"top_k": 1}}
    assert high == {"chat_template_kwargs": {"b": 2}}


def test_limits_that_differ_within_a_level_raise():
    with pytest.raises(e.InvalidRequest, match="same parameter"):
        request_body({"max_tokens": 5, "max_completion_tokens": 7})
    assert request_body({"max_tokens": 5, "max_completion_tokens": 5}) == {"max_tokens": 5}


def test_values_are_validated_once_merged():
    with pytest.raises(e.InvalidRequest, match="`top_k`") as caught:
        request_body({"top_k": 5}, {"top_k": -5})
    assert caught.value.param == "top_k"
    assert request_body({"top_k": -5}, {"top_k": 5}) == {"top_k": 5}


def test_extra_body_is_not_validated():
    assert request_body({"extra_body": {"top_k": "all"}}) == {"top_k": "all"}
    with pytest.raises(e.InvalidRequest):
        request_body({"extra_body": {"top_k": "all"}}, {"top_k": "all"})


def test_classes_become_schemas():
    schema = City.model_json_schema()
    assert request_body({"structured_outputs": {"json": City}}) == {"structured_outputs": {"json": schema}}
    form = {"type": "json_schema", "json_schema": {"name": "City", "schema": schema, "strict": True}}
    assert request_body({"response_format": City}) == {"response_format": form}


def test_completions_have_their_own_parameters():
    assert request_body({"echo": True, "top_k": 1}, endpoint="completions") == {"echo": True, "top_k": 1}


@pytest.mark.parametrize("levels", [[{"n": 2, "stream": True}], [{"stream": True}, {"extra_body": {"n": 2}}]])
def test_several_streamed_choices_raise(levels):
    with pytest.raises(e.InvalidRequest, match="`n` must be 1"):
        request_body(*levels)
