"""A reply that ignores its grammar or structural tag raises, or the request is refused where nobody could notice."""

import json

import pytest

from vllm_adapters import VLLMClient
from vllm_adapters import errors as e
from vllm_adapters._client.raw_completions import RawCompletions
from vllm_adapters._optional import is_installed
from vllm_adapters._response.grammar import grammar_matcher, tag_matcher
from vllm_adapters.testing import faults

CHAT = "/v1/chat/completions"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = {"type": "tag", "begin": "<call>", "content": {"type": "json_schema", "json_schema": CITY}, "end": "</call>"}
THINK = {"type": "tag", "begin": "<think>", "content": {"type": "any_text"}, "end": "</think>"}
DIGITS = {"type": "regex", "pattern": "[0-9]+"}
XML = {"type": "qwen_xml_parameter", "json_schema": CITY}
GRAMMAR = 'root ::= "zebra-" [0-9] [0-9]'
ROME = '<call>{"city": "Rome"}</call>'


def tag(form):
    return json.dumps({"type": "structural_tag", "format": form})


OLD = json.dumps(
    {
        "type": "structural_tag",
        "structures": [{"begin": "<call>", "schema": CITY, "end": "</call>"}],
        "triggers": ["<call>"],
    }
)
TRIGGERED = {"type": "triggered_tags", "triggers": ["<ca"], "tags": [CALL]}
SEPARATED = {"type": "tags_with_separator", "tags": [CALL], "separator": ","}


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (tag({"type": "const_string", "value": "fixed"}), ["fixed"], ["", "fixe", "fixed!", "Sure!"]),
        (
            tag({"type": "json_schema", "json_schema": CITY}),
            ['{"city": "Rome"}', ' {"city":\n"Rome"} '],
            ["{}", "Sure"],
        ),
        (tag(CALL), [ROME], ["Sure!", "<call>{}</call>", ROME[:-1], "x" + ROME]),
        (tag({**CALL, "end": ["</call>", "</c>"]}), [ROME, '<call>{"city": "Rome"}</c>'], ["<call>{}</c>"]),
        (tag({"type": "sequence", "elements": [THINK, CALL]}), ["<think>x</think>" + ROME], [ROME, "<think>x</think>"]),
        (tag({"type": "or", "elements": [CALL, DIGITS]}), [ROME, "12"], ["", "1a"]),
        (tag(TRIGGERED), ["Sure!", ROME, f"a{ROME}b{ROME}"], ["<call>{}</call>", ROME[:-1], f"a{ROME}<call>"]),
        (tag({**TRIGGERED, "at_least_one": True}), [ROME, ROME + "b"], ["Sure!", ""]),
        (tag(SEPARATED), ["", ROME, f"{ROME},{ROME}"], [f"{ROME},", f"{ROME}{ROME}", "Sure!"]),
        (tag({**SEPARATED, "at_least_one": True}), [ROME], [""]),
        (OLD, ["Sure!", ROME, f"a{ROME}b"], ["<call>{}</call>", "<call>x"]),
    ],
)
def test_structural_tag_is_checked(form, good, bad):
    matches = tag_matcher(form)
    assert [text for text in good if not matches(text)] == []
    assert [text for text in bad if matches(text)] == []


@pytest.mark.parametrize(
    "form",
    [tag(XML), tag({**CALL, "content": XML}), tag({"type": "grammar", "grammar": "x"}), "{", "7", "{}", tag({})],
)
def test_other_structural_tags_cannot_be_checked(form):
    assert tag_matcher(form) is None


def test_long_text_is_checked_in_time():
    form = {"type": "sequence", "elements": [THINK, {"type": "any_text"}, CALL]}
    assert tag_matcher(tag(form))("<think>" + "x" * 5000 + "</think>" + "y" * 5000 + ROME)


def send(url, *, path="/chat/completions", version=None, **body):
    body = {"messages": [{"role": "user", "content": "x"}], **body} if "chat" in path else {"prompt": "x", **body}
    with VLLMClient(url, server_version=version) as client:
        reply = RawCompletions(client, path=path).create(model="stub", **body)
        return list(reply) if body.get("stream") else reply


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
@pytest.mark.parametrize("version", ["0.14.1", "0.29.0", "0.32.0", None])
def test_ignored_structural_tag_raises(fault_server, version, path, stream):
    fault_server.reply(faults.chat("Sure!"), CHAT)
    fault_server.reply(faults.completion("Sure!"), "/v1/completions")
    outputs = {"structural_tag": tag(CALL)}
    with pytest.raises(e.ConstraintNotEnforced, match="structural_tag constraint") as caught:
        send(fault_server.url, path=path, version=version, structured_outputs=outputs, stream=stream)
    assert (caught.value.reply, caught.value.constraint) == ("Sure!", "structural_tag")


