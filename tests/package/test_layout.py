"""Imports point one way, and what nobody asked for is not loaded."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vllm_adapters

PACKAGE = Path(vllm_adapters.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FRAMEWORKS = frozenset({"langchain", "llamaindex", "haystack"})

# Each may import what stands in a line above its own; modules of one package may import each other.
LAYERS = [
    {"_version", "_optional", "_compat", "_pytest", "errors", "types", "params", "timeouts"},
    {"_request", "_transport", "_response"},
    {"_client", "client"},
    {"server"},
    {"embedder", "tokenizer"},
    FRAMEWORKS,
    {"doctor", "local", "testing"},
    {"_demo", "_cli", "__main__"},
]
HEIGHT = {"__init__": 0} | {name: height for height, layer in enumerate(LAYERS) for name in layer}
HEAVY = {"openai", "pydantic", "httpx", "httpx2", "rich", "numpy", "langchain_core", "llama_index", "haystack"}


def part(file: Path) -> str:
    """The part of the house a file belongs to: a module of the package, or a package in it."""
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """Line and part of each import of this package, inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            module = node.module or ""
            modules = [f"{module}.{alias.name}" for alias in node.names] if module == "vllm_adapters" else [module]
        for module in modules:
            if module.split(".")[0] == "vllm_adapters":
                yield node.lineno, module.removeprefix("vllm_adapters.").split(".")[0]


def id_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def test_imports_point_one_way():
    wrong = []
    for file in FILES:
        here = part(file)
        if here == "__init__":  # lazy: it imports a name when it is asked for
            continue
        assert here in HEIGHT, f"{here} has no layer yet: give it one in LAYERS"
        wrong += [
            f"{id_of(file)}:{line} imports {there}"
            for line, there in imported(file)
            if HEIGHT[there] > HEIGHT[here] and there != "_version"
        ]
    assert wrong == []


def test_framework_packages_never_import_one_another():
    importers = {
        part(file)
        for file in FILES
        for _, there in imported(file)
        if there in FRAMEWORKS and part(file) not in (there, "__init__")
    }
    assert importers <= {"_demo"}


EXPORTED = {
    "vllm_adapters": {
        "AsyncVLLMClient",
        "Embedder",
        "LocalVLLM",
        "Timeouts",
        "VLLMClient",
        "VLLMError",
        "VLLMServer",
        "VLLMTokenizer",
        "__version__",
    },
    "vllm_adapters.client": {"AsyncVLLMClient", "VLLMClient"},
    "vllm_adapters.embedder": {"Embedder"},
    "vllm_adapters.errors": {
        "AuthenticationFailed",
        "ConstraintNotEnforced",
        "ContextLengthExceeded",
        "FeatureNotEnabled",
        "FilteredOutput",
        "IncompleteStream",
        "InvalidRequest",
        "InvalidResponse",
        "LocalVLLMError",
        "ModelNotServed",
        "PermissionDenied",
        "RateLimited",
        "ServerFailed",
        "ServerNotReady",
        "ServerTimeout",
        "ServerUnreachable",
        "TruncatedOutput",
        "UnknownParameter",
        "UnsupportedParameter",
        "VLLMError",
        "WrongAddress",
    },
    "vllm_adapters.params": {
        "CONSTRAINTS",
        "ChatParams",
        "ClassifyParams",
        "CompletionParams",
        "EmbeddingParams",
        "MODELS",
        "MultiModalParams",
        "PoolerParams",
        "PoolingParams",
        "RepetitionDetection",
        "RequestParams",
        "RerankParams",
        "SamplingParams",
        "ScoreParams",
        "ScoringParams",
        "StructuredOutputs",
        "TemplateParams",
        "TextEmbeddingParams",
        "TokenizeParams",
        "TokenizerParams",
        "VectorParams",
    },
    "vllm_adapters.server": {"VLLMServer"},
    "vllm_adapters.timeouts": {"Timeouts"},
    "vllm_adapters.tokenizer": {"VLLMTokenizer"},
    "vllm_adapters.types": {"Capabilities", "Classified", "Embedded", "ModelCard", "Ranked", "Tokens", "ToolCall"},
    "vllm_adapters.doctor": {"Check", "Finding", "Report", "Result", "Verdict", "examine"},
    "vllm_adapters.haystack": {
        "VLLMChatGenerator",
        "VLLMDocumentEmbedder",
        "VLLMRanker",
        "VLLMTextEmbedder",
        "VLLMTokenCounter",
    },
    "vllm_adapters.langchain": {"ChatVLLM", "VLLM", "VLLMEmbeddings", "VLLMRerank"},
    "vllm_adapters.llamaindex": {"VLLM", "VLLMEmbedding", "VLLMRerank"},
    "vllm_adapters.local": {"LocalVLLM"},
    "vllm_adapters.testing": {
        "Behaviour",
        "Exchange",
        "FaultServer",
        "Received",
        "Sent",
        "SentRequest",
        "faults",
        "payloads",
    },
}
"""The names of every public module: adding or removing one is a decision."""


def declared_names(module: str) -> set[str]:
    """Return ``__all__`` of a module without importing it: not every framework is installed everywhere."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{module} has no __all__")


@pytest.mark.parametrize("module", EXPORTED)
def test_exported_names(module):
    assert declared_names(module) == EXPORTED[module]


def test_every_module_without_an_underscore_is_public():
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    public = {name for name in modules if not name.startswith("_")}
    assert {f"vllm_adapters.{name}" for name in public} | {"vllm_adapters"} == EXPORTED.keys()


def lines_of_code(file: Path) -> int:
    """Return the lines with code: neither blank, nor comments, nor docstrings."""
    tree = ast.parse(source := file.read_text(encoding="utf-8"))
    documentation = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(source.splitlines(), start=1)
    return sum(bool(text.split("#")[0].strip()) and number not in documentation for number, text in lines)


def test_no_module_has_more_than_600_lines_of_code():
    assert [id_of(file) for file in FILES if lines_of_code(file) > 600] == []


def modules_after(code: str) -> set[str]:
    """The top-level names of all modules that a fresh Python has loaded after running ``code``."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    program = f"{code}\n{report}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import vllm_adapters; vllm_adapters.__version__; dir(vllm_adapters)",
        "from vllm_adapters._cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from vllm_adapters._cli.main import main\ntry: main(['serve', '--help'])\nexcept SystemExit: pass",
        "from vllm_adapters._cli.main import main\ntry: main(['doctor', '--help'])\nexcept SystemExit: pass",
        "from vllm_adapters._cli.main import main\nmain(['recipes', 'list'])",
    ],
    ids=["import", "help", "serve-help", "doctor-help", "recipes"],
)
def test_loads_nothing_heavy(code):
    loaded = modules_after(code)
    assert "vllm_adapters" in loaded
    assert loaded & HEAVY == set()


def test_the_core_loads_no_framework():
    loaded = modules_after("from vllm_adapters import AsyncVLLMClient, LocalVLLM, VLLMClient, VLLMError, VLLMServer")
    assert loaded & {"langchain_core", "langchain_openai", "llama_index", "haystack"} == set()
