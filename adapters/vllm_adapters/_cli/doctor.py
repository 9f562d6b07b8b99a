"""``vllm-adapters doctor``: check what a server supports, from the terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

FAILURE = 2  # also the exit code of a report without a usable server

_NOTES = """\
exit code:
  0  everything that the served model supports works
  1  a feature is missing or broken, or the server stopped responding halfway; the report names the flags to add
  2  no usable vLLM server: no response, not vLLM, or the API key was rejected; or wrong arguments
     (optional features, marked ○ and yellow, do not count)

--json prints one object. Its "format" is 1; within a format, keys may be added, but are never changed or removed:
  format, address, usable, complete, exit_code, version, models, routes, requests,
  missing_flags   flags to add to `vllm serve`, most of them with a value: ["--tool-call-parser hermes", ...]
  optional_flags  flags that enable optional features
  checks          of each: name, group, asks, counts (towards the exit code), text, flags, advice, data and
                  verdict: works, lacks, broken, absent, unclear or untried

environment:
  VLLM_BASE_URL  address of the server, if URL is not given
  VLLM_API_KEY   its API key, unless --api-key-env names another variable
"""


def add_doctor_parser(subparsers: Any) -> None:
    """Add the ``doctor`` command.

    Args:
        subparsers: Result of ``ArgumentParser.add_subparsers()``.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor",
        help="check what a server supports, and which flags it is missing",
        description="Send a few dozen small requests to a server and report what works, what is silently ignored, what "
        "is missing, and the `vllm serve` flag that enables it. Nothing on the server changes.",
        epilog=_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "url", nargs="?", metavar="URL", help="the server (default: VLLM_BASE_URL, else http://localhost:8000)"
    )
    parser.add_argument("--model", metavar="NAME", help="served model to check (default: the first base model)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON, for scripts")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as one self-contained page")
    parser.add_argument("--api-key-env", metavar="NAME", help="environment variable with the server's API key")
    parser.add_argument(
        "--time-limit", type=_seconds, default=300.0, metavar="SECONDS", help="total time limit (default: %(default)g)"
    )
    parser.set_defaults(run=run_doctor)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return seconds


def run_doctor(args: argparse.Namespace) -> int:
    """Run all checks of a server, and print or write the report.

    Args:
        args: Parsed arguments.

    Returns:
        The exit code. 0: everything that the model supports works. 1: a feature is missing or broken, or the
        report is incomplete. 2: no usable vLLM server, or wrong arguments.
    """
    from rich.console import Console

    from vllm_adapters.doctor import examine
    from vllm_adapters.doctor.render.html import render_html
    from vllm_adapters.doctor.render.terminal import print_report
    from vllm_adapters.errors import VLLMError

    api_key = os.environ.get(args.api_key_env) if args.api_key_env else None
    if args.api_key_env and not api_key:  # the value may be the key itself: do not print it
        return _fail("--api-key-env names a variable that is not set. Pass the variable's name, not the key.")
    if args.html and not args.html.absolute().parent.is_dir():
        return _fail(f"folder {args.html.absolute().parent} does not exist. Create it, or choose another.")
    if args.html and args.html.is_dir():
        return _fail(f"{args.html} is a folder. Pass a file path to --html.")
    stderr = Console(stderr=True)
    try:
        with stderr.status("connecting ...") as status:
            report = examine(
                args.url,
                api_key=api_key,
                model=args.model,
                time_limit=args.time_limit,
                before=lambda check: status.update(check.asks),
            )
    except VLLMError as error:  # the address or the key is malformed; no request was sent
        return _fail(str(error))
    if args.json:
        sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
    else:
        print_report(report, Console())
    if args.html:
        try:
            args.html.write_text(render_html(report), encoding="utf-8")
        except OSError as error:
            return _fail(f"cannot write {args.html}: {error.strerror}")
        stderr.print(f"Report written to {args.html}", highlight=False, markup=False)
    return report.exit_code


def _fail(message: str) -> int:
    sys.stderr.write(f"vllm-adapters doctor: {message}\n")
    return FAILURE
