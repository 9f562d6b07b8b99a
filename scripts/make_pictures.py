"""Takes the README's terminal pictures of a real server: ``make pictures``."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from vllm_adapters import LocalVLLM
from vllm_adapters._demo.show import run
from vllm_adapters.doctor import examine
from vllm_adapters.doctor.render.terminal import print_report

PICTURES = Path(__file__).parent.parent / "docs" / "images"
_ADDRESSES = ("VLLM_BASE_URL", "VLLM_EMBED_BASE_URL", "VLLM_API_KEY")


class Picture(Console):
    """A console that draws what it is told. A terminal wraps long lines by itself; a picture would cut them."""

    def __init__(self, width: int) -> None:
        super().__init__(record=True, width=width, file=io.StringIO(), force_terminal=True)

    def print(self, *objects: Any, **how: Any) -> None:
        """Print, and wrap what is too long."""
        super().print(*objects, **{**how, "soft_wrap": False})


def main() -> None:
    """Show the tour, and what the doctor says of a server that lacks a flag, as two SVG files."""
    for name in _ADDRESSES:
        os.environ.pop(name, None)
    PICTURES.mkdir(exist_ok=True)
    tour = Picture(118)
    if run(tour):
        sys.exit("The tour failed: no picture of it.")
    tour.save_svg(str(PICTURES / "demo.svg"), title="vllm-adapters demo")
    with LocalVLLM("tiny", bare=True) as server:
        report = Picture(88)
        print_report(examine(server.base_url), report)
    text = report.export_svg(title="vllm-adapters doctor").replace(server.base_url, "http://gpu:8000/v1")
    (PICTURES / "doctor.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
