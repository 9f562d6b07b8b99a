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
    """Add the ``demo`` command.

    Args:
        subparsers: Result of ``ArgumentParser.add_subparsers()``.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="show what works in each framework, against a real vLLM",
        description="Run the same scenarios through the client and through each installed framework against a real "
        "vLLM, check the answers, and print a table of the results. By default, two small servers are started on this "
        "machine's CPU.",
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from vllm_adapters._demo.runner import run_demo

    return run_demo()
