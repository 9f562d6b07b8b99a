"""The plugin in a user's project: inactive until one setting enables it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vllm_adapters

ENTRY_POINT = "vllm_adapters._pytest"
SOURCES = Path(vllm_adapters.__file__).parent.parent
PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"

TEST = """
import pytest

@pytest.mark.vllm("tiny")
def test_chat(vllm_server, sent):
    reply = vllm_server.client.chat.completions.create(model="", messages=[{"role": "user", "content": "hi"}])
    assert reply.choices[0].message.content == "hi"
    assert [request.path for request in sent][-1] == "/v1/chat/completions"

def test_unmarked():
    import socket
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Runs a project in a process of its own, with the entry point loaded as pytest loads installed plugins."""

    def run(*args, **environ):
        monkeypatch.delenv("VLLM_BASE_URL", raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return pytester.runpytest_subprocess("-p", ENTRY_POINT, "-p", "no:cacheprovider", *args)

    return run


def test_the_package_declares_a_pytest_entry_point():
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    # It is named like its module, so that pytest does not load it twice.
    assert project["entry-points"]["pytest11"] == {ENTRY_POINT: ENTRY_POINT}


def test_one_setting_enables_the_plugin(pytester, run, make_fault_server):
    server = make_fault_server()
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nvllm_cassettes = "tests/cassettes"\n')
    tests = pytester.mkdir("tests")
    tests.joinpath("test_chain.py").write_text(TEST, encoding="utf-8")
    foreign = tests / "cassettes" / "test_other" / "test_x.yaml"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("interactions: []\nversion: 1\n", encoding="utf-8")

    run("--live", "--record", VLLM_BASE_URL=server.url).assert_outcomes(passed=2)
    requests = len(server.requests)
    assert (tests / "cassettes" / "test_chain" / "test_chat.yaml").is_file()  # mirrors tests even without testpaths
    assert foreign.is_file()  # of another tool, so it stays

    result = run()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["vllm: replay; cassettes: 1 from vLLM 0.32.0"])
    assert len(server.requests) == requests


def test_without_the_setting_nothing_is_added(pytester, run):
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


def test_the_entry_point_loads_the_standard_library_only():
    code = (
        f"import sys, {ENTRY_POINT}; print([name for name in "
        "('openai', 'pytest', 'vcr', 'yaml', 'vllm_adapters.testing') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_is_a_usage_error(pytester, run):
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nvllm_cassettes = "cassettes"\n')
    pytester.path.joinpath("hide.py").write_text("import sys\nsys.modules['pytest_recording'] = None\n", "utf-8")
    result = run("-p", "hide", "-p", "no:recording", PYTHONPATH=f"{pytester.path}:{SOURCES}")
    result.stderr.fnmatch_lines(["ERROR: vllm_cassettes is set, but pytest_recording is not installed: pip install*"])
