"""Constraints that harm the server are refused before anything is sent; those it cannot compile are named."""

import pytest

from vllm_adapters import VLLMClient
from vllm_adapters import errors as e
from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters._request.constraints import requested, unsupported_construct
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def send(server, path="/chat/completions", **body):
    body = {"messages": [{"role": "user", "content": "x"}], **body} if "chat" in path else {"prompt": "x", **body}
    with VLLMClient(server.url) as client:
        return RawCompletions(client, path=path).create(model="stub", **body)


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
@pytest.mark.parametrize("version", ["0.8.5", "0.11.0", "0.11.2", "0.32.0", None])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json": None}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "structured_outputs"),
        ({"structured_outputs": {"disable_any_whitespace": True}}, "structured_outputs"),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"response_format": FORM, "structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        ({"response_format": FORM, "structured_outputs": {"json": {"type": "array"}}}, "structured_outputs"),
        ({"response_format": FORM, "structured_outputs": {}}, "structured_outputs"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "guided_choice"),
        ({"structured_outputs": {"choice": ["a"]}, "guided_json": SCHEMA}, "guided_json"),
        ({"structured_outputs": {"choice": ["a"], "regex": "a"}}, "structured_outputs"),
    ],
)
def test_constraints_that_stop_a_server_are_refused(make_fault_server, path, version, body, param):
    server = make_fault_server(version=version)
    with pytest.raises(e.InvalidRequest) as caught:
        send(server, path, **body)
    assert caught.value.param == param
    assert server.requests == []


@pytest.mark.parametrize(
    "body",
    [
        {"structured_outputs": None},
        {"structured_outputs": {"regex": r"\w+", "whitespace_pattern": " "}},
        {"guided_regex": r"\w+"},
        {"response_format": {"type": "text"}, "structured_outputs": {"regex": r"\w+"}},
        {"structured_outputs": {"choice": ["x"]}, "guided_choice": ["x"]},
    ],
)
def test_one_constraint_is_sent(fault_server, body):
    assert send(fault_server, **body)
    assert len(fault_server.posts(CHAT)) == 1


def test_same_schema_by_two_routes_is_sent(fault_server):
    fault_server.reply(faults.chat('{"n": 1}'), CHAT)
    assert send(fault_server, response_format=FORM, structured_outputs={"json": SCHEMA})


def test_constraints_are_found_under_every_name():
    body = {"response_format": FORM, "structured_outputs": {"regex": "a", "json": None}, "guided_choice": ["a"]}
    assert requested(body) == [
        ("response_format", "json", SCHEMA),
        ("structured_outputs", "regex", "a"),
        ("guided_choice", "choice", ["a"]),
    ]


UNSUPPORTED = {
    r"\p{L}+": r"\p{L}",
    r"a|\PN": r"\PN",
    "(?i)abc": "(?i)",
    "(?i:abc)": "(?i:",
    "(?P<year>\\d{4})": "(?P<year>",
    "(?<year>\\d{4})": "(?<year>",
    "(?=a)b": "(?=",
    "(?<!a)b": "(?<!",
    r"(a)\1": r"\1",
    r"\bfoo": r"\b",
    "a*+": "*+",
    r"[\p{L}]": r"\p{L}",
    r"a{2,}+": "{2,}+",
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("regex", "construct"), UNSUPPORTED.items())
def test_regex_that_the_server_cannot_compile_is_one_request(fault_server, regex, construct, stream):
    fault_server.reply(faults.error(500, "Internal server error"), CHAT)
    with pytest.raises(e.InvalidRequest) as caught:
        send(fault_server, structured_outputs={"regex": regex}, stream=stream)
    assert f"`{construct}`" in str(caught.value)
    assert caught.value.status_code == 500
    assert len(fault_server.posts(CHAT)) == 1


@pytest.mark.parametrize(
    "regex", [r"\\p{L}", "a+", r"(?:ab)+", r"[a-z]{2,3}", r"\d+\.\w*", r"a\++", r"[*+]+b", r"[(?=]"]
)
def test_other_regexes_are_not_blamed(fault_server, regex):
    assert unsupported_construct({"structured_outputs": {"regex": regex}}) is None
    fault_server.reply(faults.error(500, "Internal server error"), CHAT)
    with pytest.raises(e.ServerFailed):
        send(fault_server, structured_outputs={"regex": regex})
    assert len(fault_server.posts(CHAT)) == 3


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": "string", "pattern": r"\p{L}+"}}},
        '{"items": [{"pattern": "\\\\p{L}+"}]}',
        {"patternProperties": {r"\p{L}+": {}}},
    ],
)
def test_pattern_of_a_schema_is_named(schema):
    assert unsupported_construct({"structured_outputs": {"json": schema}}) == r"\p{L}"


def test_reply_that_the_server_could_not_parse_is_not_blamed_on_the_request(fault_server):
    text = "1 validation error for list[function-wrap[__log_extra_fields__()]] Invalid JSON: EOF while parsing a list"
    fault_server.reply(faults.error(400, text), CHAT)
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    with pytest.raises(e.ConstraintNotEnforced, match="could not parse the tool calls") as caught:
        send(fault_server, tools=[tool], tool_choice="required")
    assert caught.value.status_code == 400
    assert not isinstance(caught.value, e.InvalidRequest)
    assert len(fault_server.posts(CHAT)) == 1
