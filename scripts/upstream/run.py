"""Run other packages' own tests with our classes in place of theirs: ``make upstream``.

The tests are downloaded with the sdists of the packages that are installed here, and are never committed. A suite in
``suites/`` lists the files that are portable, those that are not, and the tests of portable files that fail for a known
reason. Each file of an sdist must be in one of the lists. Exit code 1: a test failed that should not, or all tests of
an exclusion passed.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RESULTS = HERE / "results.json"


@dataclass
class Outcome:
    """What a suite's tests made of our classes."""

    title: str
    version: str
    passed: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """The message of each test that failed and should not."""
    excluded: dict[str, int] = field(default_factory=dict)
    """How many tests failed, by the reason why they may."""
    stale: list[str] = field(default_factory=list)
    """Exclusions whose tests all pass, or that name no test."""
    unlisted: list[str] = field(default_factory=list)
    """Files that are in no list."""
    not_portable: dict[str, int] = field(default_factory=dict)
    """How many files are not portable, by the reason."""

    @property
    def ok(self) -> bool:
        """Whether all is as expected."""
        return not (self.failed or self.stale or self.unlisted)


def main() -> int:
    """Run the suites that the command line names, or all."""
    suites = {path.stem: path for path in sorted((HERE / "suites").glob("*.toml"))}
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("suites", nargs="*", choices=[*suites, []], help=f"default: all of {', '.join(suites)}")
    parser.add_argument("--keep", type=Path, help="a folder to unpack the sdists in, and to leave there")
    parser.add_argument("--save", action="store_true", help="save the numbers for the docs (then: make readme)")
    arguments = parser.parse_args()
    outcomes, distributions = {}, {}
    for name in arguments.suites or suites:
        suite = tomllib.loads(suites[name].read_text(encoding="utf-8"))
        with TemporaryDirectory() as folder:
            outcomes[name] = run_suite(suite, arguments.keep or Path(folder))
        distributions[name] = suite["distribution"]
        show(outcomes[name], suite["distribution"])
    if arguments.save:
        saved = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        saved |= {name: summary(outcome, distributions[name]) for name, outcome in outcomes.items()}
        RESULTS.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return 0 if all(outcome.ok for outcome in outcomes.values()) else 1


def run_suite(suite: dict[str, Any], folder: Path) -> Outcome:
    """Download a suite's sdist, run its portable tests, and compare the results with what is expected."""
    outcome = Outcome(suite["title"], version(suite["distribution"]))
    print(f"{suite['distribution']} {outcome.version}: downloading the sdist, and running its tests ...", flush=True)
    source = download(suite["distribution"], outcome.version, folder)
    portable = select_files(suite, source, outcome)
    replace_texts(suite.get("replace", ()), source, portable)
    judge(suite, run_tests(suite, source, portable), outcome)
    return outcome


def download(distribution: str, release: str, folder: Path) -> Path:
    """Return the unpacked sdist."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", ":all:", "--dest", str(folder), f"{distribution}=={release}"]
    subprocess.run(command, check=True)
    [archive] = folder.glob(f"{distribution.replace('-', '_')}-{release}.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def select_files(suite: dict[str, Any], source: Path, outcome: Outcome) -> list[str]:
    """Return the files of portable tests; count the others, and note those that are in no list."""
    portable = []
    for path in sorted(source.glob("tests/**/test_*.py")):
        name = path.relative_to(source).as_posix()
        if _matches(name, suite["files"]):
            portable.append(name)
            continue
        reasons = [each["reason"] for each in suite.get("not_portable", ()) if _matches(name, each["files"])]
        if reasons:
            outcome.not_portable[reasons[0]] = outcome.not_portable.get(reasons[0], 0) + 1
        else:
            outcome.unlisted.append(name)
    return portable


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def replace_texts(replacements: Iterable[dict[str, str]], source: Path, files: Iterable[str]) -> None:
    """Replace what a vLLM server has no use for, such as a key with whitespace, in the tests and their fixtures."""
    for path in {*source.glob("tests/**/conftest.py"), *(source / name for name in files)}:
        text = path.read_text(encoding="utf-8")
        for each in replacements:
            text = re.sub(each["pattern"], each["by"], text)
        path.write_text(text, encoding="utf-8")


def run_tests(suite: dict[str, Any], source: Path, files: list[str]) -> dict[str, dict[str, str]]:
    """Return outcome and message of each test."""
    results = source / "results.json"
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {"UPSTREAM_SUITE": suite["distribution"], "UPSTREAM_RESULTS": str(results), "PYTHONPATH": path}
    # Servers, keys and proxies of this machine are not for these tests.
    kept = {
        name: value for name, value in os.environ.items() if not re.match(r"VLLM_|OPENAI_|LANG|.*_proxy$", name, re.I)
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "plugin",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        "-q",
        "--tb=no",
    ]
    command += [*suite.get("arguments", ()), *files]
    run = subprocess.run(
        command,
        cwd=source,
        env={**kept, **ours, **suite.get("environment", {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if not results.exists() or run.returncode not in (0, 1):
        raise SystemExit(f"pytest ended with exit code {run.returncode}:\n{run.stdout[-4000:]}")
    found: dict[str, dict[str, str]] = json.loads(results.read_text(encoding="utf-8"))
    return found


def judge(suite: dict[str, Any], results: dict[str, dict[str, str]], outcome: Outcome) -> None:
    """Sort the results into what was expected and what was not."""
    reasons = {test: each["reason"] for each in suite.get("excluded", ()) for test in each["tests"]}
    alternatives = {test for each in suite.get("excluded", ()) if each.get("may_pass") for test in each["tests"]}
    failed = Counter[str]()
    for test, result in results.items():
        listed = next((name for name in (test, test.partition("[")[0]) if name in reasons), None)
        if result["outcome"] != "failed":
            outcome.passed += result["outcome"] == "passed"
            outcome.skipped += result["outcome"] == "skipped"
        elif listed is None:
            outcome.failed[test] = result["message"]
        else:
            failed[listed] += 1
            outcome.excluded[reasons[listed]] = outcome.excluded.get(reasons[listed], 0) + 1
    outcome.stale = [test for test in reasons if not failed[test] and test not in alternatives]


def show(outcome: Outcome, distribution: str) -> None:
    """Print a suite's results."""
    excluded = sum(outcome.excluded.values())
    print(f"\n{distribution} {outcome.version}, with {outcome.title.replace('`', '')}")
    print(f"  {outcome.passed:5} passed")
    print(f"  {outcome.skipped:5} skipped by themselves")
    print(f"  {excluded:5} fail as listed:")
    for reason, count in sorted(outcome.excluded.items(), key=lambda item: -item[1]):
        print(f"        {count:5}  {reason}")
    for reason, count in outcome.not_portable.items():
        print(f"  {count:5} files not run: {reason}")
    print(f"  {len(outcome.failed):5} failed")
    for test, message in outcome.failed.items():
        print(f"         FAILED {test}: {message}")
    for test in outcome.stale:
        print(f"         PASSED, BUT EXCLUDED {test}")
    for name in outcome.unlisted:
        print(f"         IN NO LIST {name}")
    print(flush=True)


def summary(outcome: Outcome, distribution: str) -> dict[str, Any]:
    """Return what the docs show."""
    return {
        "distribution": distribution,
        "title": outcome.title,
        "version": outcome.version,
        "passed": outcome.passed,
        "skipped": outcome.skipped,
        "failed": len(outcome.failed),
        "excluded": dict(sorted(outcome.excluded.items(), key=lambda item: -item[1])),
    }


if __name__ == "__main__":
    sys.exit(main())
