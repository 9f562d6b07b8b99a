"""The layout of the package: public names, layers of imports, what an import loads, and the length of modules."""

from __future__ import annotations

import ast
import importlib
import io
import json
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vllm_adapters

PACKAGE = Path(vllm_adapters.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FRAMEWORKS = frozenset({"langchain", "llamaindex", "haystack"})

# Public names

PUBLIC = {
    "": [
        "AsyncVLLMClient",
        "Embedder",
        "LocalVLLM",
        "Timeouts",
        "VLLMClient",
        "VLLMError",
        "VLLMServer",
        "VLLMTokenizer",
        "__version__",
    ],
    "bulk": ["BulkChat", "BulkProgress", "BulkResult"],
    "client": ["AsyncVLLMClient", "VLLMClient"],
    "doctor": ["Check", "Finding", "Report", "Result", "Verdict", "examine"],
    "embedder": ["Embedder"],
    "errors": [
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
        "ModelRefusal",
        "PermissionDenied",
        "RateLimited",
        "ServerFailed",
        "ServerNotReady",
        "ServerOverloaded",
        "ServerTimeout",
        "ServerUnreachable",
        "TruncatedOutput",
        "UnknownParameter",
        "UnsupportedParameter",
        "VLLMError",
        "WrongAddress",
    ],
    "haystack": [
        "VLLMChatGenerator",
        "VLLMDocumentEmbedder",
        "VLLMRanker",
        "VLLMTextEmbedder",
        "VLLMTokenCounter",
        "VLLMTranscriber",
    ],
    "langchain": ["ChatVLLM", "VLLM", "VLLMAudioParser", "VLLMEmbeddings", "VLLMRerank"],
    "llamaindex": ["VLLM", "VLLMEmbedding", "VLLMRerank"],
    "local": ["LocalVLLM"],
    "params": [
        "CONSTRAINTS",
        "ChatParams",
        "ClassifyParams",
        "CompletionParams",
        "DecisionParams",
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
    ],
    "server": ["VLLMServer"],
    "testing": [
        "Behaviour",
        "Exchange",
        "FaultServer",
        "Received",
        "Sent",
        "SentRequest",
        "faults",
        "payloads",
    ],
    "timeouts": ["Timeouts"],
    "tokenizer": ["VLLMTokenizer"],
    "types": ["Capabilities", "Classified", "Decision", "Embedded", "ModelCard", "Ranked", "Tokens", "ToolCall"],
}


def file_of(module: str) -> Path:
    file = PACKAGE / f"{module or '__init__'}.py"
    return file if file.exists() else PACKAGE / module / "__init__.py"


def exported(file: Path) -> list[str] | None:
    """Return the ``__all__`` of a module, which may need a framework to be imported."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    return None


def test_exported_names():
    found = {module: sorted(exported(file_of(module)) or []) for module in PUBLIC}
    assert found == PUBLIC


@pytest.mark.parametrize("module", PUBLIC)
def test_exported_names_exist(module):
    needs = {"langchain": "langchain_openai", "llamaindex": "llama_index", "haystack": "haystack"}
    if module in needs:
        pytest.importorskip(needs[module])
    imported = importlib.import_module(f"vllm_adapters.{module}".rstrip("."))
    assert [name for name in PUBLIC[module] if not hasattr(imported, name)] == []


def test_other_modules_are_private():
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {name for name in names if not name.startswith("_")} == PUBLIC.keys() - {""}


# Imports

# Each layer may import those above it; a package may import itself.
LAYERS = [
    {"_version", "_optional", "_compat", "_pytest", "errors", "types", "params", "timeouts"},
    {"_request", "_transport", "_response"},
    {"_client", "client"},
    {"server"},
    {"bulk", "embedder", "tokenizer"},
    FRAMEWORKS,
    {"doctor", "local", "testing"},
    {"_demo", "_cli", "__main__"},
]
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}
HEAVY = {"openai", "pydantic", "httpx", "httpx2", "rich", "numpy", "langchain_core", "llama_index", "haystack"}


def part_of(file: Path) -> str:
    """Return the module or package directly below ``vllm_adapters`` that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(file: Path) -> str:
    """Return the dotted name of a module, without ``vllm_adapters.``."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {module_of(file): file for file in FILES}


def imports_of(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of each module of this package that ``node`` imports."""
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: a relative import"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
        if name.split(".")[0] == "vllm_adapters":
            name = name.partition(".")[2]
            yield node.lineno, name if name in MODULES else name.rpartition(".")[0]


def all_imports(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the imports of a file, also those in functions and for type checkers."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        yield from imports_of(node)


def imports_when_loaded(file: Path) -> Iterator[str]:
    """Yield the modules that importing a file imports."""
    nodes: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes.extend(node.orelse)
            continue
        yield from (module for _, module in imports_of(node))
        nodes.extend(ast.iter_child_nodes(node))


def test_imports_point_one_way():
    wrong = []
    for file in FILES:
        here = part_of(file)
        if here == "__init__":  # it imports a name when it is used
            continue
        assert here in HEIGHT, f"{here} has no layer: add it to LAYERS"
        wrong += [
            f"{file.relative_to(PACKAGE)}:{line} imports {module}"
            for line, module in all_imports(file)
            if module and HEIGHT[module.split(".")[0]] > HEIGHT[here]
        ]
    assert wrong == []


def test_framework_packages_do_not_import_each_other():
    importers = {
        part_of(file)
        for file in FILES
        for _, module in all_imports(file)
        if module.split(".")[0] in FRAMEWORKS and part_of(file) not in (module.split(".")[0], "__init__")
    }
    assert importers <= {"_demo"}


def test_modules_do_not_import_each_other_in_a_cycle():
    graph = {module: set(imports_when_loaded(file)) - {module} for module, file in MODULES.items()}
    assert sum(map(len, graph.values())) > 100, "the imports are found"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def modules_after(code: str) -> set[str]:
    """Return the top-level names of all modules that a fresh Python has loaded after running ``code``."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    program = f"{code}\n{report}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
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
def test_import_and_help_load_nothing_heavy(code):
    loaded = modules_after(code)
    assert "vllm_adapters" in loaded
    assert loaded & HEAVY == set()


def test_core_loads_no_framework():
    names = ", ".join(name for name in PUBLIC[""] if name != "__version__")
    loaded = modules_after(f"from vllm_adapters import {names}")
    assert "openai" in loaded
    assert loaded & {"langchain_core", "langchain_openai", "llama_index", "haystack"} == set()


# Length

MAX_LINES = 600
"""Lines of code of a module, without docstrings, comments and blank lines: it holds one concept."""


def code_lines(file: Path) -> int:
    text = file.read_text(encoding="utf-8")
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in layout
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - docstrings)


def test_modules_are_short():
    lines = {str(file.relative_to(PACKAGE)): code_lines(file) for file in FILES}
    assert max(lines.values()) > 100, "lines are counted"
    assert {file: count for file, count in lines.items() if count > MAX_LINES} == {}
