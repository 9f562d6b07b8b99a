"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_adapters import __version__
from vllm_adapters._cli.main import main
from vllm_adapters._demo import runner
from vllm_adapters.errors import ServerUnreachable
from vllm_adapters.testing import faults

RECIPES = Path(__file__).parent.parent.parent / "recipes"


def test_tells_its_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"vllm-adapters {__version__}\n"


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "serve" in printed
    assert "demo" in printed
    assert "recipes" in printed
    assert "doctor" in printed


def test_wants_a_command(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "COMMAND" in capsys.readouterr().err


def test_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "vllm_adapters", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == f"vllm-adapters {__version__}"


def test_the_demo_gives_its_exit_code(monkeypatch):
    monkeypatch.setattr(runner, "run_demo", lambda: 1)
    assert main(["demo"]) == 1


def test_our_errors_are_one_line_and_exit_code_1(monkeypatch, capsys):
    def fail():
        raise ServerUnreachable("No answer", hint="Is it running?", address="http://gpu:8000/v1")

    monkeypatch.setattr(runner, "run_demo", fail)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "vllm-adapters: No answer (server: http://gpu:8000/v1). Is it running?\n"


def test_other_errors_keep_their_stack(monkeypatch):
    monkeypatch.setattr(runner, "run_demo", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


def test_control_c_is_130_without_a_stack(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_demo", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == ""


def test_the_demo_says_which_server_does_not_answer(monkeypatch, capsys):
    monkeypatch.setenv("VLLM_BASE_URL", "http://127.0.0.1:9")
    assert main(["demo"]) == 1
    said = capsys.readouterr().err
    assert "starting no server" in said
    assert "The server did not respond" in said
    assert "http://127.0.0.1:9/v1" in said


def test_recipes_are_listed_with_their_jobs(capsys):
    assert main(["recipes", "list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    there = {path.stem for path in RECIPES.iterdir() if path.suffix == ".py" or path.is_dir()} - {"__pycache__"}
    assert set(listed) == there
    assert listed["constrain_a_reply"].startswith("Constrain a reply to")


def test_recipes_are_grouped_and_wrapped_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["recipes", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("                ") for line in lines)
    assert [line for line in lines if line and not line.startswith(" ")] == [
        *("The client", "LangChain", "LlamaIndex", "Haystack", "Folders"),
        "vllm-adapters recipes show NAME, or copy NAME [DIR]",
    ]
    at = lines.index
    assert (
        at("LangChain") < next(n for n, line in enumerate(lines) if "move_from_chatopenai" in line) < at("LlamaIndex")
    )


def test_recipes_are_listed_in_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["recipes", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert any(line.startswith("  constrain_a_reply: Constrain a reply") for line in lines)


def test_a_recipe_is_shown_as_it_is(capsys):
    assert main(["recipes", "show", "constrain_a_reply.py"]) == 0
    assert capsys.readouterr().out == (RECIPES / "constrain_a_reply.py").read_text(encoding="utf-8")


def test_a_recipe_may_be_a_folder(tmp_path, capsys):
    assert main(["recipes", "show", "testing"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# --- testing/my_chain.py\n# /// script")
    assert '# --- testing/pyproject.toml\n[tool.pytest.ini_options]\nvllm_cassettes = "cassettes"\n' in printed
    assert main(["recipes", "copy", "testing", str(tmp_path)]) == 0
    copied = {path.name for path in (tmp_path / "testing").iterdir()}
    assert copied == {"my_chain.py", "test_my_chain.py", "pyproject.toml", "cassettes"}


def test_a_recipe_is_copied_but_never_over_another(tmp_path, capsys):
    target = tmp_path / "new" / "constrain_a_reply.py"
    assert main(["recipes", "copy", "constrain_a_reply", str(target.parent)]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert target.read_bytes() == (RECIPES / target.name).read_bytes()
    target.write_text("mine", encoding="utf-8")
    assert main(["recipes", "copy", "constrain_a_reply", str(target.parent)]) == 1
    assert "already exists" in capsys.readouterr().err
    assert target.read_text(encoding="utf-8") == "mine"


def test_a_recipe_is_copied_to_a_name_and_says_what_it_needs_in_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["recipes", "copy", "constrain_a_reply", str(tmp_path / "mine.py")]) == 0
    path, _, needs, *_ = capsys.readouterr().out.splitlines()
    assert (path, needs) == (str(tmp_path / "mine.py"), "Needs:  pip install vllm-adapters")
    assert main(["recipes", "copy", "serve", path]) == 1
    assert "Cannot copy to" in capsys.readouterr().err


def test_a_reader_that_has_had_enough_is_no_error():
    command = f"{sys.executable} -m vllm_adapters recipes show testing | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("# --- testing/my_chain.py\n", "")


def test_a_reader_of_a_table_that_has_had_enough_is_no_error():
    command = f"{sys.executable} -m vllm_adapters doctor http://127.0.0.1:9; echo $? >&2"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        running.stdout.close()
        assert running.stderr.read() == "141\n"


def test_a_full_disk_is_said_in_one_line():
    with open("/dev/full", "w") as full:
        for command in (["recipes", "list"], ["doctor", "http://127.0.0.1:9"]):
            done = subprocess.run(
                [sys.executable, "-m", "vllm_adapters", *command], stdout=full, stderr=subprocess.PIPE, text=True
            )
            assert (done.returncode, done.stderr) == (1, "vllm-adapters: [Errno 28] No space left on device\n")


def test_a_terminal_without_the_signs_gets_their_names():
    done = subprocess.run(
        [sys.executable, "-m", "vllm_adapters", "doctor", "http://127.0.0.1:9"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (2, "")
    assert r"\u2717  reachable" in done.stdout


def test_an_unknown_recipe_is_told_with_its_neighbours(capsys):
    assert main(["recipes", "show", "constrain"]) == 1
    assert "Did you mean constrain_a_reply?" in capsys.readouterr().err
    assert main(["recipes", "show", "move_from_openailke"]) == 1
    assert "Did you mean move_from_openailike" in capsys.readouterr().err
    assert main(["recipes", "show", "xyzzy"]) == 1
    assert "vllm-adapters recipes list" in capsys.readouterr().err


def test_doctor_prints_json_for_scripts(fault_server, capsys, monkeypatch):
    monkeypatch.setenv("VLLM_BASE_URL", fault_server.url)
    assert main(["doctor", "--json"]) == 1, "it echoes, so it enforces nothing"
    found = json.loads(capsys.readouterr().out)
    assert found["address"] == fault_server.url
    assert found["exit_code"] == 1
    assert {check["name"]: check["verdict"] for check in found["checks"]}["choice"] == "broken"


def test_doctor_writes_a_page_and_prints_a_table(make_fault_server, capsys, tmp_path):
    server = make_fault_server(routes=["/version", "/v1/models", "/v1/embeddings", "/openapi.json"])
    assert main(["doctor", server.url, "--html", str(tmp_path / "report.html")]) == 0
    assert "2 vectors of 8 dimensions" in capsys.readouterr().out
    assert "2 vectors of 8 dimensions" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_doctor_takes_the_key_from_the_variable_it_is_told(make_fault_server, capsys, monkeypatch):
    server = make_fault_server(api_key="sk-canary", routes=["/version", "/v1/models", "/openapi.json"])
    monkeypatch.setenv("THE_KEY", "sk-canary")
    assert main(["doctor", server.url, "--api-key-env", "THE_KEY"]) == 0
    monkeypatch.setenv("THE_KEY", "sk-other")
    assert main(["doctor", server.url, "--api-key-env", "THE_KEY", "--json"]) == 2
    printed = capsys.readouterr()
    assert "rejected the API key" in printed.out
    assert "sk-" not in printed.out + printed.err


@pytest.mark.parametrize("status", [200, 400])
def test_doctor_shows_no_key_that_a_server_repeats(make_fault_server, capsys, monkeypatch, tmp_path, status):
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


def test_doctor_does_not_repeat_a_key_given_for_the_name_of_its_variable(capsys):
    assert main(["doctor", "http://127.0.0.1:9", "--api-key", "sk-canary"]) == 2
    assert "sk-canary" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--api-key-env", "NOT_SET_HERE"], "names a variable that is not set"),
        (["localhost:8000"], "is not a valid server address"),
        (["--html", "no/such/folder/report.html"], "does not exist"),
        (["--html", "."], "is a folder"),
    ],
)
def test_doctor_that_cannot_ask_is_exit_code_2(arguments, said, capsys):
    assert main(["doctor", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-1", "nan"])
def test_doctor_wants_some_time(limit, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "--time-limit", limit])
    assert f"{limit} is not above 0" in capsys.readouterr().err


def test_doctor_tells_what_it_found_even_if_the_page_cannot_be_written(make_fault_server, capsys):
    server = make_fault_server(routes=["/version", "/v1/models", "/v1/embeddings", "/openapi.json"])
    assert main(["doctor", server.url, "--html", "/dev/full"]) == 2
    printed = capsys.readouterr()
    assert "2 vectors of 8 dimensions" in printed.out
    assert "vllm-adapters doctor: cannot write /dev/full: No space left on device\n" in printed.err


def test_doctor_of_nothing_is_exit_code_2(capsys):
    assert main(["doctor", "http://127.0.0.1:9"]) == 2
    assert "connection failed: " in capsys.readouterr().out
