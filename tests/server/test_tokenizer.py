"""Token counts are exact, cached, and local where the model's own file is given."""

import copy
import pickle
from pathlib import Path

import pytest

import vllm_adapters.local
from vllm_adapters import VLLMClient, VLLMServer, VLLMTokenizer
from vllm_adapters.errors import InvalidRequest

MODELS = Path(vllm_adapters.local.__file__).parent / "models"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.mark.vllm("tiny")
def test_counts_equal_usage(vllm_url):
    tokenizer = VLLMTokenizer(VLLMServer(vllm_url))
    client = VLLMClient(vllm_url)
    chat = client.chat.completions.create(model="tiny", messages=HELLO, tools=[TOOL], max_tokens=1)
    assert tokenizer.count_messages(HELLO, [TOOL]) == chat.usage.prompt_tokens
    text = client.completions.create(model="tiny", prompt="Ein Fluß 🙂", max_tokens=1)
    assert tokenizer.count("Ein Fluß 🙂") == text.usage.prompt_tokens


@pytest.mark.vllm("tiny")
def test_part_without_a_user_message_counts_what_it_adds(vllm_url, sent):
    tokenizer = VLLMTokenizer(VLLMServer(vllm_url))
    before, after = [{"role": "system", "content": "Be brief."}], [{"role": "assistant", "content": "Hello!"}]
    whole = tokenizer.count_messages([*before, *HELLO, *after])
    assert sum(map(tokenizer.count_messages, (before, HELLO, after))) == whole
    for body in sent.bodies("/tokenize"):  # chat templates of many models reject anything else
        assert "user" in [message["role"] for message in body["messages"]]


@pytest.mark.vllm("tiny")
def test_each_text_is_sent_once(vllm_url, sent):
    tokenizer = VLLMTokenizer(VLLMServer(vllm_url), add_special_tokens=False)
    ids = tokenizer("Hello")
    ids.append(0)
    assert tokenizer.encode("Hello") == ids[:-1], "the caller cannot change the cache"
    assert tokenizer.count("Hello") == len(ids) - 1
    assert sent.bodies("/tokenize") == [{"model": "tiny", "prompt": "Hello", "add_special_tokens": False}]
    assert tokenizer.count_messages(HELLO) == tokenizer.count_messages(HELLO) > 1
    assert len(sent.bodies("/tokenize")) == 2


@pytest.mark.vllm("tiny")
def test_tokenizer_file_counts_locally_after_one_request(vllm_url, sent):
    remote = VLLMTokenizer(VLLMServer(vllm_url))
    local = VLLMTokenizer(VLLMServer(vllm_url), tokenizer=MODELS / "tiny")
    texts = ["Hello", " two  spaces", "Ελλάδα", "🙂🏽", "a\nb", "<|im_start|>user"]
    counts = [remote.count(text) for text in texts]
    before = len(sent.bodies("/tokenize"))
    assert [local.count(text) for text in texts] == counts
    assert len(sent.bodies("/tokenize")) == before + 1, "one comparison with the server"


@pytest.mark.vllm("tiny")
def test_tokenizer_of_another_model_raises(vllm_url, tmp_path):
    other = (MODELS / "tiny" / "tokenizer.json").read_text(encoding="utf-8").replace('"▁', '"x', 1).replace('"Ġ', '"x')
    (tmp_path / "tokenizer.json").write_text(other, encoding="utf-8")
    tokenizer = VLLMTokenizer(VLLMServer(vllm_url), tokenizer=tmp_path)
    with pytest.raises(InvalidRequest, match=r"does not match the served model.*remove tokenizer="):
        tokenizer.count("Hello")


def test_copies_and_pickles_work(fault_server):
    tokenizer = VLLMTokenizer(VLLMServer(fault_server.url, model="stub"), cache_size=7)
    count = tokenizer.count("a b")
    for copied in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert (copied.count("a b"), copied.cache_size) == (count, 7)
