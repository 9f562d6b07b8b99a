"""A reply that violates the requested constraint raises, if it ended by itself."""

import logging

import pytest

from vllm_adapters import errors as e
from vllm_adapters._response.structured import (
    Constraint,
    check_constraint,
    missing_tool_call,
    requested_constraint,
    truncation_error,
)
from vllm_adapters.testing import faults

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}

OVERLAPPING = {"properties": {"n": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}


@pytest.mark.parametrize(
    ("body", "constraint"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint("json_object")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            Constraint("json", SCHEMA),
        ),
        ({"structured_outputs": {"json": SCHEMA}}, Constraint("json", SCHEMA)),
        ({"structured_outputs": {"regex": "a"}}, Constraint("regex", "a")),
        ({"structured_outputs": {"grammar": "a"}}, None),
        ({"guided_choice": ["a"]}, Constraint("choice", ["a"])),
        ({"guided_json": '{"type": "object"}'}, Constraint("json", '{"type": "object"}')),
        ({"structured_outputs": {"regex": "a"}, "echo": True}, None),
    ],
)
def test_requested_constraint_is_found_under_any_name(body, constraint):
    assert requested_constraint(body) == constraint


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (Constraint("json", SCHEMA), '\n\n{"n": 1}', '{"n": "1"}'),
        (Constraint("json", SCHEMA), '{"n": 2}', "{}"),
        (Constraint("json", '{"type": "array"}'), "[]", "{}"),
        (Constraint("json_object"), "{}", "{"),
        (Constraint("json_object"), "[[]]", "[" * 20_000),
        (Constraint("regex", r"\d{3}"), "123", "1234"),
        (Constraint("regex", r"^a|b$"), "b", "ab c"),
        (Constraint("choice", ["yes", "no"]), "\n\nno", "nope"),
    ],
)
def test_violation_is_found(constraint, good, bad):
    assert constraint.violation(good) is None
    assert constraint.violation(bad)


def test_regex_that_python_does_not_support_is_not_checked_but_logged(caplog):
    with caplog.at_level(logging.WARNING, logger="vllm_adapters"):
        assert Constraint("regex", r"\p{L}+").violation("é") is None
    assert "cannot be checked" in caplog.text


@pytest.mark.filterwarnings("error")
def test_regex_that_python_warns_of_is_checked_without_a_warning():
    assert Constraint("regex", r"[[a-z]+").violation("abc") is None
    assert Constraint("regex", r"[[a-z]+").violation("ABC")


@pytest.mark.parametrize(
    ("constraint", "reply", "stop_reason", "cause"),
    [
        (Constraint("choice", ["a"]), "b", None, "reasoning parser"),
        (Constraint("json", SCHEMA), '{"n": 0}', None, "may not enforce this keyword of the schema: `minimum`"),
        (Constraint("json", OVERLAPPING), '{"n": 2}', None, "enforces `oneOf` as `anyOf`"),
        (Constraint("json", SCHEMA), '{"n"', "}", r"The stop '}' ended it"),
    ],
)
def test_error_names_the_cause(constraint, reply, stop_reason, cause):
    with pytest.raises(e.ConstraintNotEnforced, match=cause) as caught:
        check_constraint(constraint, reply, finish_reason="stop", stop_reason=stop_reason)
    assert caught.value.reply == reply


@pytest.mark.parametrize("reason", ["length", "abort", "tool_calls", None])
def test_only_replies_that_ended_by_themselves_are_checked(reason):
    check_constraint(Constraint("choice", ["a"]), "b", finish_reason=reason, stop_reason=None)


@pytest.mark.parametrize(
    ("reason", "error", "text"),
    [
        ("length", e.TruncatedOutput, "The token limit truncated the requested object. Raise max_tokens"),
        ("repetition", e.TruncatedOutput, "repetition_detection truncated the requested object"),
        ("content_filter", e.FilteredOutput, "A content filter truncated the requested object"),
    ],
)
def test_truncation_error_names_the_cause(reason, error, text):
    found = truncation_error(reason, '{"n"')
    assert type(found) is error
    assert str(found).startswith(text)
    assert found.partial == '{"n"'


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "abort", None])
def test_other_finish_reasons_are_not_truncations(reason):
    assert truncation_error(reason, '{"n"') is None


def test_missing_tool_call_names_the_tool():
    error = missing_tool_call("add", "x" * 300)
    assert str(error).startswith(f"The reply does not call the forced tool `add`: '{'x' * 200}...'")
    assert (error.reply, error.constraint) == ("x" * 300, "tool_choice")


# Through the client


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("outputs", [{"choice": ["yes", "no"]}, {"regex": r"\d+"}, {"json": {"type": "object"}}])
def test_reply_that_violates_its_constraint_raises(ask, fault_server, outputs, stream):
    fault_server.reply(faults.chat("Certainly! Here you are."))
    with pytest.raises(e.ConstraintNotEnforced, match="reasoning parser") as caught:
        ask(fault_server.url, stream=stream, extra_body={"structured_outputs": outputs})
    assert caught.value.reply == "Certainly! Here you are."
    assert caught.value.constraint == next(iter(outputs))


@pytest.mark.parametrize("stream", [False, True])
def test_reply_that_fits_its_constraint_is_returned(ask, fault_server, stream):
    fault_server.reply(faults.chat('{"a": 1}'))
    schema = {"type": "object", "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert content_of(ask(fault_server.url, stream=stream, response_format=form)) == '{"a": 1}'


@pytest.mark.parametrize("stream", [False, True])
def test_reply_at_the_token_limit_raises(ask, fault_server, stream):
    fault_server.reply(faults.chat('{"a', finish_reason="length"))
    with pytest.raises(e.TruncatedOutput, match="max_tokens") as caught:
        ask(fault_server.url, stream=stream, response_format={"type": "json_object"})
    assert caught.value.partial == '{"a'


def test_reply_of_tool_calls_is_not_checked(ask, fault_server):
    call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    fault_server.reply(faults.chat(None, tool_calls=[call]))
    reply = ask(fault_server.url, extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
    assert reply.choices[0].message.tool_calls[0].function.name == "add"


def content_of(reply):
    """Return the text of a completion, or of the chunks of a stream."""
    if isinstance(reply, list):
        return "".join(chunk.choices[0].delta.content or "" for chunk in reply if chunk.choices)
    return reply.choices[0].message.content
