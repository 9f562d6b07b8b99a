"""Entry point of the command line. Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from vllm_adapters._version import __version__

INTERRUPTED = 130  # what shells expect after Ctrl-C
PIPE_CLOSED = 141  # ... and after the reader closed the pipe, as in `... | head`

_DOCTOR_NOTES = """\
exit code:
  0  all that the served model can do works
  1  something lacks or is broken (the report names the flags for `vllm serve`), or it stopped answering half way
  2  nothing usable there: no answer, no vLLM, or it refuses the key; or wrong arguments
     (marked ○ and yellow: what could be switched on as well; a server without is whole)

--json prints one object (its "format" is 1; keys may be added within a format, none changes or goes):
  format, address, usable, complete, exit_code, version, models, routes, requests,
  missing_flags   what to add to `vllm serve`, most of it with a value: ["--tool-call-parser hermes", ...]
  optional_flags  what could be added as well
  checks          of each: name, group, asks, counts (towards the exit code), text, flags, advice, data and
                  verdict: works, lacks, broken, absent, unclear or untried

environment:
  VLLM_BASE_URL  the server, where no URL is given
  VLLM_API_KEY   its key, where --api-key-env names no other variable
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments. Default: ``sys.argv[1:]``.

    Returns:
        The exit code: 0 success, 1 failure, 2 wrong arguments, 130 interrupted, 141 standard output closed.
    """
    if isinstance(sys.stdout, TextIOWrapper):  # for terminals that cannot encode "✓"
        sys.stdout.reconfigure(errors="backslashreplace")
    args = _parser().parse_args(argv)
    try:
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes standard output at exit
        return PIPE_CLOSED
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # raised by rich
            return PIPE_CLOSED
        raise
    except OSError as error:  # such as a missing permission or a full disk
        sys.stderr.write(f"vllm-adapters: {error}\n")
        return 1
    except Exception as error:
        from vllm_adapters.errors import VLLMError

        if not isinstance(error, VLLMError):
            raise
        sys.stderr.write(f"vllm-adapters: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    from vllm_adapters._cli.demo import add_demo_parser
    from vllm_adapters._cli.recipes import add_recipes_parser
    from vllm_adapters._cli.serve import add_serve_parser, run_serve

    parser = argparse.ArgumentParser(
        prog="vllm-adapters",
        description="The OpenAI SDK client, taught to speak vLLM, plugged into LangChain, LlamaIndex and Haystack.",
    )
    parser.add_argument("--version", action="version", version=f"vllm-adapters {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_serve_parser(commands)
    commands.choices["serve"].set_defaults(run=run_serve)
    _add_doctor_parser(commands)
    add_demo_parser(commands)
    add_recipes_parser(commands)
    return parser


def _add_doctor_parser(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="what a server can do, found out by trying, and which flag it lacks",
        description="Asks a server a few dozen small requests and says what works, what is silently ignored, what is "
        "missing and the `vllm serve` flag that would add it. Nothing on the server changes.",
        epilog=_DOCTOR_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument(
        "url", nargs="?", metavar="URL", help="the server (default: VLLM_BASE_URL, else http://localhost:8000)"
    )
    doctor.add_argument("--model", metavar="NAME", help="the served model to ask (default: the first base model)")
    doctor.add_argument("--json", action="store_true", help="print the report as JSON, for scripts")
    doctor.add_argument("--html", type=Path, metavar="FILE", help="write the report as one self-contained page")
    doctor.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the server's key")
    doctor.add_argument(
        "--time-limit", type=_seconds, default=300.0, metavar="SECONDS", help="for all of it (default: %(default)g)"
    )
    doctor.set_defaults(run=_doctor)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return seconds


def _doctor(args: argparse.Namespace) -> int:
    from vllm_adapters._cli.doctor import run_doctor

    return run_doctor(args)
