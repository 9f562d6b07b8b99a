"""Every recipe runs as it stands, sends what it is about, and is short."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest

RECIPES = Path(__file__).parent.parent.parent / "recipes"
CHAT = "/v1/chat/completions"


@pytest.fixture
def cook(capsys):
    """Runs a recipe and returns the lines it printed."""

    def run(name: str) -> list[str]:
        runpy.run_path(str(RECIPES / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


@pytest.mark.vllm("tiny")
def test_get_reasoning_in_langchain(cook, sent):
    pytest.importorskip("langchain_openai")
    lines = cook("get_reasoning_in_langchain.py")
    assert lines[:3] == ["thought: This is an easy question.", "answer: The capital of Japan is Tokyo.", "streamed:"]
    assert [line for line in lines[3:] if line] == ["This is an easy question.", "The capital of Japan is Tokyo."]
    assert [body["chat_template_kwargs"] for body in sent.bodies(CHAT)] == [{"enable_thinking": True}] * 2


@pytest.mark.vllm("tiny")
def test_constrain_a_reply(cook, sent):
    choice, year, city = cook("constrain_a_reply.py")
    assert choice in ("choice: tea", "choice: coffee")
    assert re.fullmatch(r"regex: (18|19)\d\d", year)
    assert city == "json: City(city='Rome', n=1)"
    assert [list(body["structured_outputs"]) for body in sent.bodies(CHAT)] == [["choice"], ["regex"], ["json"]]


@pytest.mark.vllm("tiny", "minilm", "cross-encoder")
def test_answer_from_documents_in_haystack(cook, sent, vllm_urls, monkeypatch):
    pytest.importorskip("haystack")
    monkeypatch.setenv("VLLM_EMBED_BASE_URL", vllm_urls["minilm"])
    monkeypatch.setenv("VLLM_RERANK_BASE_URL", vllm_urls["cross-encoder"])
    lines = cook("answer_from_documents_in_haystack.py")
    assert lines == ["from: Tokyo is the capital city of Japan.", "answer: The capital of Japan is Tokyo."]
    assert sent.bodies(CHAT)[0]["top_k"] == 20


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.py")), ids=lambda path: path.stem)
def test_is_short_and_says_what_it_needs(recipe):
    text = recipe.read_text(encoding="utf-8")
    header = re.match(r"# /// script\n((?:# .*\n)+)# ///\n", text)
    assert header, "no script header"
    needs = tomllib.loads(re.sub(r"^# ", "", header[1], flags=re.M))["dependencies"]
    assert any(need.startswith("vllm-adapters") for need in needs)
    assert len(text.splitlines()) <= 60
    assert f"def test_{recipe.stem}(" in Path(__file__).read_text(encoding="utf-8"), "no test runs this recipe"
