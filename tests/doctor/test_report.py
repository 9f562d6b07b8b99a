"""What becomes of findings: exit codes, flags, JSON, the terminal and the page."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from vllm_adapters.doctor.model import Check, Finding, Report, Result, Verdict, absent, broken, lacks, untried, works
from vllm_adapters.doctor.render.html import page
from vllm_adapters.doctor.render.terminal import show

SCRIPT = "<script>alert(1)</script>"


def result(name, finding, *, group="chat", counts=True):
    return Result(Check(name, group, f"Is {name} there?", lambda visit: finding, counts=counts), finding)


def report(*results, usable=True, complete=True):
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


FULL = report(
    result("chat", works("'Hello'", dimensions=3)),
    result("tools", lacks("no parser", "--enable-auto-tool-choice", "--tool-call-parser hermes", advice="as you like")),
    result("again", lacks("no parser", "--tool-call-parser hermes")),
    result("ids", lacks("no ids", "--enable-request-id-headers"), counts=False),
    result("rerank", absent("the served model has no such task (no /rerank)"), group="pooling"),
    result("score", absent("the served model has no such task (no /score)"), group="pooling"),
)


def printed(found, width=120):
    out = io.StringIO()
    show(found, Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (report(result("chat", works("")), result("rerank", absent(""))), 0),
        (report(result("chat", works("")), result("reasoning", Finding(Verdict.UNCLEAR, ""))), 0),
        (report(result("ids", lacks("", "--x"), counts=False)), 0),
        (report(result("tools", lacks("", "--x"))), 1),
        (report(result("json", broken(""))), 1),
        (report(result("speed", works("")), complete=False), 1),
        (report(result("reachable", broken("nothing answers")), usable=False), 2),
    ],
    ids=["works", "unclear", "optional", "lacks", "broken", "cut short", "nothing"],
)
def test_exit_codes(found, code):
    assert found.exit_code == code
    assert found.as_json()["exit_code"] == code


def test_flags_are_told_once_and_optional_ones_apart():
    assert FULL.missing_flags == ("--enable-auto-tool-choice", "--tool-call-parser hermes")
    assert FULL.optional_flags == ("--enable-request-id-headers",)


def test_json_has_a_version_and_only_json_values():
    found = json.loads(json.dumps(FULL.as_json()))
    assert found["format"] == 1
    assert set(found) == {
        *("format", "address", "usable", "complete", "exit_code", "version", "models", "routes", "requests"),
        *("missing_flags", "optional_flags", "checks"),
    }
    assert found["usable"] is found["complete"] is True
    assert found["checks"][0] == {
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
    assert found["missing_flags"] == ["--enable-auto-tool-choice", "--tool-call-parser hermes"]


def test_the_terminal_names_flags_and_faults():
    text = printed(FULL)
    assert "http://gpu:8000/v1: vLLM 0.32.0" in text
    assert "Add to vllm serve:\n  --enable-auto-tool-choice \\\n  --tool-call-parser hermes\n" in text
    assert "At fault: tools, again." in text
    assert "rerank, score" in text, "what the model has not stands together"


def test_a_pipe_of_80_columns_gets_whole_words_and_no_colours():
    checks = [
        result(f"kind-of-output-{n}", broken("silently not enforced " * 9, "--a-flag '{\"its\": 1}'")) for n in range(9)
    ]
    text = printed(report(*checks), width=80)
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert set(text.replace(",", " ").split()) >= {f"kind-of-output-{n}" for n in range(9)} | {"silently", "enforced"}
    assert "  --a-flag '{\"its\": 1}'\n" in text
    assert text.count("add --a-flag") == 1, "what several checks found is said once"


def test_a_report_cut_short_does_not_praise():
    text = printed(
        report(result("chat", works("'Hello'")), result("speed", untried("the time was up")), complete=False)
    )
    assert "All that this model can do works" not in text
    assert "Not all could be asked." in text


def test_what_was_not_asked_has_no_row():
    text = printed(report(result("vllm", broken("no vLLM")), result("later", untried("no vLLM")), usable=False))
    assert "later" not in text
    assert "Nothing usable there." in text


def test_texts_of_a_server_are_no_markup():
    assert "[bold]x[/bold]" in printed(report(result("chat", works("[bold]x[/bold]"))))


def test_an_address_is_no_markup():
    found = replace(report(result("chat", works("'Hello'"))), address="http://[fd00::1]:8000/v1")
    assert printed(found).startswith("http://[fd00::1]:8000/v1: vLLM 0.32.0")


def test_the_page_stands_alone_and_escapes_what_a_server_said():
    html = page(report(result("chat", broken(SCRIPT, f"--x {SCRIPT}", advice=SCRIPT))))
    assert SCRIPT not in html
    assert "&lt;script&gt;" in html
    assert "src=" not in html
    assert "http://gpu:8000/v1: vLLM 0.32.0" in html
    assert 'class="fault"' in html
    assert '<div class="fault"><dt ' in html, "a list of definitions holds nothing else"
