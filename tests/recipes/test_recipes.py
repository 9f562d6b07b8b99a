"""Every recipe runs as it stands, sends what it is about, and is short."""

from __future__ import annotations

import ast
import base64
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from vllm_adapters.testing import faults, payloads
from vllm_adapters.testing.cassettes import audit

RECIPES = Path(__file__).parent.parent.parent / "recipes"
CHAT = "/v1/chat/completions"
EMBED, RERANK = "/minilm/v1/embeddings", "/minilm/v1/rerank"
FRAMEWORKS = {"langchain": "langchain_openai", "llamaindex": "llama_index.core", "haystack": "haystack"}


# The client


@pytest.mark.vllm("tiny")
def test_chat_with_the_client(cook, printed, sent):
    printed("chat_with_the_client", cook("chat_with_the_client"))
    assert [(body["top_k"], len(body["messages"])) for body in sent.bodies(CHAT)] == [(20, 1), (20, 3)]


@pytest.mark.vllm("tiny")
def test_a_recipe_takes_a_model_from_the_environment(cook, sent):
    cook("chat_with_the_client", VLLM_MODEL="tiny")
    assert {body["model"] for body in sent.bodies(CHAT)} == {"tiny"}
    assert not sent.to("/v1/models")  # nobody had to ask


def test_chat_with_the_client_ends_in_one_line_if_there_is_no_server(cook):
    with pytest.raises(SystemExit, match=r"^ServerUnreachable: No answer"):
        cook("chat_with_the_client", VLLM_BASE_URL="http://127.0.0.1:9")


@pytest.mark.vllm("tiny")
def test_stream_reasoning_with_the_client(cook, printed, sent):
    printed("stream_reasoning_with_the_client", cook("stream_reasoning_with_the_client"))
    body = sent.last.json
    assert (body["stream"], body["chat_template_kwargs"]) == (True, {"enable_thinking": True})


def test_stream_reasoning_with_the_client_tells_that_a_stream_broke_off(cook, fault_server):
    fault_server.reply(faults.truncate(faults.chat("one two three four"), after=300))
    lines = cook("stream_reasoning_with_the_client", VLLM_BASE_URL=fault_server.url)
    assert lines[-1].startswith("broken off: ")


@pytest.mark.vllm("tiny")
def test_constrain_a_reply(cook, printed, sent):
    printed("constrain_a_reply", cook("constrain_a_reply"))
    asked = [list(body["structured_outputs"]) for body in sent.bodies(CHAT)]
    assert asked == [["choice"], ["regex"], ["grammar"], ["json"]]


