"""Tool calls are parsed, or marked as invalid; nothing is repaired."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_adapters._response.tool_calls import ToolCallAccumulator, parse_tool_calls
from vllm_adapters.testing import faults, payloads


def call(arguments, name="delete_files", id="call-1"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("finish_reason", ["stop", "tool_calls"])
def test_complete_calls_are_parsed(finish_reason):
    first, second = parse_tool_calls([call('{"path": "/home"}'), call("", "now", "call-2")], finish_reason)
    assert (first.name, first.arguments, first.error) == ("delete_files", {"path": "/home"}, None)
    assert (second.id, second.index, second.arguments) == ("call-2", 1, {}), "empty stands for none"


@pytest.mark.parametrize("finish_reason", ["length", "abort"])
def test_last_call_of_a_truncated_reply_is_invalid_even_if_it_is_json(finish_reason):
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
        ('{"path": ' + "[" * 20_000, "not JSON"),  # by models that repeat themselves
    ],
    ids=["truncated", "list", "null", "nan", "deep"],
)
def test_malformed_arguments_are_kept_unchanged(arguments, error):
    (invalid,) = parse_tool_calls([call(arguments)], "tool_calls")
    assert invalid.arguments is None
    assert error in invalid.error
    assert invalid.raw_arguments == arguments


def test_call_without_a_name_is_invalid():
    (invalid,) = parse_tool_calls([call("{}", name=None)], "stop")
    assert (invalid.arguments, invalid.error) == (None, "The call has no tool name")


def test_invalid_call_as_dict_has_the_raw_arguments():
    (invalid,) = parse_tool_calls([call('{"path": "/ho')], "length")
    assert invalid.as_dict() == {
        "id": "call-1",
        "name": "delete_files",
        "arguments": '{"path": "/ho',
        "error": "The reply was truncated while this call was being generated",
    }


def test_interleaved_deltas_are_added_to_their_calls():
    calls = ToolCallAccumulator()
    assert not calls
    calls.add([{"index": 0, "id": "a", "function": {"name": "add", "arguments": ""}}, {"index": 1, "id": "b"}])
    calls.add([{"index": 1, "function": {"name": "sub", "arguments": '{"y": '}}])
    # Some servers repeat id and name.
    calls.add([{"index": 0, "id": "a", "function": {"name": "add", "arguments": '{"x": 1}'}}])
    calls.add([{"index": 1, "function": {"arguments": "2}"}}, {"index": 1, "function": None}])
    assert calls
    assert [(c.id, c.name, c.arguments) for c in calls.parse("tool_calls")] == [
        ("a", "add", {"x": 1}),
        ("b", "sub", {"y": 2}),
    ]


def test_arguments_may_be_split_at_every_character():
    text = json.dumps({"path": "/home/ü/\u2028 \N{GRINNING FACE}"}, ensure_ascii=False)
    calls = ToolCallAccumulator()
    calls.add([{"index": 0, "id": "a", "function": {"name": "f"}}])
    for character in text:
        calls.add([{"index": 0, "function": {"arguments": character}}])
    assert calls.parse("stop")[0].arguments == json.loads(text)


@st.composite
def interleaved(draw):
    """Deltas of several calls, split anywhere and interleaved, each call's in order; and the arguments of the calls."""
    arguments = st.dictionaries(st.text(max_size=3), st.text(max_size=8) | st.integers() | st.none(), max_size=3)
    calls = draw(st.lists(arguments, min_size=1, max_size=4))
    deltas = []
    for index, arguments_ in enumerate(calls):
        text = json.dumps(arguments_, ensure_ascii=draw(st.booleans()))
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=5)))
        parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        own = [{"index": index, "function": {"arguments": part}} for part in parts]
        own[0] = {"index": index, "id": f"call-{index}", "function": {"name": f"f{index}", "arguments": parts[0]}}
        deltas.append(own)
    order = draw(st.permutations([index for index, own in enumerate(deltas) for _ in own]))
    waiting = [iter(own) for own in deltas]
    return [next(waiting[index]) for index in order], calls


@given(interleaved(), st.integers(1, 5))
def test_interleaving_deltas_loses_nothing(deltas_and_calls, size):
    deltas, calls = deltas_and_calls
    accumulator = ToolCallAccumulator()
    for start in range(0, len(deltas), size):
        accumulator.add(deltas[start : start + size])
    found = accumulator.parse("tool_calls")
    assert [(call.id, call.name, call.arguments) for call in found] == [
        (f"call-{index}", f"f{index}", arguments) for index, arguments in enumerate(calls)
    ]


@given(interleaved())
def test_last_call_is_invalid_wherever_a_reply_is_truncated(deltas_and_calls):
    deltas, _ = deltas_and_calls
    for end in range(1, len(deltas) + 1):
        calls = ToolCallAccumulator()
        calls.add(deltas[:end])
        *_, last = calls.parse("length")
        assert last.arguments is None
        assert last.error


# Deltas of servers and gateways that do not follow OpenAI's form, through the client


def unindexed(*calls):
    """Yield chunks of one tool call's delta each: id, name and arguments, without an index."""
    for id, name, arguments in calls:
        delta = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        yield payloads.chunk({"tool_calls": [{key: value for key, value in delta.items() if value is not None}]})
    yield payloads.chunk({}, finish_reason="tool_calls")


@pytest.mark.parametrize(
    "calls",
    [
        [("x", "look", ""), ("y", "add", '{"a": 2}')],
        [(None, "look", ""), (None, "add", '{"a": 2}')],
        [("x", "look", "{"), (None, None, "}"), ("y", "add", '{"a"'), ("y", "add", ": 2}")],
    ],
    ids=["ids", "names", "ids-and-parts"],
)
def test_calls_without_an_index_are_kept_apart(ask, fault_server, calls):
    # In one call they would be `look` with the arguments of `add`.
    fault_server.reply(faults.sse(*unindexed(*calls)))
    accumulator = ToolCallAccumulator()
    for chunk in ask(fault_server.url, stream=True):
        accumulator.add(chunk.choices[0].delta.tool_calls)
    found = [(call.name, call.arguments) for call in accumulator.parse("tool_calls")]
    assert found == [("look", {}), ("add", {"a": 2})]


def test_two_calls_of_one_tool_without_an_index_are_kept_apart(ask, fault_server):
    fault_server.reply(faults.sse(*unindexed(("x", "add", '{"a": 1}'), ("y", "add", '{"a": 2}'))))
    found = [chunk.choices[0].delta.tool_calls[0] for chunk in ask(fault_server.url, stream=True)[:-1]]
    assert [(call.index, call.id, call.function.name) for call in found] == [(0, "x", "add"), (1, "y", "add")]


def test_id_and_name_come_once(ask, fault_server):
    calls = [payloads.tool_call("add", text, index=number) for number in (0, 1) for text in ('{"a"', ": 1}")]
    del calls[0]["index"], calls[1]["index"]
    fault_server.reply(faults.deltas(*({"tool_calls": [call]} for call in calls)))
    found = [chunk.choices[0].delta.tool_calls[0] for chunk in ask(fault_server.url, stream=True)[:-1]]
    assert [call.index for call in found] == [0, 0, 1, 1]
    assert [call.function.name for call in found] == ["add", None, "add", None]
    assert [call.id for call in found] == [calls[0]["id"], None, calls[2]["id"], None]
    assert [call.function.arguments for call in found] == ['{"a"', ": 1}"] * 2