def test_structural_tag_of_a_response_format_is_checked(fault_server):
    form = json.loads(tag(CALL))
    fault_server.reply(faults.chat("Sure!"), CHAT)
    with pytest.raises(e.ConstraintNotEnforced):
        send(fault_server.url, response_format=form)
    fault_server.reply(faults.chat(ROME), CHAT)
    assert send(fault_server.url, response_format=form)


@pytest.mark.parametrize(
    ("path", "version", "refused"),
    [
        ("/chat/completions", "0.10.2", False),
        ("/chat/completions", "0.14.1", True),
        ("/chat/completions", "0.29.0", True),
        ("/chat/completions", "0.30.0", False),
        ("/chat/completions", "0.32.0", False),
        ("/chat/completions", None, False),
        ("/completions", "0.14.1", True),
        ("/completions", "0.32.0", True),
        ("/completions", None, True),
    ],
)
def test_tag_that_cannot_be_checked_is_refused_where_it_may_be_ignored(make_fault_server, path, version, refused):
    server = make_fault_server(version=None)
    outputs = {"grammar": "root ::= ((("} if version == "0.10.2" else {"structural_tag": tag(XML)}
    if not refused:
        assert send(server.url, path=path, version=version, structured_outputs=outputs)
        return
    with pytest.raises(e.UnsupportedParameter, match="enable_in_reasoning") as caught:
        send(server.url, path=path, version=version, structured_outputs=outputs)
    assert caught.value.param == "structural_tag"
    assert server.posts() == []


def test_tag_that_cannot_be_checked_is_sent_where_its_caller_allows_it(fault_server):
    outputs = {"structural_tag": tag(XML)}
    assert send(fault_server.url, version="0.14.1", structured_outputs=outputs, allow_unknown=True)
    assert "allow_unknown" not in fault_server.posts(CHAT)[0].json


@pytest.mark.parametrize("route", ["structured_outputs", "response_format"])
def test_new_tag_is_not_sent_to_a_server_that_fails_on_it(make_fault_server, route):
    server = make_fault_server(version="0.11.0")
    form = {"structural_tag": tag(CALL)} if route == "structured_outputs" else json.loads(tag(CALL))
    with pytest.raises(e.UnsupportedParameter, match=r"0\.11\.1"):
        send(server.url, **{route: form})
    assert server.posts() == []


def test_ignored_grammar_raises_or_is_refused(fault_server):
    fault_server.reply(faults.chat("Sure!"), CHAT)
    outputs = {"grammar": GRAMMAR}
    if is_installed("llguidance"):
        with pytest.raises(e.ConstraintNotEnforced, match="grammar constraint"):
            send(fault_server.url, version="0.23.0", structured_outputs=outputs)
        fault_server.reply(faults.chat("zebra-12"), CHAT)
        assert send(fault_server.url, version="0.23.0", structured_outputs=outputs)
        return
    with pytest.raises(e.UnsupportedParameter, match=r"vllm-adapters\[grammar\]") as caught:
        send(fault_server.url, version="0.23.0", structured_outputs=outputs)
    assert caught.value.param == "grammar"
    assert fault_server.posts() == []


@pytest.mark.skipif(not is_installed("llguidance"), reason="needs vllm-adapters[grammar]")
@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        (GRAMMAR, "zebra-12", "zebra-1"),
        (GRAMMAR, "zebra-12", "zebra-123"),
        ('root ::= "a" b*\nb ::= "b" | "c"', "abcb", "abd"),
        ("start: NUMBER\nNUMBER: /[0-9]+/", "12", "a"),
    ],
)
def test_grammar_is_checked(grammar, good, bad):
    matches = grammar_matcher(grammar)
    assert matches(good)
    assert not matches(bad)


@pytest.mark.parametrize("grammar", ["nonsense", "root ::= unknown", ""])
def test_grammar_that_cannot_be_compiled_cannot_be_checked(grammar):
    assert grammar_matcher(grammar) is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("outputs", [{"grammar": GRAMMAR}, {"structural_tag": tag(XML)}], ids=["grammar", "tag"])
def test_truncated_text_raises_also_if_it_cannot_be_checked(fault_server, outputs, stream):
    fault_server.reply(faults.chat("zebra-1", finish_reason="length"), CHAT)
    with pytest.raises(e.TruncatedOutput):
        send(fault_server.url, structured_outputs=outputs, stream=stream)
