"""Every recipe runs, prints what it should, sends what it demonstrates, and is short."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import openai
import pytest
import yaml
from processes import descendants, title, wait_until_ended
from version_marks import (
    cached_tokens_are_sent,
    not_enforced_before,
    reasoning_is_parsed,
    streamed_call_is_parsed,
    vllm_since,
)

from vllm_adapters._compat import http
from vllm_adapters.testing import faults, payloads
from vllm_adapters.testing.cassettes import audit

RECIPES = Path(__file__).parent.parent.parent / "recipes"
CHAT = "/v1/chat/completions"
EMBED, RERANK = "/minilm/v1/embeddings", "/minilm/v1/rerank"
FRAMEWORKS = ("langchain", "llamaindex", "haystack")


# The client


@pytest.mark.recipe("chat_with_the_client")
@pytest.mark.vllm("tiny")
def test_chat_with_the_client(run_recipe, check_output, sent):
    check_output(run_recipe())
    assert [(body["top_k"], len(body["messages"])) for body in sent.bodies(CHAT)] == [(20, 1), (20, 3)]


@pytest.mark.recipe("chat_with_the_client")
@pytest.mark.vllm("tiny")
def test_the_model_is_read_from_the_environment(run_recipe, sent):
    run_recipe(VLLM_MODEL="tiny")
    assert {body["model"] for body in sent.bodies(CHAT)} == {"tiny"}
    assert not sent.to("/v1/models")  # no discovery


@pytest.mark.recipe("chat_with_the_client")
def test_chat_with_the_client_reports_an_unreachable_server_in_one_line(run_recipe):
    with pytest.raises(SystemExit, match=r"^ServerUnreachable: The server did not respond"):
        run_recipe(VLLM_BASE_URL="http://127.0.0.1:9")


@pytest.mark.recipe("stream_reasoning_with_the_client")
@pytest.mark.vllm("tiny")
@reasoning_is_parsed
def test_stream_reasoning_with_the_client(run_recipe, check_output, sent):
    check_output(run_recipe())
    body = sent.last.json
    assert (body["stream"], body["chat_template_kwargs"]) == (True, {"enable_thinking": True})


@pytest.mark.recipe("stream_reasoning_with_the_client")
def test_stream_reasoning_with_the_client_reports_a_truncated_stream(run_recipe, fault_server):
    fault_server.reply(faults.truncate(faults.chat("one two three four"), after=300))
    lines = run_recipe(VLLM_BASE_URL=fault_server.url)
    assert lines[-1].startswith("incomplete: ")


@pytest.mark.recipe("constrain_a_reply")
@pytest.mark.vllm("tiny")
@not_enforced_before("0.30", match="not enforced: The reply violates")
def test_constrain_a_reply(run_recipe, check_output, sent):
    check_output(run_recipe())
    constraints = [list(body["structured_outputs"]) for body in sent.bodies(CHAT)]
    assert constraints == [["choice"], ["regex"], ["grammar"], ["json"]]


@pytest.mark.recipe("move_between_openai_and_vllm")
@pytest.mark.vllm("tiny")
def test_move_between_openai_and_vllm(run_recipe, check_output, sent, vllm_url):
    check_output(run_recipe())
    assert sent.last.json["top_k"] == 1
    hosted = {"HOSTED_BASE_URL": vllm_url, "HOSTED_API_KEY": "key-of-another-host", "HOSTED_MODEL": "tiny"}
    assert run_recipe(**hosted) == ["OpenAI says: Hello! I am a tiny test model."]
    assert sent.last.json == {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    with pytest.raises(ValueError, match="Only vLLM supports top_k"):
        run_recipe(WITHOUT_VLLM="refuse")


@pytest.mark.recipe("limit_the_time_of_long_requests")
@pytest.mark.vllm("tiny")
def test_limit_the_time_of_long_requests(run_recipe, check_output, sent):
    lines = run_recipe()
    check_output(lines)
    assert lines[1] == f"complete: {len(lines[0])} characters"
    assert sent.last.json["stream"] is True


@pytest.mark.recipe("limit_the_time_of_long_requests")
def test_limit_the_time_of_long_requests_keeps_the_text_so_far(run_recipe, fault_server):
    fault_server.reply(faults.sse(*payloads.chat_chunks("one two", finish_reason=None), end="hang"))
    lines = run_recipe(VLLM_BASE_URL=fault_server.url, TIME_LIMIT="2")
    assert lines[0] == "one two"
    assert lines[-1].startswith("timeout: The call did not end within the total limit of 2 s")


@pytest.mark.recipe("ask_in_batch_and_resume")
@pytest.mark.vllm("tiny")
def test_ask_in_batch_and_resume(run_recipe, sent, tmp_path):
    file = tmp_path / "answers.jsonl"
    assert run_recipe(file, AT_ONCE="1") == [f"0 answered before, 5 now, 0 failed, in {file}"]
    assert "The capital of Italy is Rome." in file.read_text(encoding="utf-8")
    assert len(sent.to(CHAT)) == 5
    assert run_recipe(file, AT_ONCE="1") == [f"5 answered before, 0 now, 0 failed, in {file}"]
    assert len(sent.to(CHAT)) == 5


@pytest.mark.recipe("ask_in_batch_and_resume")
def test_ask_in_batch_and_resume_goes_on_after_a_kill(run_recipe, fault_server, tmp_path):
    file = tmp_path / "answers.jsonl"
    run_recipe(file, VLLM_BASE_URL=fault_server.url)
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])  # in the middle of the last line
    lines = run_recipe(file, VLLM_BASE_URL=fault_server.url)
    assert lines == [f"4 answered before, 1 now, 0 failed, in {file}"]
    assert len(fault_server.posts(CHAT)) == 6


@pytest.mark.recipe("ask_in_batch_and_resume")
def test_ask_in_batch_and_resume_keeps_what_the_server_refuses(run_recipe, fault_server, tmp_path):
    file = tmp_path / "answers.jsonl"
    fault_server.script(CHAT, [faults.error(400, "no"), *[faults.chat()] * 4])
    lines = run_recipe(file, VLLM_BASE_URL=fault_server.url)
    assert lines == [f"0 answered before, 4 now, 1 failed, in {file}"]


@pytest.fixture
def start_with_ray(recipe):
    """A function that starts the recipe in a process of its own, as Ray's are; skips the test without Ray."""
    pytest.importorskip("ray.data")

    def start(folder, **environ):
        own = {**os.environ, **environ}
        return subprocess.Popen(
            [sys.executable, recipe, folder], env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


def printed_by(job):
    out, err = job.communicate(timeout=600)
    assert job.returncode == 0, err
    return out.splitlines()


def answers_in(folder):
    """The results in the recipe's files, by part and index."""
    found = {}
    for file in sorted(folder.glob("part-*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines()[1:]:
            result = json.loads(line)
            key = (int(file.stem.removeprefix("part-")), result["index"])
            assert key not in found, "an answer is there twice"
            found[key] = result["reply"]["choices"][0]["message"]["content"]
    return found


@pytest.mark.recipe("answer_many_with_ray")
@pytest.mark.vllm("tiny", recorded=False)
def test_answer_many_with_ray(start_with_ray, check_output, tmp_path, vllm_url):
    check_output(printed_by(start_with_ray(tmp_path, VLLM_BASE_URL=vllm_url)))
    assert sorted(answers_in(tmp_path)) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]


@pytest.mark.recipe("answer_many_with_ray")
def test_answer_many_with_ray_goes_on_after_a_kill(start_with_ray, fault_server, tmp_path):
    fault_server.delay = 0.5
    settings = {"VLLM_BASE_URL": f"http://127.0.0.1:9 {fault_server.url}", "VLLM_MODEL": "m"}
    settings |= {"ITEMS": "100", "PART": "10"}
    job = start_with_ray(tmp_path, **settings)
    assert fault_server.wait_for(lambda: len(answers_in(tmp_path)) >= 10, timeout=300)
    workers = [pid for pid in descendants(job.pid) if title(pid).startswith("ray::MapWorker")]
    job.kill()
    assert job.wait() == -signal.SIGKILL
    wait_until_ended(workers)
    fault_server.delay = 0
    *_, last = printed_by(start_with_ray(tmp_path, **settings))
    before, now, failed = map(int, re.fullmatch(r"(\d+) answered before, (\d+) now, (\d+) failed", last).groups())
    assert (before >= 10, before + now, failed) == (True, 100, 0)
    answers = answers_in(tmp_path)
    assert [answers[part, index] for part in range(10) for index in range(10)] == [
        f"What is {number} plus one?" for number in range(100)
    ]
    assert len(fault_server.posts(CHAT)) <= 100 + 2 * 10  # two workers had a part each


@pytest.mark.recipe("keep_within_the_context")
@pytest.mark.vllm("tiny")
def test_keep_within_the_context(run_recipe, same_as_shown, sent):
    lines = run_recipe(CONTEXT="110")
    assert [line.partition("[")[2] for line in lines] == [
        "20 of 110 tokens, 0 messages left out]",
        "46 of 110 tokens, 0 messages left out]",
        "42 of 110 tokens, 2 messages left out]",
    ]
    same_as_shown(lines)
    contents = [message["content"] for message in sent.bodies(CHAT)[-1]["messages"]]
    assert contents == ["Be brief.", "What is my name?", "Your name is Ada.", "Count to three"]


@pytest.mark.recipe("reuse_the_prefix_cache")
@pytest.mark.vllm("tiny")
@cached_tokens_are_sent
def test_reuse_the_prefix_cache(run_recipe, check_output, sent):
    check_output(run_recipe())
    assert [body["cache_salt"] for body in sent.bodies(CHAT)] == ["tenant-a"] * 2 + ["tenant-b"] * 2


# The frameworks


@pytest.mark.recipe("chat_with_reasoning_in_{framework}")
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny")
@reasoning_is_parsed
def test_chat_with_reasoning(run_recipe, check_output, sent, framework):
    check_output(run_recipe())
    assert [body["chat_template_kwargs"] for body in sent.bodies(CHAT)] == [{"enable_thinking": True}] * 2
    assert [bool(body.get("stream")) for body in sent.bodies(CHAT)] == [False, True]


@pytest.mark.recipe("answer_from_documents_in_{framework}")
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny", "minilm")
def test_answer_from_documents(run_recipe, check_output, sent, vllm_urls, framework):
    check_output(run_recipe(VLLM_EMBED_BASE_URL=vllm_urls["minilm"]))
    embedded = [text for body in sent.bodies(EMBED) for text in body["input"]]
    assert len(embedded) == 5  # as texts: four facts and the question
    assert "The price of Leo is 480." in embedded
    assert sent.bodies(RERANK)[0]["query"] == "What is the price of Leo?"
    assert len(sent.bodies(RERANK)[0]["documents"]) == 3
    assert "The owner of Leo is Maria." in sent.bodies(CHAT)[0]["messages"][-1]["content"]


@pytest.mark.recipe("run_an_agent_in_{framework}")
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny")
@streamed_call_is_parsed.with_args(only="llamaindex")
def test_run_an_agent(run_recipe, check_output, sent, framework):
    check_output(run_recipe())
    first, second = sent.bodies(CHAT)
    assert first["tools"][0]["function"]["name"] == "get_weather"
    assert [message["role"] for message in second["messages"]][-3:] == ["user", "assistant", "tool"]


@pytest.mark.recipe("use_mcp_tools_in_{framework}")
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny")
@streamed_call_is_parsed.with_args(only="llamaindex")
def test_use_mcp_tools(run_recipe, check_output, sent, framework):
    check_output(run_recipe())
    first, second = sent.bodies(CHAT)
    (tool,) = first["tools"]
    assert tool["function"]["name"] == "get_weather"
    assert tool["function"]["strict"] is True
    assert [message["role"] for message in second["messages"]][-3:] == ["user", "assistant", "tool"]


@pytest.fixture
def run_with_hayhooks(run_recipe, unused_tcp_port):
    """A function that runs the recipe, whose server is a process of its own, on a free port."""
    return partial(run_recipe, HAYHOOKS_PORT=str(unused_tcp_port))


@pytest.mark.recipe("serve_a_pipeline_in_haystack")
@pytest.mark.vllm("tiny", recorded=False)  # a recording has no requests to another server
def test_serve_a_pipeline(run_with_hayhooks, check_output):
    check_output(run_with_hayhooks())


@pytest.mark.recipe("serve_a_pipeline_in_haystack")
@pytest.mark.vllm("tiny")
async def test_serve_a_pipeline_that_streams(recipe, sent):
    pytest.importorskip("hayhooks")
    wrapper = runpy.run_path(str(recipe))["PipelineWrapper"]()
    wrapper.setup()
    question = {"role": "user", "content": "What is the capital of France?"}
    chunks = await wrapper.run_chat_completion_async("ask", [question], {})
    texts = [chunk.content async for chunk in chunks]
    assert "".join(texts).strip() == "The capital of France is Paris."
    assert len(texts) > 5
    [body] = sent.bodies(CHAT)
    assert (body["stream"], body["messages"][0]["role"]) == (True, "user")


@pytest.mark.recipe("serve_a_pipeline_in_haystack")
def test_serve_a_pipeline_whole_and_streamed(run_with_hayhooks, fault_server):
    fault_server.reply(faults.chat("one two three"), CHAT)
    models, answer, streamed = run_with_hayhooks(VLLM_BASE_URL=fault_server.url)
    assert (models, answer) == ("models: ask", "answer: one two three")
    assert [text for text in streamed.split("|") if text] == ["one", " two", " three"]
    assert [post.json["messages"] for post in fault_server.posts(CHAT)] == [
        [{"role": "user", "content": "What is the capital of France?"}]
    ] * 2


@pytest.mark.recipe("serve_a_pipeline_in_haystack")
def test_serve_a_pipeline_passes_no_cut_stream_off_as_whole(run_with_hayhooks, fault_server):
    cut = faults.truncate(faults.chat("one two three four five"), after=900)
    fault_server.script(CHAT, [faults.chat("one two"), cut])
    with pytest.raises((openai.APIError, http.RemoteProtocolError)):
        run_with_hayhooks(VLLM_BASE_URL=fault_server.url)
    assert len(fault_server.posts(CHAT)) == 2


@pytest.mark.recipe("search_hybrid_in_{framework}")
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny", "minilm")
def test_search_hybrid(run_recipe, check_output, sent, vllm_urls, framework):
    check_output(run_recipe(VLLM_EMBED_BASE_URL=vllm_urls["minilm"]))
    embedded = [text for body in sent.bodies(EMBED) for text in body["input"]]
    assert {"The price of Leo is 480.", "What is the price of Leo?"} < set(embedded)
    assert len(sent.bodies(RERANK)[0]["documents"]) == 3
    assert "The owner of Leo is Maria." in sent.bodies(CHAT)[0]["messages"][-1]["content"]


@pytest.mark.recipe("approve_tool_calls_in_langchain")
@pytest.mark.vllm("tiny")
def test_approve_tool_calls(run_recipe, check_output, sent, tmp_path):
    check_output(run_recipe(tmp_path / "agent.sqlite"))
    asked, answered, later = sent.bodies(CHAT)
    roles = [[message["role"] for message in body["messages"]] for body in (asked, answered, later)]
    assert roles[0] == ["user"]
    assert roles[1] == ["user", "assistant", "tool"]
    assert roles[2] == ["user", "assistant", "tool", "assistant", "user"]


@pytest.mark.recipe("run_a_deep_agent_in_langchain")
@pytest.mark.vllm("tiny")
def test_run_a_deep_agent(run_recipe, check_output, sent):
    check_output(run_recipe())
    offered = {tool["function"]["name"]: tool["function"].get("strict") for tool in sent.bodies(CHAT)[0]["tools"]}
    assert {"get_weather", "read_file", "task"} <= offered.keys()
    assert set(offered.values()) == {True}


@pytest.mark.recipe("extract_objects_in_{framework}")
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny")
def test_extract_objects(run_recipe, check_output, sent, framework):
    check_output(run_recipe())
    for body in sent.bodies(CHAT):
        assert set(body["response_format"]["json_schema"]["schema"]["properties"]) == {"name", "age", "city"}


@pytest.mark.recipe("ask_about_an_image_in_{framework}")
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("eye")
def test_ask_about_an_image(run_recipe, check_output, sent, pictures, tmp_path, framework):
    check_output(run_recipe())
    text, image = sent.last.json["messages"][0]["content"]
    assert text == {"type": "text", "text": "What color is this?"}
    assert image["image_url"] == {"url": f"data:image/png;base64,{pictures['red']}"}
    files = [tmp_path / "blue.png", tmp_path / "green.png"]
    for file in files:
        file.write_bytes(base64.b64decode(pictures[file.stem]))
    assert run_recipe(*files) == ["blue, green"]
    assert len(sent.to(CHAT)) == 2


@pytest.mark.recipe("keep_within_the_context_in_{framework}")
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny")
def test_keep_within_the_context_in(run_recipe, same_as_shown, sent, framework):
    lines = run_recipe(CONTEXT="110")
    assert [line.partition("[")[2] for line in lines] == [
        "20 of 110 tokens, 0 messages left out]",
        "46 of 110 tokens, 0 messages left out]",
        "42 of 110 tokens, 2 messages left out]",
    ]
    same_as_shown(lines)
    contents = [message["content"] for message in sent.bodies(CHAT)[-1]["messages"]]
    assert contents == ["Be brief.", "What is my name?", "Your name is Ada.", "Count to three"]


@pytest.mark.recipe("serve_tenants_in_{framework}")
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny", lora=True)
@vllm_since("0.28", before=AssertionError, match="cached tokens: None", sometimes=True)
def test_serve_tenants(run_recipe, check_output, sent, framework):
    check_output(run_recipe())
    assert [(body["model"], body["cache_salt"]) for body in sent.bodies(CHAT)] == [
        *[("tiny", "secret-of-tiny")] * 2,
        *[("tiny-lora", "secret-of-tiny-lora")] * 2,
    ]


@pytest.mark.recipe("fail_over_in_{framework}")
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.vllm("tiny", recorded=False)  # a recording has no second server
def test_fail_over(run_recipe, check_output, framework):
    check_output(run_recipe())


@pytest.mark.recipe("fail_over_in_{framework}")
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_fail_over_to_the_second_server(run_recipe, check_output, make_fault_server, framework):
    first, second = make_fault_server(), make_fault_server()
    first.reply(faults.hang_up())
    second.reply(faults.chat("The capital of France is Paris."), CHAT)
    check_output(run_recipe(FIRST_URL=first.url, VLLM_BASE_URL=second.url))
    assert first.requests
    assert len(second.posts(CHAT)) == 1


# Several


@pytest.mark.recipe("develop_here_run_there")
@pytest.mark.vllm("tiny")
def test_develop_here_run_there(run_recipe, check_output, sent):
    check_output(run_recipe())
    assert len(sent.to(CHAT)) == 1


def without(body, *names):
    return {name: value for name, value in body.items() if name not in names}


def same_requests(sent):
    before, after = (without(body, "stream", "stream_options", "n") for body in sent.bodies(CHAT))
    assert (before["top_k"], before["chat_template_kwargs"]) == (20, {"enable_thinking": True})
    return before == after


@pytest.mark.recipe("move_from_chatopenai")
@pytest.mark.vllm("tiny")
@reasoning_is_parsed
def test_move_from_chatopenai(run_recipe, check_output, sent):
    check_output(run_recipe())
    assert same_requests(sent)


@pytest.mark.recipe("move_from_openailike")
@pytest.mark.vllm("tiny")
@reasoning_is_parsed
def test_move_from_openailike(run_recipe, check_output, sent):
    check_output(run_recipe())
    assert same_requests(sent)


@pytest.mark.recipe("move_from_openaichatgenerator")
@pytest.mark.vllm("tiny")
@reasoning_is_parsed
def test_move_from_openaichatgenerator(run_recipe, check_output, sent):
    check_output(run_recipe())
    assert same_requests(sent)


# Folders


@pytest.mark.recipe("testing")
def test_testing(tmp_path, request):
    pytest.importorskip("langchain_openai")
    copied = tmp_path / "testing"
    shutil.copytree(RECIPES / "testing", copied, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    flags = [flag for flag in ("live", "record") if request.config.getoption(f"vllm_{flag}")]
    command = [sys.executable, "-m", "pytest", "-p", "vllm_adapters._pytest", *(f"--{flag}" for flag in flags)]
    done = subprocess.run(command, cwd=copied, capture_output=True, text=True, timeout=600)
    assert " 3 passed" in done.stdout, done.stdout + done.stderr
    for cassette in copied.glob("cassettes/*/*.yaml"):
        assert audit(cassette.read_text(encoding="utf-8")) == []
    if "record" in flags:
        shutil.copytree(copied / "cassettes", RECIPES / "testing" / "cassettes", dirs_exist_ok=True)


@pytest.mark.recipe("serve")
def test_serve():
    compose = yaml.safe_load((RECIPES / "serve" / "compose.yaml").read_text(encoding="utf-8"))
    cluster = list(yaml.safe_load_all((RECIPES / "serve" / "kubernetes.yaml").read_text(encoding="utf-8")))
    [container] = next(part for part in cluster if part["kind"] == "Deployment")["spec"]["template"]["spec"][
        "containers"
    ]
    chat = compose["services"]["chat"]
    assert (container["image"], container["args"]) == (chat["image"], chat["command"])
    # All flags of the recipes' headers; only LoRA needs an adapter of the user.
    required = {flag for path in RECIPES.glob("*.py") for flag in server_flags(path.read_text(encoding="utf-8"))}
    assert required - set(server_flags(" ".join(chat["command"]))) == {"--enable-lora", "--lora-modules"}


def server_flags(text):
    lines = [line for line in text.splitlines() if line.startswith("Server: ")] or [text]
    return [flag for line in lines for flag in re.findall(r"--[a-z-]+", line.partition("(or:")[0])]


# All recipes


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.py")), ids=lambda path: path.stem)
def test_is_short_and_has_a_header(recipe, requirements):
    text = recipe.read_text(encoding="utf-8")
    needs = requirements(recipe)
    assert needs[0].startswith("vllm-adapters")
    header = ast.get_docstring(ast.parse(text)) or ""
    arguments = " ".join(f"'{need}'" if "[" in need or ">" in need else need for need in needs)
    assert f"Needs:  pip install {arguments}\n" in header, "the requirements for pip and for uv differ"
    assert "Server: vllm serve" in header
    for command in re.findall(r"vllm-adapters serve[^,)]*", header):
        assert f"=http://localhost:{command.rpartition('--port ')[2]}" in header, "the ports differ"
    assert f"python {recipe.name}" in header.replace("\\\n", " ")
    assert len(text.splitlines()) <= 64


def recipes_with_tests():
    """The recipes in the markers of this module's tests."""
    for name, test in globals().items():
        if name.startswith("test_"):
            for marker in getattr(test, "pytestmark", ()):
                if marker.name == "recipe" and "{framework}" in marker.args[0]:
                    yield from (marker.args[0].format(framework=framework) for framework in FRAMEWORKS)
                elif marker.name == "recipe":
                    yield marker.args[0]


def test_every_recipe_has_a_test():
    recipes = {path.stem for path in RECIPES.iterdir() if not path.name.startswith(("_", "."))} - {"notebooks"}
    assert set(recipes_with_tests()) == recipes
