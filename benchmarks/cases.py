"""What the benchmarks share: cases, their measurement in interleaved rounds, and their tables."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

NOISE = 1.05
"""How much a ratio may exceed its target: the difference between two runs."""

Work = Callable[[], object]


@dataclass(frozen=True)
class Target:
    """A ratio that must hold.

    Args:
        ratio: The most CPU time, as a share of the reference's.
        reference: The contender that it is a share of.
    """

    ratio: float
    reference: str


@dataclass
class Case:
    """The same work, done by several contenders.

    Args:
        title: The work.
        unit: Unit of the cost.
        count: Units in one pass.
        works: One pass of each contender, by its name.
        targets: What must hold, by the contender's name.
        rounds: Maximum number of rounds.
        passes: Passes in a round; many short ones in turn are less noisy than a long one.
        compared: Contenders with a share in the table but no target, and the reference of each.
    """

    title: str
    unit: str
    count: int
    works: dict[str, Work]
    targets: dict[str, list[Target]] = field(default_factory=dict)
    rounds: int | None = None
    passes: int = 1
    compared: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    """CPU time per unit in microseconds, by contender and pass."""
    wall: dict[str, list[float]] = field(default_factory=dict)
    """The same of the clock."""

    def warm_up(self) -> None:
        """Open connections and fill caches; a case of one round is so long that it needs none."""
        if self.rounds == 1:
            return
        for work in self.works.values():
            work()

    def run(self, turn: int) -> None:
        """Run one round: all contenders in turn, in alternating order."""
        for number in range(self.passes):
            names = list(self.works)
            for name in names if (turn + number) % 2 else reversed(names):
                gc.collect()
                began, cpu = time.perf_counter(), time.process_time()
                self.works[name]()
                spent, passed = time.process_time() - cpu, time.perf_counter() - began
                self.cpu.setdefault(name, []).append(spent / self.count * 1e6)
                self.wall.setdefault(name, []).append(passed / self.count * 1e6)

    def ratios(self, name: str, reference: str) -> tuple[float, float, float]:
        """Return the median and the quartiles of a contender's CPU time as a share of the reference's."""
        shares = [ours / theirs for ours, theirs in zip(self.cpu[name], self.cpu[reference], strict=True)]
        low, _, high = quantiles(shares, n=4) if len(shares) > 1 else (shares[0],) * 3
        return median(shares), low, high

    def broken(self) -> list[str]:
        """Return the targets that do not hold, in words."""
        return [
            f"{self.title}: {name} takes {ratio:.2f} of {target.reference}, more than {target.ratio:.2f}"
            for name, targets in self.targets.items()
            for target in targets
            if (ratio := self.ratios(name, target.reference)[0]) > target.ratio * NOISE
        ]

    def verdicts(self) -> list[dict[str, Any]]:
        """Return the ratio of each contender with a target, for the documentation."""
        return [
            {
                "work": self.title,
                "class": name,
                "reference": target.reference,
                "ratio": [round(value, 2) for value in self.ratios(name, target.reference)],
                "target": target.ratio,
            }
            for name, targets in self.targets.items()
            for target in targets
        ]

    def rows(self) -> list[list[str]]:
        """Return a table's rows: contender, CPU, clock, ratio with quartiles, target."""
        rows = []
        for name in self.works:
            costs = [name, f"{median(self.cpu[name]):.4g}", f"{median(self.wall[name]):.4g}"]
            if reference := self.compared.get(name):
                ratio, low, high = self.ratios(name, reference)
                rows.append([*costs, f"{ratio:.2f} ({low:.2f} to {high:.2f}) of {reference}", ""])
                costs = ["", "", ""]
            elif name not in self.targets:
                rows.append([*costs, "", ""])
            targets = self.targets.get(name, [])
            for target in targets:
                ratio, low, high = self.ratios(name, target.reference)
                verdict = "" if ratio <= target.ratio * NOISE else " **exceeded**"
                share = f"{ratio:.2f} ({low:.2f} to {high:.2f}) of {target.reference}"
                rows.append([*costs, share, f"{target.ratio:.2f}{verdict}"])
                costs = ["", "", ""]
        return rows


def measure(cases: Iterable[Case], rounds: int) -> None:
    """Run the rounds of all cases."""
    cases = list(cases)
    for case in cases:
        case.warm_up()
    for turn in range(rounds):
        print(f"round {turn + 1} of {rounds} ...", file=sys.stderr, flush=True)
        for case in cases:
            if turn < (case.rounds or rounds):
                case.run(turn)


def table(case: Case) -> str:
    """Return a case as a Markdown table."""
    head = [case.title, f"CPU, us/{case.unit}", f"clock, us/{case.unit}", "share of CPU (quartiles)", "target"]
    lines = [head, ["---", "---:", "---:", "---", "---"], *case.rows()]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + [f"\n{note}" for note in case.notes])
