"""What a job has left in its files, and what it needed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measured
from processes import GROWTH


def lines(file: Path) -> int:
    """Return the number of results in the file of a bulk job."""
    if not file.exists():
        return 0
    with file.open("rb") as content:
        return max(0, sum(1 for _ in content) - 1)


@dataclass
class Figures:
    """The figures of a job that was killed and resumed.

    Args:
        items: How many items the job has.
        killed: What was killed, such as ``"worker"``, and the number of results then.
        seconds: From the first start to the end.
        asked: The items that the last run requested.
        memory: MiB of each process in the last run, in equal steps.
        missing: Items without a result.
        doubled: Items with more than one.
        failed: Items with an error.
        wrong: Items with another item's reply; ``None`` if the model's replies do not tell.
    """

    items: int
    killed: list[tuple[str, int]] = field(default_factory=list)
    seconds: float = 0.0
    asked: int = 0
    memory: dict[str, list[int]] = field(default_factory=dict)
    missing: int = 0
    doubled: int = 0
    failed: int = 0
    wrong: int | None = None

    def count(self, files: Iterable[tuple[int, Path]], prompt: Callable[[int], str] | None) -> None:
        """Count the results in the files of bulk jobs.

        Args:
            files: Each with the number of its first item.
            prompt: The prompt of an item, which the server echoes.
        """
        seen: Counter[int] = Counter()
        self.wrong = None if prompt is None else 0
        for first, file in files:
            with file.open(encoding="utf-8") as content:
                next(content)
                for line in content:
                    result: Mapping[str, Any] = json.loads(line)
                    item = first + result["index"]
                    seen[item] += 1
                    if "error" in result:
                        self.failed += 1
                    elif prompt is not None and self.wrong is not None:
                        self.wrong += result["reply"]["choices"][0]["message"]["content"] != prompt(item)
        self.missing = sum(item not in seen for item in range(self.items))
        self.doubled = sum(times > 1 for times in seen.values())

    def problems(self) -> list[str]:
        """Return what is not as it should be."""
        counts = {"missing": self.missing, "doubled": self.doubled, "failed": self.failed, "wrong": self.wrong}
        found = [f"{count} items are {name}" for name, count in counts.items() if count]
        for name, memory in self.memory.items():
            if not all(memory or [0]) or memory[-1] > GROWTH * memory[0]:
                found.append(f"the memory of the {name} grew, or was not measured: {memory}")
        return found

    def lines(self) -> list[str]:
        """Return the figures as text."""
        killed = ", ".join(f"{what} with {done} results" for what, done in self.killed)
        wrong = "not compared" if self.wrong is None else self.wrong
        return [
            f"{self.items} items in {self.seconds:.0f} s; killed: {killed}; {self.asked} requested in the last run",
            *(f"memory of the {name} in the last run, MiB: {values}" for name, values in self.memory.items()),
            f"missing {self.missing}, doubled {self.doubled}, failed {self.failed}, with another's reply {wrong}",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON data."""
        return {**vars(self), "seconds": round(self.seconds), "machine": measured.machine()}
