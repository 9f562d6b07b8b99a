"""Every framework passes every scenario that it supports, against recorded servers."""

from __future__ import annotations

from importlib import import_module

import pytest
from version_marks import forced_call_is_enforced, not_enforced_before, reasoning_is_parsed

from vllm_adapters._demo.runner import FRAMEWORKS, Framework, run_scenario
from vllm_adapters._demo.scenarios import SCENARIOS, FrameworkDemo, Scenario
from vllm_adapters._demo.servers import DemoServer

CHAT = {"chat", "stream", "reasoning", "tool call", "structured output", "parameters"}
POOLING = {"embeddings", "rerank"}
SUPPORTED = {
    "client": CHAT | POOLING,
    "LangChain": CHAT | POOLING,
    "LlamaIndex": CHAT | POOLING,
    "Haystack": CHAT | POOLING,
}
"""What each framework must support: a scenario that it loses fails here."""


SINCE = {
    "reasoning": reasoning_is_parsed,
    "tool call": forced_call_is_enforced,
    "structured output": not_enforced_before("0.30", match="ConstraintNotEnforced"),
    "parameters": not_enforced_before("0.30", match="ConstraintNotEnforced"),
}
"""What a scenario needs of the server."""


def pairs(names: set[str]):
    """Every framework with every scenario of ``names``, as parameters of a test."""
    return pytest.mark.parametrize(
        ("framework", "scenario"),
        [
            pytest.param(
                framework,
                scenario,
                id=f"{framework.title}-{scenario.name.replace(' ', '-')}",
                marks=SINCE.get(scenario.name, ()),
            )
            for framework in FRAMEWORKS
            for scenario in SCENARIOS
            if scenario.name in names
        ],
    )


def run(framework: Framework, scenario: Scenario, url: str) -> None:
    pytest.importorskip(framework.needs)
    server = DemoServer(url, "here", "tiny", None, frozenset({scenario.task}), known=True)
    result = run_scenario(scenario, framework, {scenario.task: server})
    expected = "passed" if scenario.name in SUPPORTED[framework.title] else "skipped"
    assert result.state == expected, result


@pytest.mark.vllm("tiny")
@pairs(CHAT)
def test_chat_scenarios(framework, scenario, vllm_url):
    run(framework, scenario, vllm_url)


@pytest.mark.vllm("minilm")
@pairs(POOLING)
def test_pooling_scenarios(framework, scenario, vllm_url):
    run(framework, scenario, vllm_url)


def test_every_scenario_is_tested():
    assert {scenario.name for scenario in SCENARIOS} == CHAT | POOLING
    assert [framework.title for framework in FRAMEWORKS] == list(SUPPORTED)


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.title)
def test_a_framework_declares_what_it_implements(framework):
    pytest.importorskip(framework.needs)
    demo = import_module(framework.module).DEMO
    assert demo.title == framework.title
    assert demo.supports == SUPPORTED[framework.title]
    implemented = {s.name for s in SCENARIOS if getattr(type(demo), s.method) is not getattr(FrameworkDemo, s.method)}
    assert implemented == demo.supports
