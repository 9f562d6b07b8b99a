"""Run calls and faults through real gateways, and print what is ok, falls back, or is a typed error.

    make gateways                        # starts two `tiny` and a `minilm`
    VLLM_REPLICAS="http://... http://..." VLLM_EMBED_BASE_URL=http://... make gateways   # servers that are running
    make gateways ARGS="--only session"  # the checks whose name has this word
    make gateways ARGS="--save"          # and keep the table for the documentation (make readme)

The exit code is 1 if a result is wrong, an error is not typed, or the table is not that of the documentation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gateways import checks, start
from vllm_adapters import LocalVLLM
from vllm_adapters.errors import VLLMError
from vllm_adapters.testing import FaultServer

SAVED = Path(__file__).with_name("results.json")
GATEWAYS = (start.vllm_router, start.litellm, start.nginx)


@contextmanager
def backends() -> Iterator[tuple[list[str], str]]:
    """Yield two replicas of the chat model, and the embedding model."""
    replicas = os.environ.get("VLLM_REPLICAS", "").split()
    embed = os.environ.get("VLLM_EMBED_BASE_URL")
    with ExitStack() as stack:
        while len(replicas) < 2:
            replicas.append(stack.enter_context(LocalVLLM("tiny")).client.vllm.root)
        embed = embed or stack.enter_context(LocalVLLM("minilm")).client.vllm.root
        yield [url.rstrip("/").removesuffix("/v1") for url in replicas], embed.rstrip("/").removesuffix("/v1")


def outcome(check: checks.Check, gateway: start.Gateway, stub: FaultServer) -> tuple[str, bool]:
    """Return the cell of a check, and whether it is right."""
    try:
        found = check(gateway, stub)
    except VLLMError as error:
        return f"typed: {type(error).__name__}", True
    except Exception:
        traceback.print_exc()
        return "WRONG", False
    return found, True


def main() -> int:
    """Run everything and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--save", action="store_true", help="keep the table for the documentation")
    arguments.add_argument("--only", default="", metavar="WORD", help="run the checks whose name has this word")
    args = arguments.parse_args()
    real, faults, dead = (
        {name: check for name, check in checks_.items() if args.only in name}
        for checks_ in (checks.REAL, checks.FAULTS, checks.DEAD)
    )
    table: dict[str, dict[str, str]] = {}
    right = True
    with backends() as (replicas, embed):
        os.environ["GATEWAYS_REPLICAS"] = " ".join(replicas)
        for begin in GATEWAYS:
            with (
                tempfile.TemporaryDirectory() as folder,
                FaultServer() as stub,
                begin(replicas, embed, stub.root, Path(folder)) as gateway,
            ):
                for name, check in (real | faults).items():
                    table.setdefault(name, {})[gateway.name], fine = outcome(check, gateway, stub)
                    right &= fine
                stub.stop()
                for name, check in dead.items():
                    table.setdefault(name, {})[gateway.name], fine = outcome(check, gateway, stub)
                    right &= fine
            print(f"{gateway.name} is done", file=sys.stderr)
    print_table(table)
    saved = json.loads(SAVED.read_text())
    if args.save:
        names = checks.REAL | checks.FAULTS | checks.DEAD
        rows = {name: {**saved.get(name, {}), **table.get(name, {})} for name in names}
        SAVED.write_text(json.dumps(rows, indent=1) + "\n")
        return int(not right)
    for name, row in table.items():
        for gateway_name, cell in row.items():
            if saved.get(name, {}).get(gateway_name) != cell:
                print(f"{name}, {gateway_name}: {cell!r}, not {saved.get(name, {}).get(gateway_name)!r}")
                right = False
    return int(not right)


def print_table(table: Mapping[str, Mapping[str, str]]) -> None:
    """Print the table."""
    for name, row in table.items():
        print(f"{name:56}" + "".join(f"{gateway}: {cell:44}" for gateway, cell in row.items()))


if __name__ == "__main__":
    sys.exit(main())
