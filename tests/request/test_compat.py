"""A request body is translated for the version of the server, or refused with a hint."""

import pytest
from packaging.version import Version
from pydantic import BaseModel

from vllm_adapters import VLLMClient
from vllm_adapters import errors as e
from vllm_adapters._request.compat import needs_version, parse_version, reject_unknown, translate, validate_params
from vllm_adapters.testing import FaultServer

CHAT = "/v1/chat/completions"


def translated(body, version="0.32.0", endpoint="chat", **options):
    """Return ``body`` as it is sent to a server of ``version``; its names are checked first, as the client does."""
    if not options.get("allow_unknown"):
        reject_unknown(endpoint, body)
    return translate(endpoint, body, version=Version(version) if version else None, **options)


class Person(BaseModel):
    name: str


@pytest.mark.parametrize(
    ("version", "given", "sent"),
    [
        ("0.32.0", {"guided_choice": ["a"]}, {"structured_outputs": {"choice": ["a"]}}),
        ("0.12.0", {"guided_regex": "x"}, {"structured_outputs": {"regex": "x"}}),
        ("0.12.0", {"guided_json": {"type": "object"}}, {"structured_outputs": {"json": {"type": "object"}}}),
        ("0.11.2", {"guided_choice": ["a"]}, {"guided_choice": ["a"]}),
        ("0.10.2", {"structured_outputs": {"choice": ["a"]}}, {"guided_choice": ["a"]}),
        ("0.10.2", {"structured_outputs": {"grammar": "g"}}, {"guided_grammar": "g"}),
        ("0.10.2", {"structured_outputs": {"json_object": True}}, {"response_format": {"type": "json_object"}}),
        (
            "0.9.0.1",
            {"structured_outputs": {"json": Person, "whitespace_pattern": " "}},
            {"guided_json": Person.model_json_schema(), "guided_whitespace_pattern": " "},
        ),
        (
            "0.32.0",
            {"structured_outputs": {"json": Person}},
            {"structured_outputs": {"json": Person.model_json_schema()}},
        ),
        (None, {"guided_choice": ["a"]}, {"structured_outputs": {"choice": ["a"]}}),
        ("0.8.4", {"top_k": 1, "guided_choice": ["a"]}, {"top_k": 1, "guided_choice": ["a"]}),
        ("0.32.0", {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
    ],
)
def test_constraints_are_translated_for_the_version(version, given, sent):
    assert translated(given, version) == sent


@pytest.mark.parametrize(
    ("endpoint", "version", "given", "sent"),
    [
        ("embeddings", "0.10.1", {"use_activation": True}, {"normalize": True}),
        ("embeddings", "0.32.0", {"normalize": False}, {"use_activation": False}),
        ("rerank", "0.10.1", {"use_activation": False}, {"activation": False}),
        ("score", "0.32.0", {"activation": True}, {"use_activation": True}),
        ("completions", "0.32.0", {"max_completion_tokens": 5}, {"max_tokens": 5}),
    ],
)
def test_renamed_parameters_are_translated(endpoint, version, given, sent):
    assert translated(given, version, endpoint) == sent


@pytest.mark.parametrize(
    ("version", "name"), [("0.10.2", "reasoning_content"), ("0.11.1", "reasoning"), ("0.32.0", "reasoning")]
)
@pytest.mark.parametrize("given", ["reasoning", "reasoning_content"])
def test_replayed_reasoning_has_the_name_of_the_version(version, name, given):
    body = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", given: "because"}]}
    assert translated(body, version)["messages"][1] == {"role": "assistant", "content": "y", name: "because"}
    assert given in body["messages"][1], "the caller's messages are not changed"


def test_forced_tools_are_strict():
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    loose = {"type": "function", "function": {"name": "mul", "strict": False}}
    named = {"type": "function", "function": {"name": "add"}}
    for choice in ("required", named):
        tools = translated({"tools": [tool, loose], "tool_choice": choice})["tools"]
        assert [t["function"]["strict"] for t in tools] == [True, False]
    assert "strict" not in translated({"tools": [tool], "tool_choice": "auto"})["tools"][0]["function"]
    assert "strict" not in tool["function"]


@pytest.mark.parametrize(
    ("form", "strict"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}, True),
        ({"response_format": {"type": "json_object"}}, True),
        ({"structured_outputs": {"regex": "[a-z]+"}}, True),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}, "tool_choice": "none"}, None),
    ],
)
def test_tools_beside_a_response_format_are_strict(form, strict):
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    loose = {"type": "function", "function": {"name": "mul", "strict": False}}
    sent = translated({"tools": [tool, loose], **form})["tools"]
    assert [t["function"].get("strict") for t in sent] == [strict, False]


