"""The cassette format: what is recorded, what is left out, and that it is restored without loss."""

import json
import tempfile
from pathlib import Path

import pytest

from vllm_adapters.testing.cassettes import (
    Interaction,
    Origin,
    Scrubber,
    audit,
    dump,
    load,
    recorded_versions,
    request_key,
)
from vllm_adapters.testing.recorder import differences

ORIGIN = Origin("http://127.0.0.1:8123/v1", "0.32.0", "tiny", {"127.0.0.1:8123": "localhost:8000"})


def interaction(response_body=b'{"a":1}', content_type="application/json", **fields):
    return Interaction(
        **{
            "method": "POST",
            "path": "/v1/chat/completions",
            "request_body": b'{"model":"tiny"}',
            "content_type": "application/json",
            "status": 200,
            "headers": {"content-type": content_type, "server": "uvicorn", "date": "today"},
            "response_body": response_body,
            **fields,
        }
    )


def round_trip(*interactions, origin=ORIGIN):
    return load(dump(interactions, origin))


@pytest.mark.parametrize(
    "value",
    [
        {"text": "yes", "no": "no", "null": "~", "date": "2024-01-01", "number": "007", "e": "1e5"},
        {
            "lines": "a\nb \n\n c\n",
            "tab": "\t",
            "odd": "\u2028\u0085\ud83d\ude00 é \x07",
            "empty": ["", [], {}, None],
        },
        {"floats": [1e-05, 0.1, -0.0, 1.0, 1, 123456789012345678901234567890], "bool": [True, False]},
        {"nan": [float("nan"), float("inf")]},
        {"1": {"logprob": -0.5, "decoded_token": " the"}},
        {"lone": "\ud800"},
        {"arguments": '{"city": "Rome"}', "colon": "a: b", "hash": "# c", "quote": 'it\'s "x"'},
        [{"same": [1]}, {"same": [1]}],
    ],
    ids=["yaml-like-strings", "lines", "numbers", "nan", "keys", "surrogate", "quotes", "aliases"],
)
def test_json_is_restored(value):
    (restored,) = round_trip(interaction(json.dumps(value).encode()))
    assert json.dumps(json.loads(restored.response_body)) == json.dumps(value)


def test_streams_are_restored_byte_by_byte():
    blocks = [
        'data: {"a":"é\u2028","b":[1,2]}',
        ": ping",
        'event: x\ndata: {"c":1}',
        "data: {not json",
        "data: [DONE]",
    ]
    body = "".join(f"{block}\n\n" for block in blocks)
    text = dump([interaction(body.encode(), "text/event-stream; charset=utf-8")], ORIGIN)
    assert load(text)[0].response_body.decode() == body
    assert "- 'data: [DONE]'" in text
    assert "b: [1, 2]" in text


@pytest.mark.parametrize(
    ("answer", "content_type"),
    [
        (b"data: {}\r\n\r\ndata: [DONE]\r\n\r\n", "text/event-stream"),
        (b'data: {"cut', "text/event-stream"),
        (b"<html></html>\n", "text/html"),
        (b'{"cut', "application/json"),
        (b"\xff\x00", "application/octet-stream"),
        (b"", "application/json"),
    ],
    ids=["crlf", "cut stream", "html", "cut json", "binary", "nothing"],
)
def test_other_bodies_are_restored_byte_by_byte(answer, content_type):
    (restored,) = round_trip(interaction(answer, content_type))
    assert restored.response_body == answer
    assert restored.headers == {"content-type": content_type}


def test_only_meaningful_headers_are_recorded_and_no_host():
    text = dump(
        [interaction(headers={"content-type": "application/json", "retry-after": "2", "x-secret": "s"})],
        ORIGIN,
    )
    assert "retry-after: '2'" in text
    assert "x-secret" not in text
    assert "8123" not in text
    assert audit(text) == []


