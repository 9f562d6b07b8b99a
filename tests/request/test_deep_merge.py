import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_adapters._request.body import deep_merge, drop_none


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


def test_arguments_are_not_changed():
    low, high = {"d": {"x": 1}}, {"d": {"y": 2}}
    deep_merge(low, high)["d"]["z"] = 3
    assert (low, high) == ({"d": {"x": 1}}, {"d": {"y": 2}})


def test_drop_none():
    assert drop_none({"top_k": None, "min_p": 0, "a": {"b": None}}) == {"min_p": 0, "a": {"b": None}}


NAMES = st.sampled_from(["a", "b", "structured_outputs", "chat_template_kwargs"])
LEAVES = st.none() | st.integers(0, 3)
LEVELS = st.dictionaries(
    NAMES, st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=6), max_size=4
)


@given(LEVELS, LEVELS, LEVELS)
def test_merging_is_associative(low, middle, high):
    at_once = deep_merge(low, middle, high)
    assert deep_merge(deep_merge(low, middle), high) == at_once
    assert deep_merge(low, deep_merge(middle, high)) == at_once


@given(LEVELS, LEVELS)
def test_higher_level_wins(low, high):
    before = json.dumps([low, high])
    result = deep_merge(low, high)
    assert json.dumps([low, high]) == before

    def holds(result, level):
        for name, value in level.items():
            if isinstance(value, dict) and name not in ("structured_outputs",):
                holds(result[name], value)
            else:
                assert result[name] == value

    holds(result, high)
    assert result.keys() == low.keys() | high.keys()


def test_taken_back_in_between():
    bound = deep_merge({"chat_template_kwargs": None}, {"chat_template_kwargs": {"b": 2}})
    assert deep_merge({"chat_template_kwargs": {"a": 1}}, bound) == {"chat_template_kwargs": {"b": 2}}
