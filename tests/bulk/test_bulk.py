"""Any number of prompts: each is answered once, in order or as they come, whatever the server does meanwhile."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from contextlib import aclosing

import pytest
from version_marks import reasoning_is_parsed

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.bulk import BulkChat, BulkResult
from vllm_adapters.testing import FaultServer, faults

CHAT = "/v1/chat/completions"
PROMPTS = [f"prompt {n}" for n in range(40)]


@pytest.fixture(params=["sync", "async"])
def run(request):
    """Runs a job to its end and returns its results; once sync, once async."""

    def sync(bulk, items, **options):
        return list(bulk.run(items, **options))

    def run_async(bulk, items, **options):
        async def collect():
            return [result async for result in bulk.arun(items, **options)]

        return asyncio.run(collect())

    return sync if request.param == "sync" else run_async


def bulk_of(fault_server, **options):
    return BulkChat(VLLMServer(fault_server.url, model="stub"), **options)


def prompts_sent(fault_server):
    return [post.json["messages"][-1]["content"] for post in fault_server.posts(CHAT)]


def only_for(prompt, behaviour):
    """Treat the requests with this prompt so, and answer all others."""
    healthy = faults.chat()

    async def choose(exchange):
        own = exchange.request.json["messages"][-1]["content"] == prompt
        await (behaviour if own else healthy)(exchange)

    return choose


# With a real server


@pytest.mark.smoke
@pytest.mark.vllm("tiny")
def test_prompts_messages_and_parameters(vllm_url, sent, run):
    items = [
        "What is the capital of France?",
        [{"role": "user", "content": "What is the capital of Japan?"}],
        {"id": "peru", "prompt": "What is the capital of Peru?", "max_tokens": 30},
        {"id": 4, "messages": [{"role": "user", "content": "What is the capital of Norway?"}]},
    ]
    bulk = BulkChat(
        VLLMServer(vllm_url), max_concurrency=1, parameters={"temperature": 0, "max_tokens": 40, "top_k": 1}
    )
    results = run(bulk, items)
    assert [result.text.strip() for result in results] == [
        "The capital of France is Paris.",
        "The capital of Japan is Tokyo.",
        "The capital of Peru is Lima.",
        "The capital of Norway is Oslo.",
    ]
    assert [result.id for result in results] == [None, None, "peru", 4]
    assert {result.finish_reason for result in results} == {"stop"}
    assert all(result.usage["completion_tokens"] > 1 for result in results)
    bodies = sent.bodies(CHAT)
    assert [(body["max_tokens"], body["top_k"], body["model"]) for body in bodies] == [
        (40, 1, "tiny"),
        (40, 1, "tiny"),
        (30, 1, "tiny"),
        (40, 1, "tiny"),
    ]


@pytest.mark.vllm("tiny")
@reasoning_is_parsed
def test_reasoning_is_read(vllm_url, run):
    bulk = BulkChat(VLLMServer(vllm_url), parameters={"chat_template_kwargs": {"enable_thinking": True}, "top_k": 1})
    (result,) = run(bulk, ["What is the capital of Japan?"])
    assert result.reasoning
    assert "Tokyo" in result.text


@pytest.mark.vllm("tiny")
def test_item_that_is_too_long_fails_alone(vllm_url, run):
    bulk = BulkChat(VLLMServer(vllm_url), max_concurrency=1, parameters={"max_tokens": 30, "top_k": 1})
    long, short = run(bulk, ["word " * 4000, "What is the capital of Japan?"])
    assert isinstance(long.error, e.ContextLengthExceeded)
    assert "Tokyo" in short.text
    with pytest.raises(e.ContextLengthExceeded):
        _ = long.text


# Order and concurrency


def test_results_are_in_order(fault_server, run):
    fault_server.reply(only_for("prompt 0", faults.slow(0.3, faults.chat())), CHAT)
    results = run(bulk_of(fault_server), PROMPTS)
    assert [result.text for result in results] == PROMPTS
    assert sorted(prompts_sent(fault_server)) == sorted(PROMPTS)


def test_results_come_as_they_arrive(fault_server, run):
    fault_server.reply(only_for("prompt 0", faults.slow(0.5, faults.chat())), CHAT)
    results = run(bulk_of(fault_server), PROMPTS, in_order=False)
    assert results[0].index != 0
    assert sorted(result.index for result in results) == list(range(40))


def test_concurrency_is_bounded(fault_server, run):
    fault_server.delay = 0.01
    run(bulk_of(fault_server, max_concurrency=5), PROMPTS)
    assert 2 <= fault_server.peak <= 5


def test_concurrency_grows_to_its_bound(fault_server, run):
    fault_server.delay = 0.2
    run(bulk_of(fault_server, max_concurrency=20), PROMPTS * 3)
    assert 12 <= fault_server.peak <= 20


def test_generators_are_read_as_requests_are_sent(fault_server, run):
    read = 0

    def generate():
        nonlocal read
        for prompt in PROMPTS * 5:
            read += 1
            yield prompt

    fault_server.reply(only_for("prompt 0", faults.slow(0.5, faults.chat())), CHAT)
    bulk = bulk_of(fault_server, max_concurrency=4)
    seen = []
    for result in bulk.run(generate()):
        seen.append((result.index, read))
    assert seen[0] == (0, 4 * 4)  # no more wait for the first
    assert [index for index, _ in seen] == list(range(200))


def test_async_generators_are_items(fault_server):
    async def generate():
        for prompt in PROMPTS[:5]:
            await asyncio.sleep(0)
            yield prompt

    async def collect():
        return [result.text async for result in bulk_of(fault_server).arun(generate())]

    assert asyncio.run(collect()) == PROMPTS[:5]


def test_sync_job_runs_inside_an_event_loop(fault_server):
    async def main():
        return [result.text for result in bulk_of(fault_server).run(PROMPTS[:3])]

    assert asyncio.run(main()) == PROMPTS[:3]


def test_items_are_read_in_the_callers_thread(fault_server):
    threads = set()

    def generate():
        threads.add(threading.get_ident())
        yield from PROMPTS[:3]

    list(bulk_of(fault_server).run(generate()))
    assert threads == {threading.get_ident()}


def test_leaving_the_loop_cancels_the_requests(fault_server):
    fault_server.reply(only_for("prompt 1", faults.hang()), CHAT)
    for result in bulk_of(fault_server, max_concurrency=2).run(PROMPTS):
        assert result.index == 0
        assert fault_server.wait_for(lambda: "prompt 1" in prompts_sent(fault_server))
        break
    hanging = [post for post in fault_server.posts(CHAT) if post.json["messages"][0]["content"] == "prompt 1"]
    assert all(post.wait_disconnected() for post in hanging)


def test_closing_the_async_generator_cancels_the_requests(fault_server):
    fault_server.reply(only_for("prompt 1", faults.hang()), CHAT)

    async def main():
        async with aclosing(bulk_of(fault_server, max_concurrency=2).arun(PROMPTS)) as results:
            async for result in results:
                assert result.index == 0
                while "prompt 1" not in prompts_sent(fault_server):
                    await asyncio.sleep(0.01)
                break
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    hanging = [post for post in fault_server.posts(CHAT) if post.json["messages"][0]["content"] == "prompt 1"]
    assert all(post.wait_disconnected() for post in hanging)


def test_progress_is_reported(fault_server, run):
    fault_server.reply(only_for("prompt 3", faults.error(400, "no")), CHAT)
    reports = []
    run(bulk_of(fault_server), PROMPTS[:10], progress=reports.append)
    assert [report.done for report in reports] == list(range(1, 11))
    last = reports[-1]
    assert (last.succeeded, last.failed, last.total, last.in_flight) == (9, 1, 10, 0)


def test_progress_bar(fault_server, run, capsys):
    run(bulk_of(fault_server), PROMPTS[:10], progress="Answering")
    assert "Answering: 100%" in capsys.readouterr().err


# Overload and failures


@pytest.mark.parametrize("status", [429, 503])
def test_overload_delays_items_and_loses_none(fault_server, run, status):
    full = "The engine is currently busy and cannot accept new requests"
    fault_server.script(CHAT, [faults.error(status, full, retry_after=0.2)] * 6)
    reports = []
    results = run(bulk_of(fault_server, max_concurrency=8), PROMPTS, progress=reports.append)
    assert [result.text for result in results] == PROMPTS
    assert len(fault_server.posts(CHAT)) == 46
    assert min(report.concurrency for report in reports) <= 4


def test_retry_after_is_kept(fault_server, run):
    fault_server.script(CHAT, [faults.error(429, retry_after=1)])
    began = time.monotonic()
    run(bulk_of(fault_server, max_concurrency=1), PROMPTS[:3])
    assert 1 <= time.monotonic() - began < 3


def test_server_that_is_down_for_a_while(run):
    with FaultServer() as server:
        bulk = bulk_of(server)
        server.reply(faults.hang_up(), CHAT)
        threading.Timer(1.2, server.heal).start()
        assert [result.text for result in run(bulk, PROMPTS)] == PROMPTS


def test_server_that_stays_down_ends_the_job(fault_server, run):
    fault_server.reply(faults.hang_up(), CHAT)
    with pytest.raises(e.ServerUnreachable):
        run(bulk_of(fault_server, patience=1), PROMPTS)


def test_retry_after_beyond_the_patience_ends_the_job(fault_server, run):
    fault_server.reply(faults.error(429, retry_after=3600), CHAT)
    began = time.monotonic()
    with pytest.raises(e.RateLimited):
        run(bulk_of(fault_server), PROMPTS)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (faults.error(401, shape="string"), e.AuthenticationFailed),
        (faults.error(403), e.PermissionDenied),
        (faults.error(404, "Not Found", shape="detail"), e.WrongAddress),
        (faults.error(404, "The model `stub` does not exist.", param="model"), e.ModelNotServed),
    ],
    ids=["401", "403", "404-route", "404-model"],
)
def test_error_of_every_item_ends_the_job(fault_server, run, behaviour, error):
    fault_server.reply(behaviour, CHAT)
    with pytest.raises(error):
        run(bulk_of(fault_server), PROMPTS)
    assert len(fault_server.posts(CHAT)) <= 8


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (faults.error(400, "bad"), e.InvalidRequest),
        (faults.error(403, "filtered"), e.PermissionDenied),
        (faults.html(), e.InvalidResponse),
        (faults.empty_choices(), e.InvalidResponse),
        (faults.chat("x", finish_reason="abort"), e.ServerFailed),
        (faults.error(500), e.ServerFailed),
    ],
    ids=["400", "403", "html", "no-choices", "abort", "500"],
)
def test_item_that_fails_is_a_result_with_a_typed_error(fault_server, run, behaviour, error):
    fault_server.reply(only_for("prompt 7", behaviour), CHAT)
    results = run(bulk_of(fault_server, max_attempts=2, max_concurrency=4), PROMPTS)
    assert isinstance(results[7].error, error)
    assert results[7].error.address == fault_server.url
    assert [result.text for result in results if result.index != 7] == PROMPTS[:7] + PROMPTS[8:]


def test_server_error_is_tried_again(fault_server, run):
    fault_server.script(CHAT, [faults.error(500)])
    assert [result.text for result in run(bulk_of(fault_server, max_concurrency=1), PROMPTS[:2])] == PROMPTS[:2]
    assert prompts_sent(fault_server).count("prompt 0") == 2


def test_timeout_of_one_item(fault_server, run):
    fault_server.reply(only_for("prompt 2", faults.hang()), CHAT)
    bulk = BulkChat(VLLMServer(fault_server.url, model="stub", timeout=0.5), max_attempts=1)
    results = run(bulk, PROMPTS[:5])
    assert [type(result.error) for result in results if result.error] == [e.ServerTimeout]


# The file


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_results_are_read_from_the_file(fault_server, run, tmp_path):
    file = tmp_path / "results.jsonl"
    fault_server.reply(only_for("prompt 3", faults.error(400, "bad", param="messages")), CHAT)
    first = run(bulk_of(fault_server), PROMPTS, file=file)
    second = run(bulk_of(fault_server), PROMPTS, file=file)
    assert len(fault_server.posts(CHAT)) == 40
    assert [(r.index, r.reply, r.resumed) for r in second] == [(r.index, r.reply, True) for r in first]
    assert type(second[3].error) is e.InvalidRequest
    assert str(second[3].error) == str(first[3].error)
    assert second[3].error.param == "messages"
    assert sorted(line["index"] for line in lines_of(file)[1:]) == list(range(40))


def test_more_items_may_be_added(fault_server, run, tmp_path):
    run(bulk_of(fault_server), PROMPTS[:10], file=tmp_path / "f")
    results = run(bulk_of(fault_server), PROMPTS, file=tmp_path / "f")
    assert [result.text for result in results] == PROMPTS
    assert len(fault_server.posts(CHAT)) == 40


def test_failures_of_the_server_are_requested_again(fault_server, run, tmp_path):
    fault_server.reply(only_for("prompt 3", faults.error(500)), CHAT)
    first = run(bulk_of(fault_server, max_attempts=1), PROMPTS, file=tmp_path / "f")
    assert isinstance(first[3].error, e.ServerFailed)
    fault_server.heal()
    second = run(bulk_of(fault_server), PROMPTS, file=tmp_path / "f")
    assert [result.text for result in second] == PROMPTS
    assert [result.index for result in second if not result.resumed] == [3]


def test_file_that_was_cut_at_any_byte_is_resumed(fault_server, tmp_path):
    whole = tmp_path / "whole"
    bulk = bulk_of(fault_server, max_concurrency=1)
    list(bulk.run(PROMPTS[:2], file=whole))
    data = whole.read_bytes()
    assert data.count(b"\n") == 3
    file = tmp_path / "cut"
    ends = [at for at, byte in enumerate(data) if byte == ord("\n")]
    for size in sorted({*range(0, len(data), 29), *(end + shift for end in ends for shift in (-1, 0, 1))}):
        file.write_bytes(data[:size])
        kept = max(0, data[:size].count(b"\n") - 1)
        before = len(fault_server.posts(CHAT))
        results = list(bulk.run(PROMPTS[:2], file=file))
        assert [result.text for result in results] == PROMPTS[:2]
        assert len(fault_server.posts(CHAT)) - before == 2 - kept
        assert [line.get("index") for line in lines_of(file)] == [None, 0, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"temperature": 0.5}},
        {"model": "other"},
        {"items": ["other", *PROMPTS[1:]]},
        {"items": PROMPTS[:5]},
    ],
    ids=["parameters", "model", "items", "fewer-items"],
)
def test_file_of_another_job_is_refused(fault_server, run, tmp_path, change):
    file = tmp_path / "f"
    run(bulk_of(fault_server), PROMPTS, file=file)
    before = file.read_bytes()
    server = VLLMServer(fault_server.url, model=change.get("model", "stub"))
    bulk = BulkChat(server, parameters=change.get("parameters", {}))
    with pytest.raises(ValueError, match="is of another job"):
        run(bulk, change.get("items", PROMPTS), file=file)
    assert file.read_bytes() == before
    assert len(fault_server.posts(CHAT)) == 40


@pytest.mark.parametrize("content", ["text without a line end", "one\ntwo\n", '{"a": 1}\n', "[]\n"])
def test_other_files_are_refused_and_left_as_they_are(fault_server, run, tmp_path, content):
    file = tmp_path / "f"
    file.write_text(content)
    with pytest.raises(ValueError, match="is not of a bulk job"):
        run(bulk_of(fault_server), PROMPTS, file=file)
    assert file.read_text() == content


def test_malformed_and_repeated_lines_are_refused(fault_server, tmp_path):
    file = tmp_path / "f"
    list(bulk_of(fault_server, max_concurrency=1).run(PROMPTS[:3], file=file))
    header, *lines = file.read_text().splitlines(keepends=True)
    for changed, message in (
        ([header, "{broken\n", *lines], "Line 2 of .* is malformed"),
        ([header, "{}\n", *lines], "Line 2 of .* has no index"),
        ([header, *lines, lines[0]], "Line 5 of .* repeats item 0"),
    ):
        file.write_text("".join(changed))
        with pytest.raises(ValueError, match=message):
            list(bulk_of(fault_server).run(PROMPTS[:3], file=file))


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_file_in_use_is_refused(fault_server, tmp_path):
    job = bulk_of(fault_server).run(PROMPTS, file=tmp_path / "f")
    next(job)
    with pytest.raises(ValueError, match="is in use by another job"):
        list(bulk_of(fault_server).run(PROMPTS, file=tmp_path / "f"))
    job.close()
    assert len(list(bulk_of(fault_server).run(PROMPTS, file=tmp_path / "f"))) == 40


def test_headers_and_time_limits_do_not_make_another_job(fault_server, run, tmp_path):
    run(bulk_of(fault_server, parameters={"top_k": 1}), PROMPTS, file=tmp_path / "f")
    parameters = {"top_k": 1, "timeout": 9, "extra_headers": {"X-Tenant": "a"}}
    run(bulk_of(fault_server, parameters=parameters), PROMPTS, file=tmp_path / "f")
    assert len(fault_server.posts(CHAT)) == 40


def test_file_holds_no_secret(fault_server, run, tmp_path):
    server = VLLMServer(fault_server.url, model="stub", api_key="a-secret-key")
    parameters = {"cache_salt": "a-secret-salt", "extra_headers": {"X-Token": "a-secret-token"}}
    run(BulkChat(server, parameters=parameters), PROMPTS[:3], file=tmp_path / "f")
    assert "a-secret" not in (tmp_path / "f").read_text()


JOB = """
import sys
from vllm_adapters import VLLMServer
from vllm_adapters.bulk import BulkChat

