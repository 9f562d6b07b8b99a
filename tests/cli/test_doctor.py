"""``vllm-adapters doctor``: options, output and exit codes."""

from __future__ import annotations

import json

import pytest

from vllm_adapters._cli.main import main
from vllm_adapters.testing import faults


def test_json(fault_server, capsys, monkeypatch):
    monkeypatch.setenv("VLLM_BASE_URL", fault_server.url)
    assert main(["doctor", "--json"]) == 1, "the fault server does not enforce constraints"
    report = json.loads(capsys.readouterr().out)
    assert report["address"] == fault_server.url
    assert report["exit_code"] == 1
    assert {check["name"]: check["verdict"] for check in report["checks"]}["choice"] == "broken"


def test_html_and_table(make_fault_server, capsys, tmp_path):
    server = make_fault_server(routes=["/version", "/v1/models", "/v1/embeddings", "/openapi.json"])
    assert main(["doctor", server.url, "--html", str(tmp_path / "report.html")]) == 0
    assert "2 vectors of 8 dimensions" in capsys.readouterr().out
    assert "2 vectors of 8 dimensions" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_api_key_env_names_the_variable_of_the_key(make_fault_server, capsys, monkeypatch):
    server = make_fault_server(api_key="sk-canary", routes=["/version", "/v1/models", "/openapi.json"])
    monkeypatch.setenv("THE_KEY", "sk-canary")
    assert main(["doctor", server.url, "--api-key-env", "THE_KEY"]) == 0
    monkeypatch.setenv("THE_KEY", "sk-other")
    assert main(["doctor", server.url, "--api-key-env", "THE_KEY", "--json"]) == 2
    printed = capsys.readouterr()
    assert "rejected the API key" in printed.out
    assert "sk-" not in printed.out + printed.err


@pytest.mark.parametrize("status", [200, 400])
def test_a_key_in_a_response_is_redacted(make_fault_server, capsys, monkeypatch, tmp_path, status):
    server = make_fault_server(api_key="sk-canary", routes=["/version", "/v1/models", "/v1/chat/completions"])
    answer = faults.chat("x" * 55 + "sk-canary") if status == 200 else faults.error(400, "x" * 295 + "sk-canary")
    server.reply(answer, "/v1/chat/completions")
    monkeypatch.setenv("VLLM_API_KEY", "sk-canary")
    page = tmp_path / "report.html"
    for arguments in ([], ["--json"]):
        main(["doctor", server.url, "--html", str(page), *arguments])
        printed = capsys.readouterr()
        assert "***" in printed.out
        assert "sk-c" not in printed.out + printed.err + page.read_text(encoding="utf-8")


def test_a_key_given_as_the_name_of_its_variable_is_not_printed(capsys):
    assert main(["doctor", "http://127.0.0.1:9", "--api-key", "sk-canary"]) == 2
    assert "sk-canary" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--api-key-env", "NOT_SET_HERE"], "names a variable that is not set"),
        (["localhost:8000"], "is not a valid server address"),
        (["--html", "no/such/folder/report.html"], "does not exist"),
        (["--html", "."], "is a folder"),
    ],
)
def test_invalid_arguments_are_exit_code_2(arguments, message, capsys):
    assert main(["doctor", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-1", "nan"])
def test_time_limit_must_be_positive(limit, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "--time-limit", limit])
    assert f"{limit} is not above 0" in capsys.readouterr().err


def test_the_table_is_printed_even_if_the_page_cannot_be_written(make_fault_server, capsys):
    server = make_fault_server(routes=["/version", "/v1/models", "/v1/embeddings", "/openapi.json"])
    assert main(["doctor", server.url, "--html", "/dev/full"]) == 2
    printed = capsys.readouterr()
    assert "2 vectors of 8 dimensions" in printed.out
    assert "vllm-adapters doctor: cannot write /dev/full: No space left on device\n" in printed.err


def test_an_unreachable_server_is_exit_code_2(capsys):
    assert main(["doctor", "http://127.0.0.1:9"]) == 2
    assert "connection failed: " in capsys.readouterr().out
