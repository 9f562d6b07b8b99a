"""Every path of every framework with every fault, which ``make faults`` shows as a table."""

import pytest

from fault_matrix.grid import FRAMEWORKS, HOSTILE_ENVIRONMENT, Path, count_requests, run_cell, run_cells
from fault_matrix.operations import KEY, Answer, Operation
from fault_matrix.rows import FAULTS
from vllm_adapters.errors import RateLimited

PATHS = {
    "client": [
        "chat",
        "chat stream",
        "tools",
        "tools stream",
        "parse",
        "chat.stream()",
        "parse.stream()",
        "json_schema stream",
        "completions",
        "completions stream",
        "choice",
        "choice stream",
        "completions choice",
        "completions choice stream",
        "structural tag",
        "structural tag stream",
        "completions structural tag",
        "completions structural tag stream",
        "forced tool",
        "forced tool stream",
        "thinking disabled stream",
        "structured_outputs={}",
        "embeddings",
        "server.embed",
        "server.rerank",
        "server.score",
        "server.classify",
        "server.tokenize",
    ],
    "LangChain": [
        "ChatVLLM.invoke",
        ".stream",
        "bind_tools .invoke",
        "bind_tools .stream",
        "with_structured_output .invoke",
        "with_structured_output .stream",
        "VLLM.invoke",
        "VLLM.stream",
        "structured_outputs .invoke",
        "structured_outputs .stream",
        "VLLM structured_outputs .invoke",
        "VLLM structured_outputs .stream",
        "structural tag .invoke",
        "structural tag .stream",
        "forced tool .invoke",
        "forced tool .stream",
        "thinking disabled .stream",
        "structured_outputs={}",
        "VLLMEmbeddings",
        "VLLMRerank",
    ],
    "LlamaIndex": [
        "VLLM.chat",
        ".stream_chat",
        ".complete",
        ".stream_complete",
        ".chat_with_tools",
        ".stream_chat_with_tools",
        ".structured_predict",
        ".stream_structured_predict",
        "completions",
        "completions stream",
        "choice",
        "choice stream",
        "completions choice",
        "completions choice stream",
        "structural tag",
        "structural tag stream",
        "tool_required",
        "tool_required stream",
        "thinking disabled stream",
        "structured_outputs={}",
        "VLLMEmbedding",
        "VLLMRerank",
    ],
    "Haystack": [
        "VLLMChatGenerator",
        "stream",
        "tools",
        "tools stream",
        "response_format",
        "response_format stream",
        "choice",
        "choice stream",
        "structural tag",
        "structural tag stream",
        "forced tool",
        "forced tool stream",
        "thinking disabled stream",
        "structured_outputs={}",
        "VLLMDocumentEmbedder",
        "VLLMDocumentEmbedder (keep going)",
        "VLLMTextEmbedder",
        "VLLMRanker",
        "VLLMTokenCounter",
    ],
}
"""The paths of each framework: one that is lost fails here."""

SYNC_ONLY = {"VLLMTokenCounter"}
FAULT_COUNT = 117
CELL_COUNTS = {"client": 2008, "LangChain": 1322, "LlamaIndex": 1568, "Haystack": 1302}

each_framework = pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.title)


@each_framework
def test_every_path_is_in_the_matrix(framework):
    pytest.importorskip(framework.needs)
    assert [path.name for path in framework.paths] == PATHS[framework.title]
    for path in framework.paths:
        assert len(path.variants) == (1 if path.name in SYNC_ONLY else 2), path.name


def test_every_fault_is_in_the_matrix():
    assert [framework.title for framework in FRAMEWORKS] == list(PATHS)
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == FAULT_COUNT


@each_framework
def test_every_fault_ends_in_the_right_answer_or_error(framework, monkeypatch):
    pytest.importorskip(framework.needs)
    for name, value in HOSTILE_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    cells = run_cells(framework.paths, FAULTS)
    assert sum(map(len, cells.values())) == CELL_COUNTS[framework.title]
    failed = [
        f"{path.name}, {fault.name}: {cell.text}\n{cell.note}"
        for (fault, path), variants in cells.items()
        for cell in variants
        if not cell.passed
    ]
    assert not failed, "\n\n".join(failed)


@pytest.mark.parametrize("retries", [0, 1, 3])
@each_framework
def test_at_most_one_plus_max_retries_requests_per_call(framework, retries):
    pytest.importorskip(framework.needs)
    counts = count_requests(framework.paths, retries)
    assert len(counts) == sum(len(path.variants) for path in framework.paths if not path.operation.refused)
    streamed = {path for path in framework.paths if path.operation.streamed}
    assert {count.path for count in counts if count.begun == 1} == streamed
    assert [f"{count.path.name}: {count.failing}, {count.begun}" for count in counts if not count.passed] == []


def raising(error):
    def call():
        raise error

    return call


@pytest.mark.parametrize(
    ("fault", "call", "text"),
    [
        ("healthy", lambda: Answer("another text", finish="stop"), "WRONG ANSWER"),
        ("healthy", raising(RateLimited("slow down")), "WRONG ERROR RateLimited"),
        ("403", raising(KeyError("choices")), "FOREIGN ERROR KeyError"),
        ("403", raising(ValueError(KEY)), "KEY EXPOSED by ValueError"),
        ("403", lambda: Answer("a text", finish="stop"), "NO ERROR"),
        ("slow headers", raising(RateLimited("slow down")), "WRONG ERROR RateLimited"),
        ("429, Retry-After 600", raising(RateLimited("slow down")), "RateLimited, 0 REQUESTS"),
    ],
)
def test_wrong_outcomes_fail(fault, call, text):
    path = Path("chat", Operation("say"), ())
    [row] = [row for row in FAULTS if row.name == fault]
    cell = run_cell(path, lambda url: call, row)
    assert (cell.text, cell.passed) == (text, False)