def test_paths_of_this_machine_are_shortened():
    home, temporary = (
        Path.home() / ".cache" / "models" / "tiny",
        Path(tempfile.gettempdir()) / "run-3" / "lora",
    )
    answer = {"root": str(home), "message": f"No adapter found for {temporary}, sorry", "b64": f"Ab{home}"}
    text = dump([interaction(json.dumps(answer).encode())], ORIGIN)
    assert json.loads(load(text)[0].response_body) == {
        "root": "tiny",
        "message": "No adapter found for lora, sorry",
        "b64": f"Ab{home}",  # a slash inside base64 does not start a path
    }


def test_the_vllm_version_is_recorded(tmp_path):
    with_fingerprint = interaction(b'{"system_fingerprint":"vllm-0.28.0-abc"}')
    unknown_version = Origin(ORIGIN.url)
    assert "vllm: 0.28.0" in dump([with_fingerprint], unknown_version)
    with pytest.raises(ValueError, match="Record from a real vLLM"):
        dump([interaction()], unknown_version)
    (tmp_path / "a.yaml").write_text(dump([with_fingerprint], unknown_version))
    (tmp_path / "b.yaml").write_text(dump([interaction()], ORIGIN))
    assert recorded_versions(tmp_path) == {"0.28.0": 1, "0.32.0": 1}


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        ({"x": "Bearer abc"}, "authorization"),
        ({"x": "authorization: y"}, "authorization"),
        ({"x": "X-Stainless-Os"}, "client header"),
        ({"x": "see 127.0.0.1"}, "address"),
        ({"x": "http://localhost:8123"}, "address"),
        ({"x": "sk-" + "a" * 20}, "key"),
        ({"x": "canary"}, "a secret"),
        ({"system_fingerprint": "vllm-0.28.0-abc"}, "fingerprint"),
    ],
)
def test_audit_reports_problems(response, problem):
    text = dump([interaction(json.dumps(response).encode())], Origin("http://localhost:8000/v1", "0.32.0"))
    assert any(problem in found for found in audit(text, ["canary"]))
    assert "missing version" in audit("interactions: []")[0]


def test_differences_name_the_path_of_each_value():
    recorded = {"a": 1, "b": [{"c": 1}, 2], "d": True, "gone": "x"}
    sent = {"a": 1.0, "b": [{"c": 2}, 2], "d": 1, "new": None}
    assert differences(recorded, sent) == [
        "body.a: recorded 1, sent 1.0",
        "body.b[0].c: recorded 1, sent 2",
        "body.d: recorded true, sent 1",
        'body.gone: recorded "x", not sent',
        "body.new: not recorded, sent null",
    ]
    assert differences([1], [1, 2]) == ["body: recorded [1], sent [1, 2]"]


def test_secrets_are_not_recorded():
    request = {
        "cache_salt": "canary",
        "tools": [
            {"type": "mcp", "server_url": "https://m", "headers": {"X-A": "canary"}, "authorization": "canary"},
            {"type": "function", "parameters": {"properties": {"password": {"type": "string"}, "headers": {}}}},
        ],
        "image": "https://b.example/a.png?size=2&X-Amz-Signature=canary&b=1",
        "proxy": "see http://user:canary@proxy:80/x, token=fine",
    }
    text = dump(
        [
            interaction(
                path="/v1/x?limit=5&key=canary&q=canary&order=asc&stream=true&api-version=2024-10-21",
                request_body=json.dumps(request).encode(),
            )
        ],
        ORIGIN,
    )
    assert "canary" not in text
    (restored,) = load(text)
    assert restored.path == ("/v1/x?limit=5&key=<redacted>&q=<redacted>&order=asc&stream=true&api-version=2024-10-21")
    sent = json.loads(restored.request_body)
    assert sent["tools"][1] == request["tools"][1]
    assert sent["image"] == "https://b.example/a.png?size=2&X-Amz-Signature=<redacted>&b=1"
    assert sent["proxy"] == "see http://<redacted>@proxy:80/x, token=fine"
    scrubber = Scrubber()
    keys = {request_key("POST", f"/v1/x?key={key}&n={n}", b"", "", scrubber) for key in "ab" for n in "12"}
    assert len(keys) == 2, "another key has the same response, another number has not"
