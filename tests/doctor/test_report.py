"""Reports: exit codes, flags, JSON, the terminal and the HTML page."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from vllm_adapters.doctor.model import (
    Check,
    Report,
    Result,
    broken,
    missing,
    skipped,
    unknown,
    unsupported,
    works,
)
from vllm_adapters.doctor.render.html import render_html
from vllm_adapters.doctor.render.terminal import print_report

SCRIPT = "<script>alert(1)</script>"


def make_result(name, finding, *, group="chat", counts=True):
    return Result(Check(name, group, f"Is {name} there?", lambda probe: finding, counts=counts), finding)


def make_report(*results, usable=True, complete=True):
    return Report(
        address="http://gpu:8000/v1",
        version="0.32.0" if usable else None,
        models=("m",),
        routes=("/v1/models",),
        results=results,
        requests=9,
        usable=usable,
        complete=complete,
    )


FULL = make_report(
    make_result("chat", works("'Hello'", dimensions=3)),
    make_result("tools", missing("no parser", "--enable-auto-tool-choice", "--tool-call-parser hermes", advice="note")),
    make_result("again", missing("no parser", "--tool-call-parser hermes")),
    make_result("ids", missing("no ids", "--enable-request-id-headers"), counts=False),
    make_result("rerank", unsupported("the route is not mounted (no /rerank)"), group="pooling"),
    make_result("score", unsupported("the route is not mounted (no /score)"), group="pooling"),
)


def printed(report, width=120):
    out = io.StringIO()
    print_report(report, Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (make_report(make_result("chat", works("")), make_result("rerank", unsupported(""))), 0),
        (make_report(make_result("chat", works("")), make_result("reasoning", unknown(""))), 0),
        (make_report(make_result("ids", missing("", "--x"), counts=False)), 0),
        (make_report(make_result("tools", missing("", "--x"))), 1),
        (make_report(make_result("json", broken(""))), 1),
        (make_report(make_result("speed", works("")), complete=False), 1),
        (make_report(make_result("reachable", broken("connection failed")), usable=False), 2),
    ],
    ids=["works", "unknown", "optional", "missing", "broken", "incomplete", "unusable"],
)
def test_exit_code(report, code):
    assert report.exit_code == code
    assert report.as_json()["exit_code"] == code


def test_flags_are_unique_and_optional_ones_separate():
    assert FULL.missing_flags == ("--enable-auto-tool-choice", "--tool-call-parser hermes")
    assert FULL.optional_flags == ("--enable-request-id-headers",)


def test_json_format():
    data = json.loads(json.dumps(FULL.as_json()))
    assert data["format"] == 1
    assert set(data) == {
        *("format", "address", "usable", "complete", "exit_code", "version", "models", "routes", "requests"),
        *("missing_flags", "optional_flags", "checks"),
    }
    assert data["usable"] is data["complete"] is True
    assert data["checks"][0] == {
        "name": "chat",
        "group": "chat",
        "asks": "Is chat there?",
        "counts": True,
        "verdict": "works",
        "text": "'Hello'",
        "flags": [],
        "advice": "",
        "data": {"dimensions": 3},
    }
    assert data["missing_flags"] == ["--enable-auto-tool-choice", "--tool-call-parser hermes"]


def test_json_verdicts():
    findings = [works(""), missing(""), broken(""), unsupported(""), unknown(""), skipped("")]
    checks = make_report(*(make_result("x", finding) for finding in findings)).as_json()["checks"]
    assert [check["verdict"] for check in checks] == ["works", "lacks", "broken", "absent", "unclear", "untried"]


def test_terminal_shows_flags_and_faults():
    text = printed(FULL)
    assert "http://gpu:8000/v1: vLLM 0.32.0" in text
    assert "Add to vllm serve:\n  --enable-auto-tool-choice \\\n  --tool-call-parser hermes\n" in text
    assert "Missing or broken: tools, again." in text
    assert "rerank, score" in text, "unsupported features share a row"


def test_terminal_of_80_columns_wraps_at_words():
    checks = [
        make_result(f"kind-of-output-{n}", broken("silently ignored " * 12, "--a-flag '{\"its\": 1}'"))
        for n in range(9)
    ]
    text = printed(make_report(*checks), width=80)
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert set(text.replace(",", " ").split()) >= {f"kind-of-output-{n}" for n in range(9)} | {"silently", "ignored"}
    assert "  --a-flag '{\"its\": 1}'\n" in text
    assert text.count("add --a-flag") == 1, "equal findings share a row"


def test_incomplete_report_says_so():
    chat, speed = make_result("chat", works("'Hello'")), make_result("speed", skipped("time limit reached"))
    text = printed(make_report(chat, speed, complete=False))
    assert "Everything that this model supports works" not in text
    assert "Not all checks could run." in text


def test_broken_checks_that_do_not_count_are_mentioned():
    report = make_report(make_result("completions-choice", broken("silently ignored"), counts=False))
    assert report.exit_code == 0
    assert "Also broken, without effect on the exit code: completions-choice." in printed(report)


def test_skipped_checks_of_an_unusable_server_have_no_row():
    skipped_check = make_result("later", skipped("not a vLLM server"))
    text = printed(make_report(make_result("vllm", broken("not a vLLM server")), skipped_check, usable=False))
    assert "later" not in text
    assert "No usable vLLM server." in text


def test_terminal_prints_no_markup_from_texts():
    assert "[bold]x[/bold]" in printed(make_report(make_result("chat", works("[bold]x[/bold]"))))


def test_terminal_prints_no_markup_from_the_address():
    report = replace(make_report(make_result("chat", works("'Hello'"))), address="http://[fd00::1]:8000/v1")
    assert printed(report).startswith("http://[fd00::1]:8000/v1: vLLM 0.32.0")


def test_html_page_is_self_contained_and_escaped():
    html = render_html(make_report(make_result("chat", broken(SCRIPT, f"--x {SCRIPT}", advice=SCRIPT))))
    assert SCRIPT not in html
    assert "&lt;script&gt;" in html
    assert "src=" not in html
    assert "http://gpu:8000/v1: vLLM 0.32.0" in html
    assert 'class="fault"' in html
    assert '<div class="fault"><dt ' in html, "a definition list contains only terms and definitions"