@pytest.mark.vllm("tiny")
def test_move_between_openai_and_vllm(cook, printed, sent, vllm_url):
    printed("move_between_openai_and_vllm", cook("move_between_openai_and_vllm"))
    assert sent.last.json["top_k"] == 1
    hosted = {"HOSTED_BASE_URL": vllm_url, "HOSTED_API_KEY": "key-of-another-host", "HOSTED_MODEL": "tiny"}
    assert cook("move_between_openai_and_vllm", **hosted) == ["OpenAI says: Hello! I am a tiny test model."]
    assert sent.last.json == {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    with pytest.raises(ValueError, match="only vLLM knows top_k"):
        cook("move_between_openai_and_vllm", WITHOUT_VLLM="refuse")


@pytest.mark.vllm("tiny")
def test_limit_the_time_of_long_requests(cook, printed, sent):
    lines = cook("limit_the_time_of_long_requests")
    printed("limit_the_time_of_long_requests", lines)
    assert lines[1] == f"whole: {len(lines[0])} characters"
    assert sent.last.json["stream"] is True


def test_limit_the_time_of_long_requests_keeps_what_had_come(cook, fault_server):
    fault_server.reply(faults.sse(*payloads.chat_chunks("one two", finish_reason=None), end="hang"))
    lines = cook("limit_the_time_of_long_requests", VLLM_BASE_URL=fault_server.url, TIME_LIMIT="2")
    assert lines[0] == "one two"
    assert lines[-1].startswith("out of time: The call was not over within the total limit of 2 s")


@pytest.mark.vllm("tiny")
def test_ask_in_batch_and_resume(cook, sent, tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"id": "capital-Japan", "answer": "Tokyo."}\n{"id": "capital-Fra', encoding="utf-8")
    assert cook("ask_in_batch_and_resume", file) == [f"1 answered before, 4 now, 0 left, in {file}"]
    answers = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[2:]]
    assert {"id": "capital-Italy", "answer": "The capital of Italy is Rome."} in answers
    assert len(sent.to(CHAT)) == 4
    assert cook("ask_in_batch_and_resume", file) == [f"5 answered before, 0 now, 0 left, in {file}"]
    assert len(sent.to(CHAT)) == 4


def test_ask_in_batch_and_resume_leaves_failures_for_the_next_run(cook, fault_server, tmp_path):
    file = tmp_path / "answers.jsonl"
    fault_server.script(CHAT, [faults.error(400, "no")])
    lines = cook("ask_in_batch_and_resume", file, VLLM_BASE_URL=fault_server.url, AT_ONCE="1")
    assert lines == [f"0 answered before, 4 now, 1 left, in {file}"]
    lines = cook("ask_in_batch_and_resume", file, VLLM_BASE_URL=fault_server.url)
    assert lines == [f"4 answered before, 1 now, 0 left, in {file}"]


@pytest.mark.vllm("tiny")
def test_keep_within_the_context(cook, sent):
    lines = cook("keep_within_the_context", CONTEXT="110")
    assert [line.partition("[")[2] for line in lines] == [
        "20 of 110 tokens, 0 messages left out]",
        "46 of 110 tokens, 0 messages left out]",
        "42 of 110 tokens, 2 messages left out]",
    ]
    said = [message["content"] for message in sent.bodies(CHAT)[-1]["messages"]]
    assert said == ["Be brief.", "What is my name?", "Your name is Ada.", "Count to three"]


@pytest.mark.vllm("tiny")
def test_reuse_the_prefix_cache(cook, printed, sent):
    printed("reuse_the_prefix_cache", cook("reuse_the_prefix_cache"))
    assert [body["cache_salt"] for body in sent.bodies(CHAT)] == ["tenant-a"] * 2 + ["tenant-b"] * 2


# The frameworks, each with the same jobs


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny")
def test_chat_with_reasoning(cook, printed, sent, framework):
    recipe = f"chat_with_reasoning_in_{framework}"
    printed(recipe, cook(recipe))
    assert [body["chat_template_kwargs"] for body in sent.bodies(CHAT)] == [{"enable_thinking": True}] * 2
    assert [bool(body.get("stream")) for body in sent.bodies(CHAT)] == [False, True]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny", "minilm")
def test_answer_from_documents(cook, printed, sent, vllm_urls, framework):
    recipe = f"answer_from_documents_in_{framework}"
    printed(recipe, cook(recipe, VLLM_EMBED_BASE_URL=vllm_urls["minilm"]))
    embedded = [text for body in sent.bodies(EMBED) for text in body["input"]]
    assert len(embedded) == 5  # as texts: four facts and the question
    assert "The price of Leo is 480." in embedded
    assert sent.bodies(RERANK)[0]["query"] == "What is the price of Leo?"
    assert len(sent.bodies(RERANK)[0]["documents"]) == 3
    assert "The owner of Leo is Maria." in sent.bodies(CHAT)[0]["messages"][-1]["content"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny")
def test_run_an_agent(cook, printed, sent, framework):
    if framework == "langchain":
        pytest.importorskip("langchain.agents")
    recipe = f"run_an_agent_in_{framework}"
    printed(recipe, cook(recipe))
    asked, told = sent.bodies(CHAT)
    assert asked["tools"][0]["function"]["name"] == "get_weather"
    assert [message["role"] for message in told["messages"]][-3:] == ["user", "assistant", "tool"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny")
def test_extract_objects(cook, printed, sent, framework):
    recipe = f"extract_objects_in_{framework}"
    printed(recipe, cook(recipe))
    for body in sent.bodies(CHAT):
        assert set(body["response_format"]["json_schema"]["schema"]["properties"]) == {"name", "age", "city"}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("eye")
def test_ask_about_an_image(cook, printed, sent, pictures, tmp_path, framework):
    recipe = f"ask_about_an_image_in_{framework}"
    printed(recipe, cook(recipe))
    text, drawn = sent.last.json["messages"][0]["content"]
    assert text == {"type": "text", "text": "What color is this?"}
    assert drawn["image_url"] == {"url": f"data:image/png;base64,{pictures['red']}"}
    files = [tmp_path / "blue.png", tmp_path / "green.png"]
    for file in files:
        file.write_bytes(base64.b64decode(pictures[file.stem]))
    assert cook(recipe, *files) == ["blue, green"]
    assert len(sent.to(CHAT)) == 2


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny")
def test_keep_within_the_context_in(cook, sent, framework):
    recipe = f"keep_within_the_context_in_{framework}"
    lines = cook(recipe, CONTEXT="110")
    assert [line.partition("[")[2] for line in lines] == [
        "20 of 110 tokens, 0 messages left out]",
        "46 of 110 tokens, 0 messages left out]",
        "42 of 110 tokens, 2 messages left out]",
    ]
    said = [message["content"] for message in sent.bodies(CHAT)[-1]["messages"]]
    assert said == ["Be brief.", "What is my name?", "Your name is Ada.", "Count to three"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny", lora=True)
def test_serve_tenants(cook, printed, sent, framework):
    recipe = f"serve_tenants_in_{framework}"
    printed(recipe, cook(recipe))
    assert [(body["model"], body["cache_salt"]) for body in sent.bodies(CHAT)] == [
        *[("tiny", "secret-of-tiny")] * 2,
        *[("tiny-lora", "secret-of-tiny-lora")] * 2,
    ]


# Across


@pytest.mark.vllm("tiny")
def test_develop_here_run_there(cook, printed, sent):
    pytest.importorskip("langchain_openai")
    printed("develop_here_run_there", cook("develop_here_run_there"))
    assert len(sent.to(CHAT)) == 1


def without(body, *names):
    return {name: value for name, value in body.items() if name not in names}


def asked_for_the_same(sent):
    before, after = (without(body, "stream", "stream_options", "n") for body in sent.bodies(CHAT))
    assert (before["top_k"], before["chat_template_kwargs"]) == (20, {"enable_thinking": True})
    return before == after


@pytest.mark.vllm("tiny")
def test_move_from_chatopenai(cook, printed, sent):
    pytest.importorskip("langchain_openai")
    printed("move_from_chatopenai", cook("move_from_chatopenai"))
    assert asked_for_the_same(sent)


@pytest.mark.vllm("tiny")
def test_move_from_openailike(cook, printed, sent):
    pytest.importorskip("llama_index.core")
    printed("move_from_openailike", cook("move_from_openailike"))
    assert asked_for_the_same(sent)


@pytest.mark.vllm("tiny")
def test_move_from_openaichatgenerator(cook, printed, sent):
    pytest.importorskip("haystack")
    printed("move_from_openaichatgenerator", cook("move_from_openaichatgenerator"))
    assert asked_for_the_same(sent)


# Folders


def test_testing(tmp_path, request):
    pytest.importorskip("langchain_openai")
    copied = tmp_path / "testing"
    shutil.copytree(RECIPES / "testing", copied, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    how = [flag for flag in ("live", "record") if request.config.getoption(f"vllm_{flag}")]
    command = [sys.executable, "-m", "pytest", "-p", "vllm_adapters._pytest", *(f"--{flag}" for flag in how)]
    done = subprocess.run(command, cwd=copied, capture_output=True, text=True, timeout=600)
    assert " 3 passed" in done.stdout, done.stdout + done.stderr
    for cassette in copied.glob("cassettes/*/*.yaml"):
        assert audit(cassette.read_text(encoding="utf-8")) == []
    if "record" in how:
        shutil.copytree(copied / "cassettes", RECIPES / "testing" / "cassettes", dirs_exist_ok=True)


def test_serve():
    compose = yaml.safe_load((RECIPES / "serve" / "compose.yaml").read_text(encoding="utf-8"))
    cluster = list(yaml.safe_load_all((RECIPES / "serve" / "kubernetes.yaml").read_text(encoding="utf-8")))
    [container] = next(part for part in cluster if part["kind"] == "Deployment")["spec"]["template"]["spec"][
        "containers"
    ]
    chat = compose["services"]["chat"]
    assert (container["image"], container["args"]) == (chat["image"], chat["command"])
    # What the recipes' headers ask for is there; LoRA needs an adapter of your own.
    wanted = {flag for path in RECIPES.glob("*.py") for flag in flags(path.read_text(encoding="utf-8"))}
    assert wanted - set(flags(" ".join(chat["command"]))) == {"--enable-lora", "--lora-modules"}


def flags(text):
    lines = [line for line in text.splitlines() if line.startswith("Server: ")] or [text]
    return [flag for line in lines for flag in re.findall(r"--[a-z-]+", line.partition("(or:")[0])]


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.py")), ids=lambda path: path.stem)
def test_is_short_and_says_what_it_needs(recipe):
    text = recipe.read_text(encoding="utf-8")
    header = re.match(r"# /// script\n((?:# .*\n)+)# ///\n", text)
    assert header, "no script header"
    needs = tomllib.loads(re.sub(r"^# ", "", header[1], flags=re.M))["dependencies"]
    assert needs[0].startswith("vllm-adapters")
    about = ast.get_docstring(ast.parse(text)) or ""
    said = " ".join(f"'{need}'" if "[" in need or ">" in need else need for need in needs)
    assert f"Needs:  pip install {said}\n" in about, "pip users are told something else than uv"
    assert "Server: vllm serve" in about
    for here in re.findall(r"vllm-adapters serve[^,)]*", about):
        assert f"=http://localhost:{here.rpartition('--port ')[2]}" in about, "it would be served elsewhere"
    assert f"python {recipe.name}" in about.replace("\\\n", " ")
    assert len(text.splitlines()) <= 64
    job, _, framework = recipe.stem.partition("_in_")
    cooked = f'cook("{recipe.stem}"', f'f"{job}_in_{{framework}}"'
    tests = Path(__file__).read_text(encoding="utf-8")
    assert any(call in tests for call in cooked[: 2 if framework in FRAMEWORKS else 1]), "no test runs this recipe"
