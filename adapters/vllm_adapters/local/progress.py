"""Tells the user, on standard error, what takes so long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status


class Progress:
    """Lines that stay, and on a terminal one live line under them.

    Args:
        quiet: Say nothing at all.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._status: Status | None = None
        self._doing = ""
        self._since = 0.0

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        if self.quiet:
            return
        from rich.console import Console

        console = self._status.console if self._status else Console(stderr=True)
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, doing: str) -> Iterator[None]:
        """A live line with a clock while the block runs; where there is no terminal, the line once."""
        if self.quiet:
            yield
            return
        from rich.console import Console

        console = Console(stderr=True)
        if not console.is_terminal:
            self.say(f"{doing} ...")
            yield
            return
        self._doing, self._since = doing, time.monotonic()
        with console.status(doing) as self._status:
            try:
                yield
            finally:
                self._status = None

    def now(self, detail: str) -> None:
        """Changes the live line."""
        if self._status is not None:
            from rich.markup import escape

            head = f"{self._doing} ({time.monotonic() - self._since:.0f} s)"
            room = max(0, self._status.console.width - len(head) - 5)  # a line that wraps leaves traces behind
            self._status.update(f"{escape(head)} [dim]{escape(detail[:room])}[/dim]")
