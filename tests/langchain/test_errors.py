"""Errors are LangChain's own as well, in every class. The fault matrix has each failure of each method."""

import asyncio
import pickle

import langchain_core.exceptions as lc
import pytest
from langchain_core.documents import Document

from vllm_adapters import errors as e
from vllm_adapters.langchain import VLLM, VLLMEmbeddings, VLLMRerank, errors
from vllm_adapters.testing import faults

OVERFLOW = faults.error(400, "This model's maximum context length is 10 tokens.", param="input_tokens")
DOCUMENTS = [Document(text) for text in ("one", "two")]


@pytest.mark.parametrize("way", ["invoke", "astream"])
@pytest.mark.parametrize(
    ("behaviour", "ours", "theirs"),
    [
        (faults.error(401, "Unauthorized", shape="string"), e.AuthenticationFailed, lc.ModelAuthenticationError),
        (faults.error(403, "no"), e.PermissionDenied, lc.ModelPermissionDeniedError),
        (faults.error(404, "Not Found", shape="detail"), e.WrongAddress, lc.ModelNotFoundError),
        (faults.error(404, "`m` does not exist.", param="model"), e.ModelNotServed, lc.ModelNotFoundError),
        (faults.error(400, "bad", param="x"), e.InvalidRequest, lc.ModelInvalidRequestError),
        (OVERFLOW, e.ContextLengthExceeded, lc.ContextOverflowError),
        (faults.error(429), e.RateLimited, lc.ModelRateLimitError),
        (faults.error(500), e.ServerFailed, lc.ModelAPIError),
        (faults.loading(), e.ServerNotReady, lc.ModelAPIError),
        (faults.hang_up(), e.ServerUnreachable, lc.ModelConnectionError),
        (faults.html(), e.InvalidResponse, lc.ModelAPIError),
    ],
    ids=lambda part: part.__name__ if isinstance(part, type) else "",
)
def test_errors_are_langchains_own(faulty_llm, fault_server, call, way, behaviour, ours, theirs):
    fault_server.reply(behaviour)
    with pytest.raises(ours) as caught:
        call(way, faulty_llm)
    assert isinstance(caught.value, theirs)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


# Stock: bare openai errors from completions and embeddings.
@pytest.mark.parametrize(
    "call",
    [
        lambda **options: VLLM(**options).invoke("one"),
        lambda **options: asyncio.run(VLLM(**options).ainvoke("one")),
        lambda **options: list(VLLM(**options).stream("one")),
        lambda **options: VLLMEmbeddings(**options).embed_documents(["one", "two"]),
        lambda **options: asyncio.run(VLLMEmbeddings(**options).aembed_query("one")),
        lambda **options: VLLMRerank(**options).compress_documents(DOCUMENTS, "two"),
        lambda **options: asyncio.run(VLLMRerank(**options).acompress_documents(DOCUMENTS, "two")),
    ],
    ids=["invoke", "ainvoke", "stream", "embed_documents", "aembed_query", "rerank", "arerank"],
)
def test_errors_of_other_classes_are_langchains_own(fault_server, call):
    fault_server.reply(OVERFLOW)
    with pytest.raises(lc.ContextOverflowError) as caught:
        call(base_url=fault_server.url, model="stub", max_retries=0)
    assert isinstance(caught.value, errors.ContextLengthExceeded)


@pytest.mark.parametrize("way", ["invoke", "astream"])
def test_ignored_constraint_raises(faulty_llm, fault_server, call, way):
    fault_server.reply(faults.chat("Sure!"))
    with pytest.raises(e.ConstraintNotEnforced):
        call(way, faulty_llm, structured_outputs={"choice": ["yes", "no"]})


def test_every_class_is_both():
    """A class of ``vllm_adapters.errors`` that LangChain has no class for is listed here."""
    only_ours = {"LocalVLLMError", "VLLMError"}
    assert set(errors.__all__) == set(e.__all__) - only_ours
    for ours, both in errors._CLASSES.items():
        assert both.__name__ == ours.__name__
        assert issubclass(both, ours)
        assert issubclass(both, lc.LangChainException)
    assert {cls.__name__ for cls in errors._CLASSES} == set(errors.__all__)
