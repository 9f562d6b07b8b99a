"""Temporary projects that use the plugin, with a fault server as their vLLM."""

import numpy  # noqa: F401 (it cannot be imported again after a project has run in this process)
import openai  # noqa: F401 (so that projects, which run in this process, do not import it again each time)
import pytest

from vllm_adapters.testing import payloads

HEAD = """
import asyncio, json, os
import openai, pytest

def ask(url, text="hi", **more):
    with openai.OpenAI(base_url=url, api_key="canary-key", max_retries=1) as client:
        return client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": text}], **more
        )
"""

INI = """
[pytest]
testpaths = tests
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""


class Project:
    """A project with one test module, which can be run replayed or live."""

    def __init__(self, pytester, monkeypatch, server):
        self.pytester, self.monkeypatch, self.server = pytester, monkeypatch, server
        pytester.makeconftest('pytest_plugins = ["vllm_adapters.testing.plugin"]')
        pytester.makeini(INI)

    def write(self, code, path="tests/chat/test_one.py"):
        target = self.pytester.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(HEAD + code, encoding="utf-8")

    def run(self, *args):
        self.monkeypatch.delenv("VLLM_BASE_URL", raising=False)
        return self.pytester.runpytest("-p", "no:cacheprovider", *args)

    def live(self, *args):
        self.monkeypatch.setenv("VLLM_BASE_URL", self.server.url)
        return self.pytester.runpytest("-p", "no:cacheprovider", "--live", *args)

    def record(self, *args):
        return self.live("--record", *args)

    def cassette(self, name):
        return self.pytester.path / "cassettes" / f"{name}.yaml"


@pytest.fixture
def project(pytester, monkeypatch, make_fault_server, tmp_path):
    card = {**payloads.models("tiny")["data"][0], "root": str(tmp_path / "models" / "some-folder")}
    return Project(pytester, monkeypatch, make_fault_server(models=[card]))
