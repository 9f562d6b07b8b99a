"""`vllm-adapters doctor`: an examination from the terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys

from rich.console import Console

from vllm_adapters.doctor.render.html import page
from vllm_adapters.doctor.render.terminal import show
from vllm_adapters.doctor.runner import examine
from vllm_adapters.errors import VLLMError

NOTHING_USABLE = 2
_NO_SUCH_VARIABLE = (  # which may well be the key itself, and is not repeated
    "--api-key-env names a variable that is not set; it takes the variable's name, not the key"
)


def run_doctor(args: argparse.Namespace) -> int:
    """Examine a server, and print, or write, what was found.

    Args:
        args: What the command line's parser read.

    Returns:
        The exit code: 0 all that the model can do works, 1 something lacks or is broken, or not all could be
        asked, 2 nothing usable there, or wrong arguments.
    """
    api_key = os.environ.get(args.api_key_env) if args.api_key_env else None
    if args.api_key_env and not api_key:
        return _refused(_NO_SUCH_VARIABLE)
    if args.html and not args.html.absolute().parent.is_dir():
        return _refused(f"there is no folder {args.html.absolute().parent}")
    if args.html and args.html.is_dir():
        return _refused(f"{args.html} is a folder; --html takes the file to write")
    progress = Console(stderr=True)
    try:
        with progress.status("looking ...") as status:
            report = examine(
                args.url,
                api_key=api_key,
                model=args.model,
                time_limit=args.time_limit,
                before=lambda check: status.update(check.asks),
            )
    except VLLMError as error:  # not an address, or not a key: nothing was asked
        return _refused(str(error))
    if args.json:
        sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
    else:
        show(report, Console())
    if args.html:
        try:
            args.html.write_text(page(report), encoding="utf-8")
        except OSError as error:
            return _refused(f"cannot write {args.html}: {error.strerror}")
        progress.print(f"Written: {args.html}", highlight=False, markup=False)
    return report.exit_code


def _refused(why: str) -> int:
    sys.stderr.write(f"vllm-adapters doctor: {why}\n")
    return NOTHING_USABLE