@pytest.mark.parametrize(
    ("endpoint", "name", "hint"),
    [
        ("chat", "topk", "Did you mean `top_k`"),
        ("chat", "repetition_penality", "Did you mean `repetition_penalty`"),
        ("chat", "verbosity", "vLLM does not have this parameter of OpenAI"),
        ("chat", "functions", "Use `tools`"),
        ("chat", "zzz", "pass extra_body with allow_unknown=True"),
        ("rerank", "return_documents", "pass extra_body with allow_unknown=True"),
    ],
)
def test_unknown_parameters_raise(endpoint, name, hint):
    with pytest.raises(e.UnknownParameter, match=hint) as caught:
        translated({name: 1}, endpoint=endpoint)
    assert caught.value.param == name
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("version", "given", "text"),
    [
        ("0.10.2", {"thinking_token_budget": 5}, r"vLLM 0\.10\.2.*from 0\.19\.0.*Update the server"),
        ("0.32.0", {"best_of": 2}, r"from 0\.8\.5 to 0\.11\.2.*Use `n`"),
        ("0.32.0", {"guided_decoding_backend": "x"}, "`guided_decoding_backend`.*--structured-outputs-config"),
        ("0.32.0", {"logits_processors": []}, "`logits_processors`.*--logits-processors"),
        (
            "0.10.2",
            {"structured_outputs": {"disable_any_whitespace": True}},
            r"`structured_outputs\.disable_any_whitespace`.*from 0\.11\.0.*Update the server",
        ),
        (
            "0.32.0",
            {"structured_outputs": {"choice": ["a"], "disable_fallback": True}},
            r"`structured_outputs\.disable_fallback`.*to 0\.17\.1.*Remove it",
        ),
    ],
)
def test_parameters_of_other_versions_raise(version, given, text):
    with pytest.raises(e.UnsupportedParameter, match=text):
        translated(given, version)


def test_unsupported_parameters_that_are_none_are_dropped():
    assert translated({"thinking_token_budget": None, "top_k": None}, "0.10.2") == {"top_k": None}


def test_unknown_nested_parameters_raise():
    with pytest.raises(
        e.UnknownParameter, match=r"`structured_outputs\.regx` is not a parameter of any vLLM"
    ) as caught:
        translated({"structured_outputs": {"regx": "a"}})
    assert caught.value.param == "structured_outputs.regx"
    with pytest.raises(e.UnknownParameter, match=r"`stream_options\.include_usages`.*Did you mean `include_usage`"):
        translated({"stream_options": {"include_usages": True}})


def test_synonyms_with_different_values_raise():
    with pytest.raises(e.InvalidRequest, match="`guided_choice` and `choice` are the same parameter"):
        translated({"guided_choice": ["a"], "structured_outputs": {"choice": ["b"]}})
    both = {"guided_choice": ["a"], "structured_outputs": {"choice": ["a"]}}
    assert translated(both) == {"structured_outputs": {"choice": ["a"]}}


def test_allow_unknown_lets_unknown_parameters_pass():
    assert translated({"plugin": 1, "allow_unknown": True}) == {"plugin": 1}
    assert translated({"plugin": 1}, allow_unknown=True) == {"plugin": 1}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.32.0", "0.32.0"),
        ("0.11.1rc2.dev3+gabc", "0.11.1"),
        ("vllm-0.32.0-44994631", "0.32.0"),
        ("0.1.dev1+g123", None),
        ("gateway", None),
        ("None", None),
    ],
)
def test_parse_version(text, version):
    assert parse_version(text) == (Version(version) if version else None)


def test_version_is_needed_only_where_versions_differ():
    plain = {"model": "m", "messages": [{"role": "user", "content": "x"}], "top_k": 1, "temperature": 0, "stream": True}
    assert not needs_version("chat", plain)
    for name in ("structured_outputs", "guided_choice", "bad_words", "use_activation"):
        assert needs_version("chat", {**plain, name: ["x"]}), name
    assert needs_version("chat", {"messages": [{"role": "assistant", "reasoning": "x"}]})


def test_validate_params_drops_none_and_rejects_invalid_values():
    assert validate_params("rerank", {"truncate_prompt_tokens": -1, "user": None}) == {"truncate_prompt_tokens": -1}
    with pytest.raises(e.InvalidRequest, match="truncate_prompt_tokens") as caught:
        validate_params("rerank", {"truncate_prompt_tokens": -2})
    assert caught.value.param == "truncate_prompt_tokens"


@pytest.mark.parametrize(
    ("endpoint", "body", "place"),
    [
        ("chat", {"top_k": -5}, "top_k"),
        ("chat", {"stop_token_ids": [1, "x"]}, "stop_token_ids.1"),
        ("completions", {"prompt_embeds": ["a", 5]}, "prompt_embeds"),  # str or list of str
        ("chat", {"structured_outputs": {"json": 5}}, "structured_outputs.json"),  # dict, str or class
        ("chat", {"structured_outputs": {"regx": "a"}}, "structured_outputs.regx"),
    ],
)
def test_error_names_the_place_of_an_invalid_value(endpoint, body, place):
    with pytest.raises(e.InvalidRequest, match=f"^`{place}` is invalid: ") as caught:
        validate_params(endpoint, body)
    assert caught.value.param == place


@pytest.mark.parametrize(
    ("reported", "stated", "sent"),
    [
        ("0.10.2", None, {"guided_choice": ["yes", "no"]}),
        ("0.32.0", None, {"structured_outputs": {"choice": ["yes", "no"]}}),
        (None, None, {"structured_outputs": {"choice": ["yes", "no"]}}),
        (None, "0.10.2", {"guided_choice": ["yes", "no"]}),
    ],
)
@pytest.mark.parametrize("given", [{"guided_choice": ["yes", "no"]}, {"structured_outputs": {"choice": ["yes", "no"]}}])
def test_request_is_translated_for_the_reported_or_stated_version(reported, stated, sent, given):
    with FaultServer(version=reported) as server:
        client = VLLMClient(server.url, server_version=stated, max_retries=0)
        message = {"role": "user", "content": "yes"}
        client.chat.completions.create(model="stub", messages=[message], extra_body=given)
        body = server.posts(CHAT)[0].json
    assert {k: v for k, v in body.items() if k not in ("model", "messages")} == sent
