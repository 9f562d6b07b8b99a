"""Reports of real servers. A server that is started with the flags that a report names passes the checks."""

from __future__ import annotations

import json
import shlex

import pytest
from packaging.version import Version
from version_marks import vllm_since

from vllm_adapters.doctor import Verdict, examine

WORKS, LACKS, BROKEN, ABSENT, UNCLEAR = (
    Verdict.WORKS,
    Verdict.LACKS,
    Verdict.BROKEN,
    Verdict.ABSENT,
    Verdict.UNCLEAR,
)
KEY = "sk-of-the-examined"

ENFORCED = """--structured-outputs-config '{"enable_in_reasoning": true}'"""
NEEDED = (
    "--reasoning-parser qwen3",
    """--default-chat-template-kwargs '{"enable_thinking": false}'""",
    "--enable-auto-tool-choice",
    "--tool-call-parser hermes",
)
OPTIONAL = (
    "--enable-prompt-tokens-details",
    "--enable-request-id-headers",
    "--enable-per-request-metrics",
    "--enable-tokenizer-info-endpoint",
)

CHAT = ("chat", "usage", "stream-usage", "logprobs", "completions")  # not "stream": recorders buffer it, too
TOOLS = ("tools-auto", "tools-required", "tools-strict", "tools-stream")
STRUCTURED = ("json", "response-format", "regex", "choice", "grammar", "structural-tag")
POOLING = ("embeddings", "rerank", "score", "classify", "pooling")


def verdicts(report, *names):
    return {name: report[name].verdict for name in names}


def all_are(verdict, *names):
    return dict.fromkeys(names, verdict)


@pytest.mark.vllm("tiny")
def test_chat_server_with_all_flags(vllm_url, vllm_version, sent):
    report = examine(vllm_url)
    assert report.version == str(vllm_version)
    if vllm_version < Version("0.30"):  # it does not enforce a constraint beside a reasoning parser
        assert verdicts(report, *CHAT, "tools-auto") == all_are(WORKS, *CHAT, "tools-auto")
        assert verdicts(report, *TOOLS[1:], "choice") == all_are(BROKEN, *TOOLS[1:], "choice")
        assert report.missing_flags == report["choice"].flags == (ENFORCED,)
        assert report.exit_code == 1
        return
    working = (*CHAT, "reasoning", *TOOLS, *STRUCTURED, "tokenize", "metrics", "prefix-cache", "schema")
    assert verdicts(report, *working) == all_are(WORKS, *working)
    assert verdicts(report, *POOLING) == all_are(ABSENT, *POOLING)
    assert verdicts(report, "tool-results", "prefill") == all_are(WORKS, "tool-results", "prefill")
    assert report["system"].text == "the chat template drops it silently", "tiny's template has no system messages"
    assert report["system-twice"].advice == report["system"].advice, "merging does not help"
    assert report.models == ("tiny",)
    assert report["models"].data["max_model_len"] == 2048
    assert report["speed"].data["tokens_per_second"] > 0
    assert report["completions-choice"].verdict is BROKEN, "known problem of 0.32 with a reasoning parser"
    assert report["completions-choice"].flags == (ENFORCED,)
    assert report.missing_flags == ()
    assert report.exit_code == 0
    assert "The capital of Japan is Tokyo." in report["chat"].text
    assert "easy question" in report["reasoning"].text
    assert len(sent) == report.requests <= 42
    assert {body["max_tokens"] for body in sent.bodies("/v1/chat/completions")} <= {1, 48, 64}


@pytest.mark.vllm("tiny", bare=True)
def test_chat_server_without_flags_names_them(vllm_url, vllm_version):
    report = examine(vllm_url)
    # The parser of versions before 0.18 would not parse this model's thinking.
    assert report.missing_flags == (NEEDED if vllm_version >= Version("0.18") else NEEDED[2:])
    absent = () if vllm_version >= Version("0.25") else ("--enable-per-request-metrics",)
    assert report.optional_flags == ("--api-key KEY", *(flag for flag in OPTIONAL if flag not in absent))
    assert verdicts(report, "reasoning", *TOOLS) == all_are(LACKS, "reasoning", *TOOLS)
    assert "</think>" in report["reasoning"].text
    assert report["tools-auto"].flags == ("--enable-auto-tool-choice", "--tool-call-parser hermes")
    assert report["tools-required"].flags == ("--tool-call-parser hermes",)
    assert verdicts(report, *CHAT, *STRUCTURED, "completions-choice") == all_are(
        WORKS, *CHAT, *STRUCTURED, "completions-choice"
    )
    assert report["prefix-cache"].flags == ("--enable-prompt-tokens-details",)
    assert report.exit_code == 1


