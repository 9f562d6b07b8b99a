"""What the package tells people to give to `vllm serve`, beside what a real one takes."""

import argparse
import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

import vllm_adapters
from vllm_adapters._cli import main
from vllm_adapters.doctor.parsers import _BY_NAME, _BY_TOKEN
from vllm_adapters.local.environment import prepare_environment
from vllm_adapters.local.progress import Progress

PACKAGE = Path(vllm_adapters.__file__).parent
OUR_PYTEST_OPTIONS = {"--live", "--record"}
NOT_FOR_USERS = ("builders", "scripts")  # folders
TALK_TO_OTHERS = ("environment", "patches", "html")  # modules: pip's options, and variables of CSS
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+[a-z]")
ASK = """
import json, sys
from vllm.entrypoints.cli.main import main
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

names = json.dumps([ToolParserManager.list_registered(), ReasoningParserManager.list_registered()])
print(names, flush=True)
sys.argv = ["vllm", "serve", "--help=all"]
main()
"""


def flags_told():
    """Every flag of vLLM's in a text of the package."""
    texts = [
        node.value
        for path in PACKAGE.rglob("*.py")
        if path.parent.name not in NOT_FOR_USERS and path.stem not in TALK_TO_OTHERS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return {flag for text in texts for flag in FLAG.findall(text)} - flags_of(main._parser()) - OUR_PYTEST_OPTIONS


def flags_of(parser):
    own = {flag for action in parser._actions for flag in action.option_strings}
    below = [action.choices.values() for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return own.union(*(flags_of(one) for commands in below for one in commands))


@pytest.mark.live
def test_vllm_takes_every_flag_and_every_parser_that_is_told():
    python = prepare_environment("0.32.0", Progress(quiet=True)).python
    said = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=True, timeout=300).stdout
    names, _, its_help = said[said.index("[[") :].partition("\n")
    told = flags_told()
    assert {"--tool-call-parser", "--reasoning-parser", "--enable-prompt-tokens-details"} <= told
    assert told <= set(FLAG.findall(its_help))
    for ours, theirs in zip(zip(*_BY_NAME.values(), *_BY_TOKEN.values(), strict=True), json.loads(names), strict=True):
        assert set(ours) <= {None, *theirs}