bulk = BulkChat(VLLMServer(sys.argv[1], model="stub"), max_concurrency=8)
for result in bulk.run((f"prompt {n}" for n in range(200)), file=sys.argv[2], in_order=False):
    pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_job_that_is_killed_answers_each_item_once(fault_server, tmp_path):
    fault_server.delay = 0.01
    file = tmp_path / "f"
    command = [sys.executable, "-c", JOB, fault_server.url, str(file)]
    for done in (40, 90, 140):
        job = subprocess.Popen(command)
        assert fault_server.wait_for(lambda n=done: file.exists() and file.read_bytes().count(b"\n") > n, timeout=60)
        os.kill(job.pid, signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    lines = lines_of(file)[1:]
    assert sorted(line["index"] for line in lines) == list(range(200))
    assert all(line["reply"]["choices"][0]["message"]["content"] == f"prompt {line['index']}" for line in lines)
    assert len(fault_server.posts(CHAT)) <= 200 + 3 * 8


def test_memory_is_constant(fault_server):
    def peak(count):
        gc.collect()
        tracemalloc.start()
        for result in bulk_of(fault_server, max_concurrency=4).run(f"prompt {n}" for n in range(count)):
            if not result.index % 20:
                fault_server.requests.clear()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(40)
    # The least of a few: the server is in this process, and other threads may allocate meanwhile.
    assert min(peak(160) for _ in range(3)) < 1.5 * min(peak(40) for _ in range(3))


# Arguments


@pytest.mark.parametrize("items", ["text", b"x", {"prompt": "x"}, 5, None])
def test_items_must_be_iterable(fault_server, run, items):
    with pytest.raises(TypeError, match="`items` must be an iterable of prompts or messages"):
        run(bulk_of(fault_server), items)


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (5, TypeError),
        ([], TypeError),
        (["x"], TypeError),
        ({"id": 1}, ValueError),
        ({"id": 1.5, "prompt": "x"}, TypeError),
        ({"prompt": "x", "messages": []}, ValueError),
        ({"prompt": "x", "stream": True}, ValueError),
    ],
)
def test_malformed_item_raises_with_its_position(fault_server, run, item, error):
    with pytest.raises(error, match="tem 1 "):
        run(bulk_of(fault_server), ["x", item])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_concurrency": 0}, ValueError),
        ({"max_concurrency": 1.5}, TypeError),
        ({"max_attempts": 0}, ValueError),
        ({"patience": "1"}, TypeError),
        ({"parameters": {"messages": []}}, ValueError),
        ({"parameters": {"stream": True}}, ValueError),
        ({"parameters": {"topk": 1}}, e.UnknownParameter),
        ({"parameters": {"top_k": "many"}}, e.InvalidRequest),
    ],
)
def test_constructor_refuses(options, error):
    with pytest.raises(error):
        BulkChat(VLLMServer("http://127.0.0.1:9"), **options)


def test_unknown_parameter_of_an_item_is_its_error(fault_server, run):
    good, bad = run(bulk_of(fault_server), ["x", {"prompt": "x", "topk": 1}])
    assert good.text == "x"
    assert isinstance(bad.error, e.UnknownParameter)


def test_no_items(fault_server, run, tmp_path):
    assert run(bulk_of(fault_server), [], file=tmp_path / "f") == []
    assert not fault_server.posts()


def test_result_without_a_reply_has_no_usage():
    assert BulkResult(0, error=e.InvalidRequest("no")).usage == {}
