"""``vllm-adapters demo``: run the scenarios of the demo."""

from __future__ import annotations

import argparse
from typing import Any

_ENVIRONMENT = """\
environment:
  VLLM_BASE_URL        chat server to use instead of starting one
  VLLM_EMBED_BASE_URL  server for embeddings and rerank to use instead of starting one
  VLLM_API_KEY         API key of both, if they require one
"""


def add_demo_parser(subparsers: Any) -> None:
    """Add the command ``demo``.

    Args:
        subparsers: Return value of ``ArgumentParser.add_subparsers()``.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="show what works in each framework, against a real vLLM",
        description="Runs the same scenarios through the client and through each installed framework against a real "
        "vLLM, checks the answers, and prints a table of the results. By default it starts two small servers on this "
        "machine's CPU.",
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from vllm_adapters._demo.runner import run_demo

    return run_demo()
