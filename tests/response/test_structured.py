import logging

import pytest

from vllm_adapters import errors as e
from vllm_adapters._response.structured import Constraint, check_constraint, requested_constraint

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}


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
def test_asked_for(body, constraint):
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
def test_violation(constraint, good, bad):
    assert constraint.violation(good) is None
    assert constraint.violation(bad)


def test_a_regex_that_python_cannot_read_is_passed_on_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING, logger="vllm_adapters"):
        assert Constraint("regex", r"\p{L}+").violation("é") is None
    assert "cannot be checked" in caplog.text


@pytest.mark.parametrize(
    ("constraint", "reply", "stop_reason", "cause"),
    [
        (Constraint("choice", ["a"]), "b", None, "reasoning parser"),
        (Constraint("json", SCHEMA), '{"n": 0}', None, "may not enforce this keyword"),
        (Constraint("json", SCHEMA), '{"n"', "}", r"The stop '}' ended it"),
    ],
)
def test_the_error_says_why(constraint, reply, stop_reason, cause):
    with pytest.raises(e.ConstraintNotEnforced, match=cause) as caught:
        check_constraint(constraint, reply, finish_reason="stop", stop_reason=stop_reason)
    assert caught.value.reply == reply


@pytest.mark.parametrize("reason", ["length", "abort", "tool_calls", None])
def test_only_finished_replies_are_judged(reason):
    check_constraint(Constraint("choice", ["a"]), "b", finish_reason=reason, stop_reason=None)
