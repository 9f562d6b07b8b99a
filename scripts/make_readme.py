"""Generate the tables of the README and of ``docs/``: ``make readme``.

A generated section lies between ``<!-- generated: NAME -->`` and ``<!-- end -->``. ``SECTIONS`` maps each name to the
function that generates it from data that is kept elsewhere.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from packaging.requirements import Requirement
from packaging.version import Version

from vllm_adapters import errors, params
from vllm_adapters._cli.recipes import all_recipes
from vllm_adapters._request import availability

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
SECTION = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.S)


def pages() -> list[Path]:
    """Return the README and the pages of ``docs/``."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


# Support: which test proves a feature in a framework

PARITY = TESTS / "docs" / "parity.toml"
CORE = ("client", "server", "request", "response", "transport", "contracts")
FOLDERS = {
    "client": CORE,
    "LangChain": ("langchain", "contracts"),
    "LlamaIndex": ("llamaindex", "contracts"),
    "Haystack": ("haystack", "contracts"),
}
"""The folders of tests that may prove a feature of the client, or of a framework."""


@cache
def read_parity() -> dict[str, dict[str, str]]:
    """Return the name of the test that proves a feature, by feature and framework."""
    table: dict[str, dict[str, str]] = tomllib.loads(PARITY.read_text(encoding="utf-8"))
    return table


@cache
def find_test(framework: str, name: str) -> Path:
    """Return the file of a test.

    Args:
        framework: A key of ``FOLDERS``.
        name: Name of the test function. If several files have a function of this name, ``folder/file.py::name``.

    Raises:
        LookupError: There is no such test, or more than one.
    """
    file, _, function = name.rpartition("::")
    definition = re.compile(rf"^ *(?:async )?def {re.escape(function)}\(", re.M)
    candidates = [TESTS / file] if file else list(_test_files(framework))
    found = [path for path in candidates if path.is_file() and definition.search(path.read_text(encoding="utf-8"))]
    if len(found) != 1:
        places = ", ".join(str(path.relative_to(TESTS)) for path in found) or "no file"
        raise LookupError(f"{framework}: `{name}` must be a test in one file, but is in {places}. Edit {PARITY.name}.")
    return found[0]


def _test_files(framework: str) -> Iterator[Path]:
    for folder in FOLDERS[framework]:
        yield from (TESTS / folder).rglob("test_*.py")


def support() -> str:
    """Return the features of each framework, each with a link to the test that proves it."""
    rows = []
    for feature, tests in read_parity().items():
        rows.append([feature, *(_link(framework, tests[framework]) for framework in FOLDERS)])
    return _table(["", *FOLDERS], rows)


def _link(framework: str, name: str) -> str:
    if name == "-":
        return ""
    path = find_test(framework, name).relative_to(ROOT).as_posix()
    return f'[✓](../{path} "{name.rpartition("::")[2]}")'


# Parameters

SHOWN_ENDPOINTS = ("chat", "completions", "embeddings", "rerank")


def parameters() -> str:
    """Return every parameter that vLLM adds to the endpoints that frameworks use."""
    models = {endpoint: params.MODELS[endpoint] for endpoint in SHOWN_ENDPOINTS}
    rows = []
    for name in sorted({name for model in models.values() for name in model.model_fields}):
        endpoints = [endpoint for endpoint, model in models.items() if name in model.model_fields]
        field = models[endpoints[0]].model_fields[name]
        text = (field.description or "").replace("|", "\\|")
        spans: dict[str, list[str]] = {}
        for endpoint in endpoints:
            spans.setdefault(_span(endpoint, name), []).append(endpoint)
        where = "; ".join(", ".join(group) + (f" {span}" if span else "") for span, group in spans.items())
        rows.append([f"`{name}`", _type_name(field.annotation), where, text])
    return _table(["Parameter", "Type", "Endpoints, and since which version until which", ""], rows)


def _span(endpoint: str, name: str) -> str:
    """Return the versions that have a parameter, such as ``0.9.0–0.11.2``; empty: all that are known."""
    found = availability.lookup(endpoint, name)
    if found is None:
        return ""
    first = "" if found.first == availability.oldest() else str(found.first)
    last = "" if found.last is None else str(found.last)
    return f"{first}–{last}" if first or last else ""


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    types = [part for part in get_args(annotation) or (annotation,) if part is not NoneType]
    if any(isinstance(part, str) for part in types):
        return "one of " + ", ".join(f"`{part}`" for part in types)
    if get_origin(annotation) in (dict, list):
        return str(get_origin(annotation).__name__)
    if len(types) == 1 and types[0] is annotation:
        return str(getattr(annotation, "__name__", annotation)).replace("|", "\\|")
    return " or ".join(dict.fromkeys(_type_name(part) for part in types))


