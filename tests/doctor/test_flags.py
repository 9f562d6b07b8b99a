"""Flags and parser names in the package's texts exist in ``vllm serve``."""

import argparse
import ast
import json
import re
import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

import vllm_adapters
from vllm_adapters._cli import main
from vllm_adapters.doctor.parsers import _BY_NAME, _BY_TOKEN, SINCE
from vllm_adapters.local.environment import prepare_environment
from vllm_adapters.local.progress import Progress
from vllm_adapters.local.server import DEFAULT_VERSION

PACKAGE = Path(vllm_adapters.__file__).parent
PYTEST_OPTIONS = {"--live", "--record", "--vllm-version"}
EXCLUDED_FOLDERS = ("builders", "scripts")
EXCLUDED_MODULES = ("environment", "patches", "html")  # options of pip, variables of CSS
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+[a-z]")
LIST_FLAGS = """
import json, sys
from vllm.entrypoints.cli.main import main
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

names = json.dumps([ToolParserManager.list_registered(), ReasoningParserManager.list_registered()])
print(names, flush=True)
sys.argv = ["vllm", "serve", "--help=all"]
main()
"""


def documented_flags():
    """Return all flags of vLLM in the package's strings."""
    texts = [
        node.value
        for path in PACKAGE.rglob("*.py")
        if path.parent.name not in EXCLUDED_FOLDERS and path.stem not in EXCLUDED_MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return {flag for text in texts for flag in FLAG.findall(text)} - options_of(main._parser()) - PYTEST_OPTIONS


def options_of(parser):
    """Return the options of a parser and its subcommands."""
    own = {option for action in parser._actions for option in action.option_strings}
    commands = [action.choices.values() for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return own.union(*(options_of(command) for group in commands for command in group))


@pytest.mark.live
def test_documented_flags_and_parsers_exist():
    python = prepare_environment(DEFAULT_VERSION, Progress(quiet=True)).python
    output = subprocess.run([python, "-c", LIST_FLAGS], capture_output=True, text=True, check=True, timeout=300).stdout
    names, _, help_text = output[output.index("[[") :].partition("\n")
    flags = documented_flags()
    assert {"--tool-call-parser", "--reasoning-parser", "--enable-prompt-tokens-details"} <= flags
    assert flags <= set(FLAG.findall(help_text))
    for ours, theirs in zip(zip(*_BY_NAME.values(), *_BY_TOKEN.values(), strict=True), json.loads(names), strict=True):
        newer = {name for name, since in SINCE.items() if since > Version(DEFAULT_VERSION)}
        assert set(ours) - newer <= {None, *theirs}
