import pytest

from vllm_adapters.merging import merged, settled


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
def test_merged(levels, result):
    assert merged(*levels) == result


def test_nothing_given_is_changed():
    low, high = {"d": {"x": 1}}, {"d": {"y": 2}}
    merged(low, high)["d"]["z"] = 3
    assert (low, high) == ({"d": {"x": 1}}, {"d": {"y": 2}})


def test_settled():
    assert settled({"top_k": 5, "min_p": 0}, {"top_k": None}) == {"min_p": 0}
    assert settled({"a": {"b": 1}}, {"a": {"b": None}}) == {"a": {"b": None}}