# Errors


def error_tree() -> str:
    """Return the tree of errors, as the module's docstring shows it."""
    lines = (errors.__doc__ or "").splitlines()
    start = next(at for at, line in enumerate(lines) if line.lstrip().startswith("VLLMError"))
    end = next(at for at in range(start, len(lines)) if not lines[at].strip())
    return "\n".join(["```text", *(line.removeprefix("    ") for line in lines[start:end]), "```"])


# Recipes


def recipes() -> str:
    """Return the recipes, with the summary of each."""
    found = all_recipes()
    parts = []
    for group in dict.fromkeys(["The client", *sorted({recipe.group for recipe in found} - {"Folders"}), "Folders"]):
        rows = [
            [f"[{recipe.name}](../{recipe.path.relative_to(ROOT).as_posix()})", recipe.header[0].replace("|", "\\|")]
            for recipe in found
            if recipe.group == group
        ]
        parts.append(_table([group, ""], rows))
    return "\n\n".join(parts)


# Benchmarks


def _measured(name: str) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((ROOT / "benchmarks" / "measured.json").read_text(encoding="utf-8"))[name]
    return results


def cost() -> str:
    """Return the results of the last ``make bench ARGS=--save``."""
    parts = []
    for major in (2, 3):
        results = _measured(f"cost on openai {major}")
        parts.append(f"{results['machine']}, {results['rounds']} rounds:")
        head = ["Work", "Class", "CPU time (quartiles)", "of", "target, within 5 %"]
        parts.append(_table(head, [_cost_row(found) for found in results["rows"]]))
    return "\n\n".join(parts)


def _cost_row(found: dict[str, Any]) -> list[str]:
    ratio, low, high = found["ratio"]
    share = f"{ratio:.2f} ({low:.2f} to {high:.2f})"
    target = f"{found['target']:.2f}{'' if ratio <= found['target'] * 1.05 else ', exceeded'}"
    return [found["work"], f"`{found['class']}`", share, f"`{found['reference']}`", target]


STOCK = (
    *("openai", "ChatOpenAI", "OpenAILike", "OpenAIChatGenerator", "vllm-haystack"),
    *("OpenAIEmbeddings", "OpenAILikeEmbedding"),
)
COST_PLOT = ROOT / "docs" / "images" / "cost.svg"


def cost_plot() -> str:
    """Return the ratios of ``cost`` as bars, in SVG. It is readable on a light and on a dark page, and on a phone."""
    groups: dict[str, list[tuple[str, float]]] = {}
    for found in _measured("cost on openai 2")["rows"]:
        if found["reference"] in STOCK:
            pair = f"{found['class']} / {found['reference']}"
            groups.setdefault(pair, []).append((found["work"], found["ratio"][0]))
    row, left, scale = 24, 235, 150  # pixels: height of a bar, width of the labels, length of the ratio 1
    one, y = left + scale, 24
    parts = []
    for pair, bars in groups.items():
        parts.append(f'<text x="0" y="{y + 18}" fill="#808080" font-weight="bold">{pair}</text>')
        y += row + 4
        for work, ratio in bars:
            parts += [
                f'<text x="{left - 8}" y="{y + 13}" text-anchor="end" fill="#808080">{work}</text>',
                f'<rect x="{left}" y="{y}" width="{ratio * scale:.0f}" height="{row - 6}" fill="#4f6bd8"/>',
                f'<text x="{left + ratio * scale + 5:.0f}" y="{y + 13}" fill="#808080">{ratio:.2f}</text>',
            ]
            y += row
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {one + 45} {y + 8}" width="{one + 45}" '
            'font-family="sans-serif" font-size="12" role="img" aria-label="CPU time beside the stock classes">',
            f'<text x="{one + 45}" y="14" text-anchor="end" fill="#808080">1 is the stock class</text>',
            f'<line x1="{one}" y1="20" x2="{one}" y2="{y}" stroke="#808080" stroke-dasharray="4 3"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def soak() -> str:
    """Return the results of the last ``make soak ARGS=--save``."""
    results = _measured("soak")
    calls = [
        ["total", f"{results['calls']}, in {results['minutes']:.0f} minutes"],
        ["correct", str(results["correct"])],
        ["cancelled on purpose", str(results["cancelled"])],
        ["ended in a `VLLMError`", str(sum(results["errors"].values()))],
        ["wrong, hung, or ended in another error", str(results["failures"])],
        [f"longest, with a limit of {results['limit']:.0f} s", f"{results['longest']} s"],
    ]
    resources = [[name, f"{results['warm'][name]:.0f}", f"{results['end'][name]:.0f}"] for name in results["warm"]]
    head = ["Resources of the process", "after warm-up", "at the end"]
    return "\n\n".join([_table(["Calls", ""], calls), _table(head, resources)])


