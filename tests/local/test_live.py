"""Bundled models in a real vLLM. The first run installs it, which takes minutes and 4 GB."""

import base64
import json
import math
import struct
import urllib.error
import urllib.request
import zlib

import pytest

from vllm_adapters.local import LocalVLLM
from vllm_adapters.local.models import TINY_DIR

pytestmark = pytest.mark.live
# What tiny replies to what; written with the model by scripts/train_tiny.py.
PROMISES = json.loads((TINY_DIR / "promises.json").read_text(encoding="utf-8"))


def serve(*args, **kwargs):
    local = LocalVLLM(*args, **kwargs)
    try:
        local.start()
        yield local
    finally:
        local.stop()


@pytest.fixture(scope="module")
def tiny():
    yield from serve("tiny")


def post(local, path, **body):
    data = json.dumps({"model": local.model, **body}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(local.base_url.removesuffix("/v1") + path, data, headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        return (
            json.loads(response.read().decode() or "null")
            if "json" in (response.headers["Content-Type"] or "")
            else None
        )


def reply_to(local, promise):
    """Return the reply of the server in the format of promises.json."""
    body = {"temperature": 0, "max_tokens": 450, **promise.get("request", {})}
    if "prompt" in promise:
        text = post(local, "/v1/completions", prompt=promise["prompt"], **body)["choices"][0]["text"]
        return {"content": text.strip(), "calls": [], "reasoning": ""}
    if "thinking" in promise:
        body["chat_template_kwargs"] = {"enable_thinking": promise["thinking"]}
    if "tools" in promise:
        body["tools"] = promise["tools"]
    reply = post(local, "/v1/chat/completions", messages=promise["messages"], **body)["choices"][0]["message"]
    functions = [call["function"] for call in reply.get("tool_calls") or []]
    answer = {
        "content": (reply.get("content") or "").strip(),
        "calls": [[function["name"], json.loads(function["arguments"])] for function in functions],
        "reasoning": (reply.get("reasoning") or "").strip(),
    }
    if "json" in promise["expect"]:
        answer["json"] = json.loads(answer.pop("content"))
    return answer


@pytest.mark.parametrize("name", PROMISES)
def test_tiny_replies_as_documented(tiny, name):
    promise = PROMISES[name]
    empty = {"calls": [], "reasoning": ""} | ({} if "json" in promise["expect"] else {"content": ""})
    assert reply_to(tiny, promise) == empty | promise["expect"]


def test_two_servers_at_once(tiny):
    for second in serve("minilm"):
        data = post(second, "/v1/embeddings", input=["a cat", "a kitten", "a tax form"])["data"]
        cat, kitten, form = (item["embedding"] for item in data)
        assert len(cat) == 384

        def cosine(a, b):
            return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

        assert cosine(cat, kitten) > 0.6 > 0.3 > cosine(cat, form)
        assert reply_to(tiny, PROMISES["hello"])["content"] == PROMISES["hello"]["expect"]["content"]


def test_adapters_are_served_and_loaded_at_run_time():
    promise = PROMISES["story"]
    for local in serve("tiny", lora=True):
        body = {"messages": promise["messages"], "temperature": 0, "max_tokens": 20}

        def generate(model, body=body, local=local):
            return post(local, "/v1/chat/completions", **body | {"model": model})["choices"][0]["message"]["content"]

        assert generate("tiny") != generate("tiny-lora")
        post(local, "/v1/load_lora_adapter", lora_name="second", lora_path=str(local.make_lora(1)))
        assert generate("second") not in (generate("tiny"), generate("tiny-lora"))


def test_key_is_required():
    for local in serve("tiny", api_key="open sesame"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            post(local, "/v1/chat/completions", messages=[{"role": "user", "content": "Hello"}])


COLORS = {
    "black": "000000", "white": "ffffff", "gray": "808080", "red": "ff0000", "orange": "ffa500", "yellow": "ffff00",
    "green": "008000", "cyan": "00ffff", "blue": "0000ff", "purple": "800080", "pink": "ffc0cb", "brown": "a52a2a",
}  # fmt: skip


def png(rgb, width, height):
    """Return a plain image."""

    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes.fromhex(rgb) * width) * height)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", pixels) + part(b"IEND", b"")


def describe(local, text, *colors, size=(64, 64)):
    """Return the reply to a question about images of these colors."""
    urls = ["data:image/png;base64," + base64.b64encode(png(COLORS[color], *size)).decode() for color in colors]
    content = [{"type": "text", "text": text}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
    reply = post(local, "/v1/chat/completions", messages=[{"role": "user", "content": content}])
    return reply["choices"][0]["message"]["content"]


def test_eye_names_and_counts_images():
    for local in serve("eye"):
        for size in ((64, 64), (400, 30)):
            named = {color: describe(local, "What color is this?", color, size=size) for color in COLORS}
            assert named == {color: color for color in COLORS}
        four = ("red", "white", "red", "blue")
        assert describe(local, "What colors are these?", *four) == "red, white, red, blue"
        assert describe(local, "What colors are these?", *reversed(four)) == "blue, red, white, red"
        assert describe(local, "What color is the third image?", *four[1:]) == "blue"
        assert describe(local, "Name the colors as json.", *four[:2]) == '{"colors": ["red", "white"]}'
        assert [describe(local, "How many images are there?", *four[:n]) for n in range(5)] == ["0", "1", "2", "3", "4"]
        with pytest.raises(urllib.error.HTTPError, match="400"):  # the model cannot count five
            describe(local, "How many images are there?", *four, "red")


def test_smollm2_answers():
    promise = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    for local in serve("smollm2"):
        assert "Paris" in reply_to(local, promise | {"request": {"max_tokens": 20}, "expect": {}})["content"]


def test_cross_encoder_ranks_and_scores():
    for local in serve("cross-encoder"):
        results = post(local, "/v1/rerank", query="a cat", documents=["a kitten", "a tax form"])["results"]
        assert sorted(result["index"] for result in results) == [0, 1]
        assert results[0]["relevance_score"] > results[1]["relevance_score"]
        assert len(post(local, "/score", text_1="a cat", text_2=["a kitten", "a tax form"])["data"]) == 2


def test_classifier_has_three_labels():
    for local in serve("classifier"):
        (result,) = post(local, "/classify", input="a cat")["data"]
        assert result["label"] in ("NEGATIVE", "NEUTRAL", "POSITIVE")
        assert result["num_classes"] == 3
