"""Make the terminal pictures of the documentation from real servers: ``make pictures``."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from vllm_adapters import LocalVLLM
from vllm_adapters._demo.runner import run_demo
from vllm_adapters.doctor import examine
from vllm_adapters.doctor.render.terminal import print_report

PICTURES = Path(__file__).parent.parent / "docs" / "images"
_ADDRESSES = ("VLLM_BASE_URL", "VLLM_EMBED_BASE_URL", "VLLM_API_KEY")


class Picture(Console):
    """A console that records its output. It wraps long lines, which a picture would cut off."""

    def __init__(self, width: int) -> None:
        super().__init__(record=True, width=width, file=io.StringIO(), force_terminal=True)

    def print(self, *objects: Any, **how: Any) -> None:
        """Print with long lines wrapped."""
        super().print(*objects, **{**how, "soft_wrap": False})


def main() -> None:
    """Write the output of the demo, and of the doctor for a server without flags, as two SVG files."""
    for name in _ADDRESSES:
        os.environ.pop(name, None)
    PICTURES.mkdir(exist_ok=True)
    demo = Picture(118)
    if run_demo(demo):
        sys.exit("The demo failed, so no picture was made.")
    demo.save_svg(str(PICTURES / "demo.svg"), title="vllm-adapters demo")
    with LocalVLLM("tiny", bare=True) as server:
        report = Picture(88)
        print_report(examine(server.base_url), report)
    text = report.export_svg(title="vllm-adapters doctor").replace(server.base_url, "http://gpu:8000/v1")
    (PICTURES / "doctor.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