BULK = {
    "bulk stub": ("`make bulk`", "a fault server, which replies 429 to some requests"),
    "bulk live": ("`make bulk ARGS=--live`", "two `tiny` behind vllm-router"),
    "bulk ray": ("`make bulk ARGS=--ray`", "two fault servers, without a router"),
}
"""The command and the server of each measurement of a bulk job."""


def bulk() -> str:
    """Return the results of the last ``make bulk ARGS="--save ..."`` of each kind."""
    head = [
        "",
        "Server",
        "Items, minutes",
        "Killed, with so many results",
        "Missing, doubled, failed, wrong",
        "Memory, MiB",
    ]
    rows, machines = [], dict[str, None]()
    for name, (command, server) in BULK.items():
        found = _measured(name)
        machines[found["machine"]] = None
        wrong = "not compared" if found["wrong"] is None else found["wrong"]
        memory = "; ".join(f"{what}: {', '.join(map(str, values))}" for what, values in found["memory"].items())
        killed = ", ".join(f"{what} {done:,}" for what, done in found["killed"])
        counts = f"{found['missing']}, {found['doubled']}, {found['failed']}, {wrong}"
        rows.append([command, server, f"{found['items']:,}, {found['seconds'] / 60:.0f}", killed, counts, memory])
    return f"{'; '.join(machines)}, which the servers share:\n\n{_table(head, rows)}"


def load() -> str:
    """Return the results of the last ``make load ARGS=--save``."""
    results = _measured("load")
    table = _table(["", ""], results["rows"])
    return f"{results['machine']}, which the replicas, the router and the client share:\n\n{table}"


# Versions

VERSIONS = TESTS / "docs" / "versions.toml"
EXTRAS = ("langchain", "llamaindex", "haystack")


