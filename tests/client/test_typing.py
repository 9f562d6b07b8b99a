"""Wrong types and misspelt arguments are errors for mypy."""

import pytest

api = pytest.importorskip("mypy.api")
pytest.importorskip("langchain_openai")

USE = """
from typing import Literal

from pydantic import BaseModel

from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer
from vllm_adapters.langchain import ChatVLLM

ChatVLLM(top_k=5, base_url="http://h:8000", model="m", timeout=30, chat_template_kwargs={"a": 1})
ChatVLLM(structured_outputs={"choice": ["a"]}, temperature=0.5, stop_token_ids=[1])
ChatVLLM(top_k="x")
ChatVLLM(topk=1)
ChatVLLM(structured_outputs={"chioce": ["a"]})
VLLMClient("http://h:8000", max_retry=1)
scores: list[float] = VLLMServer().score("a", ["b"])
VLLMServer().rerank("a", "b", top_n="x")
VLLMServer().rerank(documents=["b"])


class City(BaseModel):
    name: str


city: City = ChatVLLM().with_structured_output(City).invoke("Rome")
colour: str = ChatVLLM().with_structured_output(["red", "blue"]).invoke("Rome")
either: str = ChatVLLM().with_structured_output(Literal["yes", "no"], max_tokens=5).invoke("Rome")
number: int = ChatVLLM().with_structured_output(City).invoke("x")
ChatVLLM().with_structured_output(City, method="x")
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
        if any(part in line for part in ('"x"', "topk", "chioce", "max_retry", "documents="))
    }
    assert wrong == expected, out + err
