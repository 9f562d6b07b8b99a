"""Tool calls: whole, or visibly broken."""

import json

import pytest

from vllm_adapters.calls import StreamedCalls, read_calls


def call(arguments, name="delete_files", id="call-1"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("finish_reason", ["stop", "tool_calls"])
def test_whole_calls(finish_reason):
    first, second = read_calls([call('{"path": "/home"}'), call("", "now", "call-2")], finish_reason)
    assert (first.name, first.arguments, first.error) == ("delete_files", {"path": "/home"}, None)
    assert (second.id, second.index, second.arguments) == ("call-2", 1, {}), "no arguments at all"


@pytest.mark.parametrize("finish_reason", ["length", "abort"])
def test_the_last_call_of_a_cut_reply_is_broken_even_if_it_reads_as_json(finish_reason):
    first, last = read_calls([call('{"path": "/tmp"}'), call('{"path": "/home/u"}')], finish_reason)
    assert first.error is None
    assert last.arguments is None
    assert "cut short" in last.error
    assert last.text == '{"path": "/home/u"}'


@pytest.mark.parametrize(
    ("arguments", "error"),
    [('{"path": "/ho', "not JSON"), ("[1]", "not a JSON object but list"), ("null", "NoneType")],
)
def test_malformed_arguments_are_kept_as_they_came(arguments, error):
    (broken,) = read_calls([call(arguments)], "tool_calls")
    assert broken.arguments is None
    assert error in broken.error
    assert broken.text == arguments


def test_a_call_without_a_name():
    assert "names no tool" in read_calls([call("{}", name=None)], "stop")[0].error


def test_interleaved_deltas_go_to_their_own_calls():
    calls = StreamedCalls()
    assert not calls
    calls.add([{"index": 0, "id": "a", "function": {"name": "add", "arguments": ""}}, {"index": 1, "id": "b"}])
    calls.add([{"index": 1, "function": {"name": "sub", "arguments": '{"y": '}}])
    # Said again, as some servers do.
    calls.add([{"index": 0, "id": "a", "function": {"name": "add", "arguments": '{"x": 1}'}}])
    calls.add([{"index": 1, "function": {"arguments": "2}"}}, {"index": 1, "function": None}])
    assert calls
    assert [(c.id, c.name, c.arguments) for c in calls.read("tool_calls")] == [
        ("a", "add", {"x": 1}),
        ("b", "sub", {"y": 2}),
    ]


def test_arguments_split_at_every_character():
    text = json.dumps({"path": "/home/ü/\u2028 \N{GRINNING FACE}"}, ensure_ascii=False)
    calls = StreamedCalls()
    calls.add([{"index": 0, "id": "a", "function": {"name": "f"}}])
    for character in text:
        calls.add([{"index": 0, "function": {"arguments": character}}])
    assert calls.read("stop")[0].arguments == json.loads(text)
