"""``vllm-adapters doctor``: check what a server supports, from the terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys

from rich.console import Console

from vllm_adapters.doctor import examine
from vllm_adapters.doctor.render.html import render_html
from vllm_adapters.doctor.render.terminal import print_report
from vllm_adapters.errors import VLLMError

FAILURE = 2  # also the exit code of a report without a usable server


def run_doctor(args: argparse.Namespace) -> int:
    """Run all checks of a server, and print or write the report.

    Args:
        args: Parsed arguments.

    Returns:
        The exit code. 0: everything that the model supports works. 1: a feature is missing or broken, or the
        report is incomplete. 2: no usable vLLM server, or wrong arguments.
    """
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
