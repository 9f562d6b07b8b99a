"""``validate_model_on_init`` against real servers, in every class of every framework."""

import pytest

from vllm_adapters.errors import ModelNotServed

CLASSES = {
    "tiny": {"langchain": ("ChatVLLM", "VLLM"), "llamaindex": ("VLLM",), "haystack": ("VLLMChatGenerator",)},
    "minilm": {
        "langchain": ("VLLMEmbeddings", "VLLMRerank"),
        "llamaindex": ("VLLMEmbedding", "VLLMRerank"),
        "haystack": ("VLLMTextEmbedder", "VLLMDocumentEmbedder", "VLLMRanker"),
    },
}
MODULES = {"langchain": "langchain_openai", "llamaindex": "llama_index.llms.openai_like", "haystack": "haystack"}


@pytest.mark.parametrize(
    ("framework", "name", "served"),
    [
        pytest.param(framework, name, served, id=f"{framework}-{name}", marks=pytest.mark.vllm(served))
        for served, frameworks in CLASSES.items()
        for framework, names in frameworks.items()
        for name in names
    ],
)
def test_model_of_a_real_server_is_validated(vllm_url, sent, framework, name, served):
    pytest.importorskip(MODULES[framework])
    cls = getattr(pytest.importorskip(f"vllm_adapters.{framework}"), name)
    address = {"api_base_url": vllm_url} if framework == "haystack" else {"base_url": vllm_url}

    def start(**model):
        part = cls(**address, **model, max_retries=0, validate_model_on_init=True)
        if framework == "haystack":  # its components connect in warm_up
            part.warm_up()

    for model in ({}, {"model": served}):
        start(**model)
    with pytest.raises(ModelNotServed, match=rf"`nope` is not served.*It serves: {served}"):
        start(model="nope")
    assert [(request.method, request.path) for request in sent] == [("GET", "/v1/models")] * 3, "one request each"