@pytest.mark.vllm(
    "tiny",
    bare=True,
    api_key=KEY,
    flags=tuple(shlex.split(" ".join((*NEEDED, ENFORCED, *OPTIONAL)))),
)
@vllm_since("0.25", reason="--enable-per-request-metrics stops an older server")
def test_named_flags_fix_every_fault(vllm_url):
    report = examine(vllm_url, api_key=KEY)
    faults = {result.check.name for result in report.results if result.finding.verdict in (LACKS, BROKEN)}
    assert faults - {"stream"} == {"open-routes"}
    assert "accessible without the key: /invocations" in report["open-routes"].text
    assert "/tokenize" in report["open-routes"].text
    assert "/metrics" in report["open-routes"].text
    assert "/v1" not in report["open-routes"].text
    assert report["key"].verdict is WORKS
    assert KEY not in json.dumps(report.as_json())
    assert report.requests <= 54


@pytest.mark.vllm("tiny", api_key=KEY)
@pytest.mark.parametrize("key", [None, "sk-another"], ids=["none", "wrong"])
def test_server_without_access_is_unusable(vllm_url, vllm_version, key, sent):
    report = examine(vllm_url, api_key=key)
    assert report.exit_code == 2
    assert report["vllm"].verdict is BROKEN
    problem = "rejected the API key" if key else "requires an API key, and none was given"
    assert report["vllm"].text == f"vLLM {vllm_version} {problem}"
    assert "--api-key-env" in report["vllm"].advice
    assert report["chat"].verdict is Verdict.UNTRIED
    assert len(sent) == 2, "no further request is sent"


@pytest.mark.vllm("minilm")
def test_embedding_server(vllm_url, vllm_version, sent):
    report = examine(vllm_url)
    assert report["embeddings"].data["dimensions"] == 384
    assert "Tokyo" in report["rerank"].text
    assert verdicts(report, "score", "pooling", "tokenize", "metrics") == all_are(
        WORKS, "score", "pooling", "tokenize", "metrics"
    )
    absent = (*CHAT, "reasoning", "speed", *TOOLS, *STRUCTURED, "classify")
    assert verdicts(report, *absent) == all_are(ABSENT, *absent)
    assert report.missing_flags == ()
    assert report.exit_code == 0
    if vllm_version >= Version("0.16"):  # older servers have all routes, whatever their model
        assert not sent.bodies("/v1/chat/completions")


@pytest.mark.vllm("cross-encoder")
def test_reranker(vllm_url):
    report = examine(vllm_url)
    assert verdicts(report, "rerank", "score", "classify", "chat", "embeddings") == {
        **all_are(WORKS, "rerank", "score", "classify"),
        **all_are(ABSENT, "chat", "embeddings"),
    }
    assert report.exit_code == 0


@pytest.mark.another_version
@pytest.mark.vllm("tiny", version="0.28.0")
def test_older_version_that_ignores_constraints(vllm_url):
    report = examine(vllm_url)
    assert report.version == "0.28.0"
    assert verdicts(report, *STRUCTURED) == all_are(BROKEN, *STRUCTURED)
    assert report["choice"].text == "silently ignored: 'The capital of Japan is Tokyo.'"
    assert report["tools-required"].verdict is BROKEN, "the call stays in the content"
    assert report.missing_flags == (ENFORCED,)
    assert verdicts(report, *CHAT, "reasoning", "tools-auto", "schema") == all_are(
        WORKS, *CHAT, "reasoning", "tools-auto", "schema"
    )
    assert report.exit_code == 1


@pytest.mark.another_version
@pytest.mark.vllm("tiny", version="0.14.1")
def test_parser_that_is_set_already_is_not_advised(vllm_url):
    report = examine(vllm_url)
    assert report["reasoning"].text.startswith("thinking stays in the content: 'This is an easy question. </think>")
    assert report["reasoning"].flags == ()
    assert "Update vLLM, or cut the text at </think>" in report["reasoning"].advice
    assert report.missing_flags == (ENFORCED,)
    assert report["schema"].verdict is WORKS


@pytest.mark.another_version
@pytest.mark.vllm("tiny", version="0.28.0", flags=tuple(shlex.split(ENFORCED)))
def test_older_version_with_the_named_flag(vllm_url):
    report = examine(vllm_url)
    assert verdicts(report, *STRUCTURED, *TOOLS) == all_are(WORKS, *STRUCTURED, *TOOLS)
    assert report.missing_flags == ()


ONE_SYSTEM_MESSAGE = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    "{% if m.role != 'tool' %}{{ m.role }}:{{ m.content }} {% endif %}{% endfor %}assistant:"
)


@pytest.mark.vllm("tiny", flags=("--chat-template", ONE_SYSTEM_MESSAGE))
def test_what_the_chat_template_allows(vllm_url, sent):
    report = examine(vllm_url)
    assert verdicts(report, "system", "prefill") == all_are(WORKS, "system", "prefill")
    assert verdicts(report, "system-twice", "system-last", "tool-results") == all_are(
        ABSENT, "system-twice", "system-last", "tool-results"
    )
    for name in ("system-twice", "system-last"):
        assert "refuses it: 'System message must be at the beginning." in report[name].text
        assert report[name].advice.startswith("Set merge_system_messages=True")
    assert report["tool-results"].text == "the chat template drops it silently"
    assert all("merge_system_messages" not in body for body in sent.bodies("/v1/chat/completions"))
