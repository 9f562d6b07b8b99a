"""The generated tables are up to date, and what they state is true."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parent.parent.parent
INSTALLED = {
    "client": True,
    "LangChain": find_spec("langchain_openai") is not None,
    "LlamaIndex": find_spec("llama_index") is not None,
    "Haystack": find_spec("haystack") is not None,
}
NOT_RUN = {"skip", "skipif", "xfail", "live", "not recorded"}


def load_script():
    spec = importlib.util.spec_from_file_location("make_readme", ROOT / "scripts" / "make_readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def test_generated_sections_are_up_to_date():
    texts = {page.name: page.read_text(encoding="utf-8") for page in script.pages()}
    outdated = [name for name, text in texts.items() if script.generate(text) != text]
    assert outdated == [], "Run make readme."


def test_plot_is_up_to_date():
    assert script.COST_PLOT.read_text(encoding="utf-8") == script.cost_plot(), "Run make readme."


def test_every_section_is_on_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in script.pages())
    assert set(re.findall(r"<!-- generated: (\w+) -->", text)) == set(script.SECTIONS)


# Versions


def test_tested_versions_are_those_installed():
    recorded = script.read_versions().values()
    for name in script.requirements():
        try:
            installed = Version(version(name))
        except PackageNotFoundError:
            continue
        tested = [Version(found[name]) for found in recorded if name in found]
        if name == "openai":  # it has a minor release every week; tests/client/test_sdk_hooks.py pins what we use of it
            assert any(installed.major == one.major and installed >= one for one in tested), (name, installed)
        else:
            assert script.minor(str(installed)) in {script.minor(str(one)) for one in tested}, (
                f"{name} {installed} is installed, the README says {tested}. Run make readme."
            )


def test_tested_versions_are_supported():
    supported = script.requirements()
    for environment, found in script.read_versions().items():
        for name in found.keys() - {"python"}:
            assert found[name] in SpecifierSet(supported[name]), (environment, name)


# Support


def describe(item):
    """File, function and marks of a test."""
    marks = [mark.name if mark.kwargs.get("recorded", True) else "not recorded" for mark in item.iter_markers()]
    return item.path.as_posix(), getattr(item, "originalname", item.name), marks


def marks_by_test(described):
    """The marks of each case of each test function, by file and name."""
    marks = {}
    for path, name, names in described:
        marks.setdefault((path, name), []).append(set(names))
    return marks


class Collector:
    """A pytest plugin that writes the collected tests to a file."""

    def __init__(self, report):
        self.report = report

    def pytest_collection_finish(self, session):
        Path(self.report).write_text(json.dumps([describe(item) for item in session.items]), encoding="utf-8")


def collect(report, *files):
    pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *files], plugins=[Collector(report)])


@pytest.fixture(scope="session")
def collected(request, tmp_path_factory):
    """The tests that pytest collects in the files of the table: in this run, or else in one of its own."""
    wanted = {(file.as_posix(), name) for _, file, name in proofs()}
    here = marks_by_test(describe(item) for item in request.session.items)
    if wanted <= here.keys():
        return here
    report = tmp_path_factory.mktemp("collected") / "items.json"
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_tables import collect\n"
    program += "collect(*sys.argv[1:])"
    files = sorted({file for file, _ in wanted})
    subprocess.run([sys.executable, "-c", program, str(report), *files], cwd=ROOT, capture_output=True, timeout=300)
    return marks_by_test(json.loads(report.read_text(encoding="utf-8")))


def proofs():
    """Framework, file and function of each test of the table, as far as the frameworks are installed."""
    for row in script.read_parity().values():
        for framework, name in row.items():
            if name != "-" and INSTALLED[framework]:
                with contextlib.suppress(LookupError):  # test_every_feature_names_one_test reports them
                    yield framework, script.find_test(framework, name), name.rpartition("::")[2]


def test_every_feature_names_one_test():
    problems = []
    for row in script.read_parity().values():
        for framework, name in row.items():
            try:
                assert name == "-" or script.find_test(framework, name)
            except LookupError as error:
                problems.append(str(error))
    assert problems == []


def test_every_feature_is_listed_for_every_framework():
    for feature, row in script.read_parity().items():
        assert list(row) == list(script.FOLDERS), feature
        assert set(row.values()) != {"-"}, feature


def test_every_feature_is_proved_by_a_test_that_runs_and_asserts(collected):
    problems = []
    for framework, file, name in proofs():
        cases = collected.get((file.as_posix(), name), [])
        tree = ast.parse(file.read_text(encoding="utf-8"))
        wrong = {
            "is not collected by pytest": not cases,
            "is marked, and may not run": NOT_RUN & set().union(*cases),
            "may skip itself": calls(definition(name, tree), "skip", "xfail"),
            "asserts nothing": not asserts(name, tree),
        }
        problems += [f"{framework}: {file.name}::{name} {what}" for what, is_wrong in wrong.items() if is_wrong]
    assert problems == []


def definition(name, tree):
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return next((node for node in ast.walk(tree) if isinstance(node, functions) and node.name == name), None)


def calls(node, *names):
    """Whether ``pytest.<name>(...)`` is called in ``node``."""
    return any(
        isinstance(inner, ast.Attribute)
        and inner.attr in names
        and isinstance(inner.value, ast.Name)
        and inner.value.id == "pytest"
        for inner in ast.walk(node)
    )


def asserts(name, tree, seen=frozenset()):
    """Whether a function asserts something about a value, or expects an error; also in a function that it calls."""
    node = definition(name, tree)
    if node is None or name in seen:
        return False
    if any(isinstance(inner, ast.Assert) and not isinstance(inner.test, ast.Constant) for inner in ast.walk(node)):
        return True
    functions = [inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    helpers = {function.id for function in functions if isinstance(function, ast.Name)}
    return calls(node, "raises") or any(asserts(helper, tree, seen | {name}) for helper in helpers)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def test_it():\n    assert reply.text == 'x'", True),
        ("def test_it():\n    with pytest.raises(E):\n        run()", True),
        ("def test_it():\n    check(1)\ndef check(x):\n    assert x", True),
        ("def test_it():\n    assert True", False),
        ("def test_it():\n    run()", False),
        ("def test_it():\n    pass", False),
        ("def test_other():\n    assert reply.text", False),
    ],
)
def test_a_test_without_an_assertion_is_noticed(source, expected):
    assert asserts("test_it", ast.parse(source)) is expected
