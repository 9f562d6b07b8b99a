"""Progress of slow steps on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status

__all__ = ["Progress"]


class Progress:
    """Print permanent lines, and on a terminal one live line below them.

    Args:
        quiet: Print nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._status: Status | None = None
        self._title = ""
        self._start = 0.0

    def print(self, line: str) -> None:
        """Print a permanent line."""
        if self.quiet:
            return
        from rich.console import Console

        console = self._status.console if self._status else Console(stderr=True)
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show a live line with the elapsed time while the block runs. Without a terminal, print the title once."""
        if self.quiet:
            yield
            return
        from rich.console import Console

        console = Console(stderr=True)
        if not console.is_terminal:
            self.print(f"{title} ...")
            yield
            return
        self._title, self._start = title, time.monotonic()
        with console.status(title) as self._status:
            try:
                yield
            finally:
                self._status = None

    def update(self, detail: str) -> None:
        """Show a detail in the live line."""
        if self._status is not None:
            from rich.markup import escape

            head = f"{self._title} ({time.monotonic() - self._start:.0f} s)"
            width = max(0, self._status.console.width - len(head) - 5)  # a wrapped line would not be erased
            self._status.update(f"{escape(head)} [dim]{escape(detail[:width])}[/dim]")
