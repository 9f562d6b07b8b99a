"""The plugin in other people's projects: asleep until two lines of settings want it, and then all of it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vllm_adapters

SWITCH = "vllm_adapters._pytest"
SOURCES = Path(vllm_adapters.__file__).parent.parent
PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"

TEST = """
import pytest

@pytest.mark.vllm("tiny")
def test_chat(vllm_server, sent):
    reply = vllm_server.client.chat.completions.create(model="", messages=[{"role": "user", "content": "hi"}])
    assert reply.choices[0].message.content == "hi"
    assert [request.path for request in sent][-1] == "/v1/chat/completions"

def test_of_something_else():
    import socket
    with socket.create_server(("127.0.0.1", 0)) as there:
        socket.create_connection(there.getsockname()).close()
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Runs a project of its own in a process of its own, where the switch is loaded as installed plugins are."""

    def run(*args, **environ):
        monkeypatch.delenv("VLLM_BASE_URL", raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return pytester.runpytest_subprocess("-p", SWITCH, "-p", "no:cacheprovider", *args)

    return run


def test_it_is_installed_as_a_plugin_of_pytest():
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    # The name is the module's, so that a second way of loading it finds it loaded.
    assert project["entry-points"]["pytest11"] == {SWITCH: SWITCH}


def test_two_lines_are_enough(pytester, run, make_fault_server):
    server = make_fault_server()
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nvllm_cassettes = "tests/cassettes"\n')
    tests = pytester.mkdir("tests")
    tests.joinpath("test_chain.py").write_text(TEST, encoding="utf-8")
    strangers = tests / "cassettes" / "test_other" / "test_x.yaml"
    strangers.parent.mkdir(parents=True)
    strangers.write_text("interactions: []\nversion: 1\n", encoding="utf-8")

    run("--live", "--record", VLLM_BASE_URL=server.url).assert_outcomes(passed=2)
    asked = len(server.requests)
    assert (tests / "cassettes" / "test_chain" / "test_chat.yaml").is_file()  # mirrors tests, with or without testpaths
    assert strangers.is_file()  # of another recorder: none of ours

    result = run()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["vllm: recorded; cassettes: 1 of vLLM 0.32.0"])
    assert len(server.requests) == asked


def test_a_project_that_does_not_ask_for_it_sees_nothing(pytester, run):
    pytester.makeconftest(
        """
        def pytest_addoption(parser):
            parser.addoption("--live")
            parser.addoption("--record")

        def pytest_configure(config):
            assert not config.pluginmanager.has_plugin("vllm_adapters.testing.plugin")
        """
    )
    pytester.makepyfile(TEST.replace('@pytest.mark.vllm("tiny")', "@pytest.mark.skip"))
    result = run("--strict-markers", "--live", "yes")
    result.assert_outcomes(passed=1, skipped=1)
    assert "vllm:" not in result.stdout.str()


def test_the_switch_alone_loads_nothing():
    code = (
        f"import sys, {SWITCH}; print([name for name in "
        "('openai', 'pytest', 'vcr', 'yaml', 'vllm_adapters.testing') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_missing_is_said_in_one_line(pytester, run):
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nvllm_cassettes = "cassettes"\n')
    pytester.path.joinpath("hide.py").write_text("import sys\nsys.modules['pytest_recording'] = None\n", "utf-8")
    result = run("-p", "hide", "-p", "no:recording", PYTHONPATH=f"{pytester.path}:{SOURCES}")
    result.stderr.fnmatch_lines(["ERROR: vllm_cassettes is set, but pytest_recording is not installed: pip install*"])
