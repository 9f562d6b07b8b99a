"""A wrong type and a misspelt keyword are errors before anything runs: mypy says so."""

import pytest

api = pytest.importorskip("mypy.api")
pytest.importorskip("llama_index.llms.openai_like")

USE = """
from vllm_adapters import Timeouts, VLLMServer
from vllm_adapters.llamaindex import VLLM, VLLMEmbedding, VLLMRerank

VLLM(model="m", api_base="http://h:8000", temperature=0, top_k=5, timeout=Timeouts(idle=60))
VLLM(base_url="http://h:8000", structured_outputs={"choice": ["a"]}, is_chat_model=False, server=VLLMServer())
VLLM(top_k="x")
VLLM(topk=1)
VLLM(structured_outputs={"chioce": ["a"]})
text: str = VLLM.from_server("http://h:8000").complete("a", top_k=1).text
VLLMEmbedding(model_name="m", base_url="http://h:8000", query_instruction="q: ", truncate_prompt_tokens=-1)
VLLMEmbedding(embed_batch_size="x")
VLLMEmbedding(truncate=1)
VLLMRerank(model="m", top_n=2, keep_retrieval_score=True)
VLLMRerank(top_n="x")
"""


def test_misuse_is_a_type_error(tmp_path, pytestconfig):
    source = tmp_path / "use.py"
    source.write_text(USE)
    config = str(pytestconfig.rootpath / "pyproject.toml")
    out, err, _ = api.run(
        ["--config-file", config, "--cache-dir", str(pytestconfig.rootpath / ".mypy_cache"), str(source)]
    )
    lines = USE.splitlines()
    wrong = {int(line.split(":")[1]) for line in out.splitlines() if ": error:" in line and "use.py" in line}
    expected = {
        number
        for number, line in enumerate(lines, 1)
        if any(part in line for part in ('"x"', "topk", "chioce", "truncate=1"))
    }
    assert wrong == expected, out + err
