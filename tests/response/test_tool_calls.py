"""Tool calls: whole, or visibly broken."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_adapters._response.tool_calls import ToolCallAccumulator, parse_tool_calls


def call(arguments, name="delete_files", id="call-1"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("finish_reason", ["stop", "tool_calls"])
def test_whole_calls(finish_reason):
    first, second = parse_tool_calls([call('{"path": "/home"}'), call("", "now", "call-2")], finish_reason)
    assert (first.name, first.arguments, first.error) == ("delete_files", {"path": "/home"}, None)
    assert (second.id, second.index, second.arguments) == ("call-2", 1, {}), "no arguments at all"


@pytest.mark.parametrize("finish_reason", ["length", "abort"])
def test_the_last_call_of_a_cut_reply_is_broken_even_if_it_reads_as_json(finish_reason):
    first, last = parse_tool_calls([call('{"path": "/tmp"}'), call('{"path": "/home/u"}')], finish_reason)
    assert first.error is None
    assert last.arguments is None
    assert "truncated" in last.error
    assert last.raw_arguments == '{"path": "/home/u"}'


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ('{"path": "/ho', "not JSON"),
        ("[1]", "must be a JSON object, not list"),
        ("null", "NoneType"),
        ('{"size": NaN}', "NaN is not valid JSON"),
        ('{"path": ' + "[" * 20_000, "not JSON"),  # as models write that go in circles
    ],
    ids=["cut", "list", "null", "nan", "deep"],
)
def test_malformed_arguments_are_kept_as_they_came(arguments, error):
    (broken,) = parse_tool_calls([call(arguments)], "tool_calls")
    assert broken.arguments is None
    assert error in broken.error
    assert broken.raw_arguments == arguments


def test_a_call_without_a_name():
    assert "has no tool name" in parse_tool_calls([call("{}", name=None)], "stop")[0].error


def test_interleaved_deltas_go_to_their_own_calls():
    calls = ToolCallAccumulator()
    assert not calls
    calls.add([{"index": 0, "id": "a", "function": {"name": "add", "arguments": ""}}, {"index": 1, "id": "b"}])
    calls.add([{"index": 1, "function": {"name": "sub", "arguments": '{"y": '}}])
    # Said again, as some servers do.
    calls.add([{"index": 0, "id": "a", "function": {"name": "add", "arguments": '{"x": 1}'}}])
    calls.add([{"index": 1, "function": {"arguments": "2}"}}, {"index": 1, "function": None}])
    assert calls
    assert [(c.id, c.name, c.arguments) for c in calls.parse("tool_calls")] == [
        ("a", "add", {"x": 1}),
        ("b", "sub", {"y": 2}),
    ]


def test_arguments_split_at_every_character():
    text = json.dumps({"path": "/home/ü/\u2028 \N{GRINNING FACE}"}, ensure_ascii=False)
    calls = ToolCallAccumulator()
    calls.add([{"index": 0, "id": "a", "function": {"name": "f"}}])
    for character in text:
        calls.add([{"index": 0, "function": {"arguments": character}}])
    assert calls.parse("stop")[0].arguments == json.loads(text)


@st.composite
def interleaved(draw):
    """Several calls, their deltas cut anywhere and mixed in any way, each call's own in order; and the calls."""
    arguments = st.dictionaries(st.text(max_size=3), st.text(max_size=8) | st.integers() | st.none(), max_size=3)
    made = draw(st.lists(arguments, min_size=1, max_size=4))
    deltas = []
    for index, given_ in enumerate(made):
        text = json.dumps(given_, ensure_ascii=draw(st.booleans()))
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=5)))
        parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        own = [{"index": index, "function": {"arguments": part}} for part in parts]
        own[0] = {"index": index, "id": f"call-{index}", "function": {"name": f"f{index}", "arguments": parts[0]}}
        deltas.append(own)
    order = draw(st.permutations([index for index, own in enumerate(deltas) for _ in own]))
    waiting = [iter(own) for own in deltas]
    return [next(waiting[index]) for index in order], made


@given(interleaved(), st.integers(1, 5))
def test_any_interleaving_of_deltas_loses_nothing(story, size):
    deltas, made = story
    calls = ToolCallAccumulator()
    for at in range(0, len(deltas), size):
        calls.add(deltas[at : at + size])
    found = calls.parse("tool_calls")
    assert [(call.id, call.name, call.arguments) for call in found] == [
        (f"call-{index}", f"f{index}", arguments) for index, arguments in enumerate(made)
    ]


@given(interleaved())
def test_no_cut_reply_has_a_whole_last_call(story):
    deltas, _ = story
    for end in range(1, len(deltas) + 1):
        calls = ToolCallAccumulator()
        calls.add(deltas[:end])
        *_, last = calls.parse("length")
        assert last.arguments is None
        assert last.error