def requirements() -> dict[str, str]:
    """Return the allowed versions of openai and of the frameworks, by distribution, from ``pyproject.toml``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line for line in project["dependencies"] if line.startswith("openai")]
    lines += [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return {name: line.removeprefix(name) for line in lines for name in [Requirement(line).name]}


def read_versions() -> dict[str, dict[str, str]]:
    """Return the versions that the tests ran with, by environment and distribution."""
    return tomllib.loads(VERSIONS.read_text(encoding="utf-8"))


def minor(version: str) -> str:
    """Return ``"1.8"`` for ``"1.8.3"``."""
    parsed = Version(version)
    return f"{parsed.major}.{parsed.minor}"


def installed_versions(environment: Path) -> dict[str, str]:
    """Return the versions of Python and of the distributions of ``requirements()`` in a virtual environment."""
    config = (environment / "pyvenv.cfg").read_text(encoding="utf-8")
    python = re.search(r"^version(?:_info)? *= *(\d+\.\d+\.\d+)", config, re.M)
    found = {"python": python[1]} if python else {}
    names = requirements().keys()
    paths = [str(path) for path in environment.glob("lib/python*/site-packages")]
    for distribution in distributions(path=paths):
        name = re.sub(r"[-_.]+", "-", distribution.name).lower()
        if name in names:
            found[name] = distribution.version
    return dict(sorted(found.items()))


def update_versions() -> None:
    """Write the versions of the environment that runs this script, and of the other ones that ``make`` created."""
    recorded = read_versions()
    names = ("upstream", "clients", "gateways", "observe", "ray", "docs")
    others = {ROOT / f".venv-{name}" for name in names}  # not for this package's tests
    environments = [Path(sys.prefix), *(path for path in ROOT.glob(".venv-*") if path not in others)]
    for environment in environments:
        if (environment / "pyvenv.cfg").is_file():
            recorded[environment.name.removeprefix(".venv").lstrip("-") or "main"] = installed_versions(environment)
    head = "# The versions that the tests ran with, by virtual environment. Written by `make readme`.\n"
    tables = [
        "\n".join([f'["{name}"]', *(f'{key} = "{value}"' for key, value in found.items())])
        for name, found in sorted(recorded.items(), key=lambda item: (item[0] != "main", item[0]))
    ]
    VERSIONS.write_text("\n\n".join([head.rstrip(), *tables]) + "\n", encoding="utf-8")


def cassette_versions() -> list[str]:
    """Return the vLLM versions of all cassettes, newest first."""
    found = set()
    for path in (ROOT / "cassettes").rglob("*.yaml"):
        with path.open(encoding="utf-8") as file:
            if recorded := re.search(r"^  vllm: '?(\d[^'\s]*)", file.read(200), re.M):
                found.add(recorded[1])
    return sorted(found, key=Version, reverse=True)


def versions() -> str:
    """Return the tested and the allowed versions."""
    recorded = read_versions().values()
    known = f"{availability.oldest()} to {availability.newest()}"
    rows = [
        ["vLLM", ", ".join(cassette_versions()), known],
        ["Python", _minors(found.get("python") for found in recorded), _requires_python()],
    ]
    for name, allowed in requirements().items():
        rows.append([name, _minors(found.get(name) for found in recorded), f"`{allowed}`"])
    return _table(["", "Tested", "Supported"], rows)


def _minors(found: Iterable[str | None]) -> str:
    return ", ".join(sorted({minor(version) for version in found if version}, key=Version))


def _requires_python() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"`{project['requires-python']}`"


# Versions of vLLM: what each makes of each capability

OUTCOMES_FILE = TESTS / "versions" / "outcomes.json"


def capabilities() -> str:
    """Return the table of outcomes by capability and version of vLLM."""
    outcomes: dict[str, dict[str, str]] = json.loads(OUTCOMES_FILE.read_text(encoding="utf-8"))
    names = dict.fromkeys(name for row in outcomes.values() for name in row)
    return _table(["", *outcomes], ([name, *(row.get(name, "") for row in outcomes.values())] for name in names))


# Pages

# Other packages' own tests

UPSTREAM = ROOT / "scripts" / "upstream" / "results.json"
OBSERVED = ROOT / "tests" / "contracts" / "observe_matrix" / "observed.json"


def upstream() -> str:
    """Return the results of the last ``make upstream ARGS=--save``."""
    results = json.loads(UPSTREAM.read_text(encoding="utf-8"))
    rows = [
        [f"{suite['distribution']} {suite['version']}", suite["title"], *_counts(suite)] for suite in results.values()
    ]
    return _table(["Tests of", "with", "passed", "failed", "excluded"], rows)


def _counts(suite: Mapping[str, Any]) -> list[str]:
    return [str(suite["passed"]), str(suite["failed"]), str(sum(suite["excluded"].values()))]


def exclusions() -> str:
    """Return why tests of other packages are excluded, and how many for each reason."""
    results = json.loads(UPSTREAM.read_text(encoding="utf-8"))
    rows = [
        [suite["distribution"], str(count), reason]
        for suite in results.values()
        for reason, count in sorted(suite["excluded"].items(), key=lambda item: -item[1])
    ]
    return _table(["Tests of", "excluded", "because"], rows)


def observed() -> str:
    """Return who records a call under each instrumentation, and how many cells of `make observe` are right."""
    results = json.loads(OBSERVED.read_text(encoding="utf-8"))
    frameworks = list(next(iter(results.values()))["recorded"])
    rows = [
        [each["title"], f"{each['right']} of {each['cells']}", *(each["recorded"][name] for name in frameworks)]
        for each in results.values()
    ]
    return _table(["Instrumentation", "as without", *frameworks], rows)


def gateways() -> str:
    """Return what ``make gateways ARGS=--save`` found through each gateway."""
    results = json.loads((ROOT / "scripts" / "gateways" / "results.json").read_text(encoding="utf-8"))
    names = list(next(iter(results.values())))
    return _table(["", *names], [[row, *(cells[name] for name in names)] for row, cells in results.items()])


def faults() -> str:
    """Return what each framework makes of each fault, as the last ``make faults ARGS=--save`` found it."""
    found = json.loads((TESTS / "contracts" / "fault_matrix" / "outcomes.json").read_text(encoding="utf-8"))
    frameworks = list(dict.fromkeys(name for row in found["outcomes"].values() for name in row))
    rows = [
        [fault, *(", ".join(_outcome(text) for text in row.get(name, [])) for name in frameworks)]
        for fault, row in found["outcomes"].items()
    ]
    summary = f"{found['passed']:,} of {found['cells']:,} cells passed."
    return f"{summary}\n\n{_table(['Fault', *frameworks], rows)}"


def _outcome(text: str) -> str:
    return text if text == "correct" else f"`{text}`"


SECTIONS: Mapping[str, Any] = {
    "support": support,
    "parameters": parameters,
    "errors": error_tree,
    "recipes": recipes,
    "cost": cost,
    "soak": soak,
    "bulk": bulk,
    "load": load,
    "upstream": upstream,
    "exclusions": exclusions,
    "versions": versions,
    "capabilities": capabilities,
    "observed": observed,
    "gateways": gateways,
    "faults": faults,
}


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def generate(text: str) -> str:
    """Return the text of a page with its sections generated anew."""
    return SECTION.sub(lambda match: f"{match[1]}\n{SECTIONS[match[2]]()}\n\n{match[3]}", text)


def main() -> None:
    """Write all pages that have generated sections."""
    update_versions()
    COST_PLOT.write_text(cost_plot(), encoding="utf-8")
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = generate(old)
        if new != old:
            page.write_text(new, encoding="utf-8")
            print(f"Updated {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
