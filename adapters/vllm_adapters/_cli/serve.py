"""``vllm-adapters serve``: run a local vLLM server from the terminal."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_adapters.local.server import LocalVLLM


def add_serve_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the ``serve`` command.

    Args:
        subparsers: Result of ``ArgumentParser.add_subparsers()``.

    Returns:
        The new parser. It stores the arguments after ``--``, which are for vLLM, in ``vllm_flags``.
    """
    from vllm_adapters.local.models import MODELS
    from vllm_adapters.local.server import DEFAULT_VERSION

    models = "\n".join(f"  {model.name:<14} {model.description}" for model in MODELS.values())
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        help="run a vLLM server on this machine's CPU, with a small model",
        description="Run a vLLM server on this machine's CPU until Ctrl-C. "
        "The first run installs vLLM, which takes minutes and about 4 GB.",
        epilog=f"models, all offline:\n{models}\n"
        "  any other      a model directory or a Hugging Face name\n\n"
        "arguments after -- are passed to vLLM: vllm-adapters serve tiny -- --max-num-seqs 4",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", default="tiny", metavar="MODEL", help="model to serve (default: tiny)")
    parser.add_argument("--port", type=int, help="port of the server (default: a free port)")
    parser.add_argument(
        "--version", default=DEFAULT_VERSION, help="version of vLLM, 0.11.0 or newer (default: %(default)s)"
    )
    parser.add_argument("--api-key-env", metavar="NAME", help="environment variable with the API key to require")
    parser.add_argument("--max-model-len", type=int, metavar="TOKENS", help="context length in tokens")
    parser.add_argument("--lora", action="store_true", help="with tiny: enable LoRA and serve a random adapter")
    parser.add_argument("--rust-frontend", action="store_true", help="with 0.33.0: vLLM's HTTP server in Rust")
    parser.add_argument("--install", action="store_true", help="install vLLM and the model, and exit")
    parser.add_argument("--quiet", action="store_true", help="print no progress on standard error")
    parser.set_defaults(vllm_flags=[], run=run_serve)
    parse_own_args = parser.parse_known_args

    def parse_known_args(args: Any = None, namespace: Any = None) -> Any:
        # argparse would consume positional arguments after --, unless an option precedes them.
        arguments = list(sys.argv[1:] if args is None else args)
        end = arguments.index("--") if "--" in arguments else len(arguments)
        parsed, unknown = parse_own_args(arguments[:end], namespace)
        parsed.vllm_flags = arguments[end + 1 :]
        return parsed, unknown

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign]
    return parser


def run_serve(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C, SIGTERM, or the exit of the server.

    Args:
        args: Parsed arguments of ``add_serve_parser``.

    Returns:
        The exit code. 0: Ctrl-C, SIGTERM, or installed. 2: wrong arguments. Otherwise: vLLM's exit code.

    Raises:
        LocalVLLMError: The server could not be installed or started.
    """
    from vllm_adapters.local.server import LocalVLLM

    api_key = os.environ.get(args.api_key_env) if args.api_key_env else None
    if args.api_key_env and not api_key:  # the value may be the key itself: do not print it
        return _usage_error("--api-key-env names a variable that is not set. Pass the variable's name, not the key.")
    try:
        local = LocalVLLM(
            args.model,
            flags=args.vllm_flags,
            port=args.port,
            version=args.version,
            api_key=api_key,
            max_model_len=args.max_model_len,
            quiet=args.quiet,
            lora=args.lora,
            rust_frontend=args.rust_frontend,
        )
    except ValueError as error:
        return _usage_error(str(error))
    previous_handler = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if args.install:
            local.install()
            return 0
        return _serve(local, args.api_key_env)
    except KeyboardInterrupt:
        return 0
    finally:
        local.stop()
        signal.signal(signal.SIGTERM, previous_handler)


def _usage_error(message: str) -> int:
    print(f"vllm-adapters serve: {message}", file=sys.stderr)  # noqa: T201
    return 2


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _serve(local: LocalVLLM, api_key_env: str | None) -> int:
    local.start()
    print(f"base_url: {local.base_url}")  # noqa: T201
    print(f"model:    {local.model}")  # noqa: T201
    print(f"log:      {local.log_path}")  # noqa: T201
    print(f"export VLLM_BASE_URL={local.base_url}")  # noqa: T201
    if api_key_env and api_key_env != "VLLM_API_KEY":
        print(f'export VLLM_API_KEY="${api_key_env}"')  # noqa: T201
    print("Press Ctrl-C to stop.", flush=True)  # noqa: T201
    code = local.wait()
    print(f"vLLM exited with code {code}. Its log ends with:\n{local.log_tail()}", file=sys.stderr)  # noqa: T201
    return code or 1
