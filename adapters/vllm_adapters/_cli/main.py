"""Entry point of the command line. Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from vllm_adapters._version import __version__

INTERRUPTED = 130  # what shells expect after Ctrl-C
PIPE_CLOSED = 141  # ... and after the reader closed the pipe, as in `... | head`


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments. Default: ``sys.argv[1:]``.

    Returns:
        The exit code: 0 success, 1 failure, 2 wrong arguments, 130 interrupted, 141 standard output closed.
    """
    if isinstance(sys.stdout, TextIOWrapper):  # for terminals that cannot encode "✓"
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    args = parser.parse_args(argv)
    if "run" not in args:
        parser.print_help(sys.stderr)
        return 2
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
    from vllm_adapters._cli.doctor import add_doctor_parser
    from vllm_adapters._cli.recipes import add_recipes_parser
    from vllm_adapters._cli.serve import add_serve_parser

    parser = argparse.ArgumentParser(
        prog="vllm-adapters",
        description="The OpenAI SDK client for vLLM, plugged into LangChain, LlamaIndex and Haystack.",
    )
    parser.add_argument("--version", action="version", version=f"vllm-adapters {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    add_serve_parser(commands)
    add_doctor_parser(commands)
    add_demo_parser(commands)
    add_recipes_parser(commands)
    return parser
