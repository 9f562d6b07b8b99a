"""Parameters of constructor, bind and call are merged into one flat body."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from vllm_adapters import errors as e
from vllm_adapters._request.body import deep_merge, drop_none, request_body


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
        ([{"temperature": 1, "extra_body": None}], {"temperature": 1}),
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
        ([{"extra_headers": {"a": "1"}}, {"extra_headers": {"b": "2"}}], {"extra_headers": {"a": "1", "b": "2"}}),
        ([{"timeout": 5}, {"timeout": 7}], {"timeout": 7}),
        ([{"plugin": 1, "allow_unknown": True}], {"plugin": 1, "allow_unknown": True}),
        ([], {}),
    ],
)
def test_higher_level_wins_under_either_name_and_form(levels, body):
    assert request_body(*levels) == body


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("structured_outputs", {"choice": ["a"]}, {"regex": "b"}),
        ("response_format", {"type": "json_object"}, {"type": "text", "strict": False}),
        ("repetition_detection", {"min_count": 2}, {"max_pattern_size": 3}),
        ("tool_choice", {"type": "function", "function": {"name": "a"}}, {"type": "allowed_tools"}),
    ],
)
def test_dicts_that_state_one_thing_are_replaced(name, low, high):
    assert request_body({name: low}, {name: high}) == {name: high}


def test_request_body_does_not_change_its_arguments():
    low, high = {"chat_template_kwargs": {"a": 1}, "extra_body": {"top_k": 1}}, {"chat_template_kwargs": {"b": 2}}
    request_body(low, high)
    assert low == {"chat_template_kwargs": {"a": 1}, "extra_body": {"top_k": 1}}
    assert high == {"chat_template_kwargs": {"b": 2}}


@pytest.mark.parametrize("in_extra_body", [False, True])
def test_different_limits_within_a_level_raise(in_extra_body):
    def level(**limits):
        return {"extra_body": limits} if in_extra_body else limits

    with pytest.raises(e.InvalidRequest, match="`max_completion_tokens` and `max_tokens` are the same parameter"):
        request_body(level(max_tokens=5, max_completion_tokens=7))
    assert request_body(level(max_tokens=5, max_completion_tokens=5)) == {"max_tokens": 5}


def test_values_are_validated_after_merging():
    with pytest.raises(e.InvalidRequest, match="`top_k`") as caught:
        request_body({"top_k": 5}, {"top_k": -5})
    assert caught.value.param == "top_k"
    assert request_body({"top_k": -5}, {"top_k": 5}) == {"top_k": 5}


def test_extra_body_is_not_validated():
    assert request_body({"extra_body": {"top_k": "all"}}) == {"top_k": "all"}
    with pytest.raises(e.InvalidRequest, match="`top_k` is invalid"):
        request_body({"extra_body": {"top_k": "all"}}, {"top_k": "all"})


def test_pydantic_classes_become_schemas():
    schema = City.model_json_schema()
    assert request_body({"structured_outputs": {"json": City}}) == {"structured_outputs": {"json": schema}}
    form = {"type": "json_schema", "json_schema": {"name": "City", "schema": schema, "strict": True}}
    assert request_body({"response_format": City}) == {"response_format": form}


def test_parameters_are_validated_for_their_endpoint():
    assert request_body({"echo": True, "top_k": 1}, endpoint="completions") == {"echo": True, "top_k": 1}
    with pytest.raises(e.InvalidRequest, match="`prompt_embeds` is invalid"):
        request_body({"prompt_embeds": 5}, endpoint="completions")
    assert request_body({"prompt_embeds": 5}, endpoint="chat") == {"prompt_embeds": 5}  # rejected by the client


@pytest.mark.parametrize("levels", [[{"n": 2, "stream": True}], [{"stream": True}, {"extra_body": {"n": 2}}]])
def test_several_streamed_choices_raise(levels):
    with pytest.raises(e.InvalidRequest, match="`n` must be 1 when streaming") as caught:
        request_body(*levels)
    assert caught.value.param == "n"
    assert request_body({"n": 1, "stream": True}) == {"n": 1, "stream": True}


# deep_merge and drop_none


@pytest.mark.parametrize(
    ("levels", "result"),
    [
        (({"a": 1}, {"a": 2}), {"a": 2}),
        (({"d": {"x": 1, "y": {"p": 1}}}, {"d": {"y": {"q": 2}}}), {"d": {"x": 1, "y": {"p": 1, "q": 2}}}),
        (
            ({"structured_outputs": {"choice": ["a"]}}, {"structured_outputs": {"regex": "b"}}),
            {"structured_outputs": {"regex": "b"}},
        ),
        ((None, {"a": 1}, None, {"a": None}), {"a": None}),
        (({"d": {"x": 1}}, {"d": 5}), {"d": 5}),
    ],
)
def test_deep_merge(levels, result):
    assert deep_merge(*levels) == result


def test_deep_merge_does_not_change_its_arguments():
    low, high = {"d": {"x": 1}}, {"d": {"y": 2}}
    deep_merge(low, high)["d"]["z"] = 3
    assert (low, high) == ({"d": {"x": 1}}, {"d": {"y": 2}})


def test_none_between_two_dicts_replaces_the_lower_one():
    bound = deep_merge({"chat_template_kwargs": None}, {"chat_template_kwargs": {"b": 2}})
    assert deep_merge({"chat_template_kwargs": {"a": 1}}, bound) == {"chat_template_kwargs": {"b": 2}}


def test_drop_none_keeps_nested_none_and_zero():
    assert drop_none({"top_k": None, "min_p": 0, "a": {"b": None}}) == {"min_p": 0, "a": {"b": None}}


NAMES = st.sampled_from(["a", "b", "structured_outputs", "chat_template_kwargs"])
LEAVES = st.none() | st.integers(0, 3)
LEVELS = st.dictionaries(
    NAMES, st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=6), max_size=4
)


@given(LEVELS, LEVELS, LEVELS)
def test_deep_merge_is_associative(low, middle, high):
    at_once = deep_merge(low, middle, high)
    assert deep_merge(deep_merge(low, middle), high) == at_once
    assert deep_merge(low, deep_merge(middle, high)) == at_once


@given(LEVELS, LEVELS)
def test_deep_merge_keeps_every_value_of_the_higher_level(low, high):
    before = json.dumps([low, high])
    result = deep_merge(low, high)
    assert json.dumps([low, high]) == before

    def assert_kept(result, level):
        for name, value in level.items():
            if isinstance(value, dict) and name not in ("structured_outputs",):
                assert_kept(result[name], value)
            else:
                assert result[name] == value

    assert_kept(result, high)
    assert result.keys() == low.keys() | high.keys()
