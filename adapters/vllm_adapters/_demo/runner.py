"""Runs the demo and prints its results."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from textwrap import shorten
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vllm_adapters._demo.recording_client import RecordingServer
from vllm_adapters._demo.scenarios import SCENARIOS, SHOWN, FrameworkDemo, Scenario, ScenarioSkipped
from vllm_adapters._demo.servers import DemoServer, servers, servers_by_task
from vllm_adapters._optional import is_installed
from vllm_adapters.errors import FeatureNotEnabled


class Framework(NamedTuple):
    """One column of the demo's table.

    Args:
        title: The heading.
        module: Module with the framework's ``DEMO``.
        needs: Package that must be installed.
        extra: Extra of this package that installs it.
    """

    title: str
    module: str
    needs: str
    extra: str


FRAMEWORKS = (
    Framework("client", "vllm_adapters._demo.on_client", "openai", ""),
    Framework("LangChain", "vllm_adapters._demo.on_langchain", "langchain_openai", "langchain"),
    Framework("LlamaIndex", "vllm_adapters._demo.on_llamaindex", "llama_index.llms.openai_like", "llamaindex"),
    Framework("Haystack", "vllm_adapters._demo.on_haystack", "haystack", "haystack"),
)


@dataclass(frozen=True)
class Result:
    """The result of one scenario in one framework.

    Args:
        text: Text of the table's cell.
        state: ``passed``, ``failed`` or ``skipped``.
        note: Explanation below the table.
        sent: Body of the last request.
    """

    text: str
    state: Literal["passed", "failed", "skipped"] = "passed"
    note: str = ""
    sent: Mapping[str, Any] = field(default_factory=dict)

    def rendered(self) -> Text:
        """Return the table's cell."""
        mark, style = {"passed": ("✓ ", "green"), "failed": ("✗ ", "bold red"), "skipped": ("", "dim")}[self.state]
        text = shorten(self.text, 60, placeholder=" …")
        return Text.assemble((mark, style), (text, "" if self.state == "passed" else style))


Results = Mapping[tuple[str, str], Result]
"""Results by scenario name and framework title."""


def run_demo(console: Console | None = None, frameworks: Sequence[Framework] = FRAMEWORKS) -> int:
    """Run the demo and print its results.

    Args:
        console: Where to print. Default: standard output.
        frameworks: The columns.

    Returns:
        The exit code: 1 if a scenario failed or none passed, otherwise 0.
    """
    console, progress = console or Console(), Console(stderr=True)
    began = time.monotonic()
    with servers(progress) as running:
        results = run_scenarios(running, progress, frameworks)
        print_results(results, running, console, frameworks)
    states = [result.state for result in results.values()]
    passed, failed, skipped = (states.count(state) for state in ("passed", "failed", "skipped"))
    console.print(f"\n{passed} passed, {failed} failed, {skipped} skipped, in {time.monotonic() - began:.0f} s.")
    return 0 if passed and not failed else 1


def run_scenarios(
    running: Sequence[DemoServer], progress: Console, frameworks: Sequence[Framework] = FRAMEWORKS
) -> Results:
    """Run every scenario in every framework."""
    by_task = servers_by_task(running)
    results = {}
    for framework in frameworks:
        for scenario in SCENARIOS:
            with progress.status(f"{framework.title}: {scenario.name}"):
                results[scenario.name, framework.title] = run_scenario(scenario, framework, by_task)
    return results


def run_scenario(scenario: Scenario, framework: Framework, by_task: Mapping[str, DemoServer]) -> Result:
    """Run one scenario in one framework; any exception becomes a failed result."""
    if not is_installed(framework.needs):
        note = f"{framework.needs} is not installed. Run pip install 'vllm-adapters[{framework.extra}]'."
        return Result("not installed", "skipped", note)
    target = by_task.get(scenario.task)
    sent: list[dict[str, Any]] = []
    try:
        demo: FrameworkDemo = import_module(framework.module).DEMO
        if scenario.name not in demo.supports:
            return Result("—", "skipped")
        if target is None:
            return Result("not served", "skipped")
        server = RecordingServer(target.base_url)
        sent = server.sent
        with server:
            text = scenario.run(demo, server, target.known)
    except ScenarioSkipped as reason:
        return Result(str(reason), "skipped")
    except Exception as error:
        if isinstance(error, FeatureNotEnabled) and target and not target.known:
            return Result("not enabled", "skipped", str(error))
        return Result(type(error).__name__, "failed", str(error), sent[-1] if sent else {})
    return Result(text, sent=sent[-1] if sent else {})


def print_results(
    results: Results,
    running: Sequence[DemoServer],
    console: Console,
    frameworks: Sequence[Framework] = FRAMEWORKS,
) -> None:
    """Print the table, the notes, one request and reply per framework, and the servers."""
    table = Table("", *(f.title for f in frameworks), title="vllm-adapters: what works", title_justify="left")
    for scenario in SCENARIOS:
        cells = (results[scenario.name, framework.title].rendered() for framework in frameworks)
        table.add_row(Text(scenario.name, "bold"), *cells)
    console.print()
    console.print(table)
    notes = {}
    for (name, title), result in results.items():
        where = title if result.text == "not installed" else f"{title}, {name}"
        if result.note:
            notes[f"{where}: {result.text}: {result.note}"] = result.state
    for note, state in notes.items():
        console.print(Text(note, "red" if state == "failed" else "dim"), soft_wrap=True)
    console.print(f"\nRequests and replies ({SHOWN}):", highlight=False)
    for framework in frameworks:
        result = results[SHOWN, framework.title]
        if result.sent:
            console.print(f"  [bold]{escape(framework.title)}[/bold]")
            console.print(Text(f"    request  {json.dumps(result.sent, ensure_ascii=False)}"), soft_wrap=True)
            console.print(Text(f"    reply    {result.text}"), soft_wrap=True)
    console.print()
    tasks = {scenario.task for scenario in SCENARIOS}
    for server in running:
        console.print(Text(f"{', '.join(sorted(server.tasks & tasks))}: {server}"), soft_wrap=True)
