"""The plugin: each test here runs a project against a server, and replays what was recorded."""

import socket

import pytest

from vllm_adapters.testing import faults
from vllm_adapters.testing.cassettes import audit

ONE = """
@pytest.mark.vllm("tiny")
def test_chat(vllm_url, sent):
    answer = ask(vllm_url, top_p=0.5)
    assert answer.choices[0].message.content == "hi"
    assert sent.last.json["top_p"] == 0.5
    assert sent.bodies("/v1/chat/completions")[0]["model"] == "tiny"
    assert sent[-1].headers["authorization"] == "Bearer canary-key"
    assert "canary-key" not in repr(sent[-1])
"""


def test_a_recorded_test_is_replayed(project):
    project.write(ONE)
    project.record().assert_outcomes(passed=1)
    requests = len(project.server.requests)
    assert project.cassette("chat/test_one/test_chat").is_file()
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["vllm: replay; cassettes: 1 from vLLM 0.32.0", "openai * (httpx*"])
    assert len(project.server.requests) == requests


def test_live_runs_record_nothing(project):
    project.write(ONE)
    result = project.live()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"vllm: live, {project.server.url}; cassettes: none"])
    assert not project.pytester.path.joinpath("cassettes").exists()


def test_every_kind_of_request_is_replayed(project):
    project.write(
        """
@pytest.mark.vllm
class TestAll:
    def test_stream(self, vllm_url):
        chunks = list(ask(vllm_url, "a b\u2028é", stream=True, stream_options={"include_usage": True}))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "a b\u2028é"
        assert chunks[-1].usage.prompt_tokens

    async def test_async(self, vllm_url, sent):
        async with openai.AsyncOpenAI(base_url=vllm_url, api_key="x") as client:
            ask = lambda text, **more: client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": text}], **more)
            answers = await asyncio.gather(*(ask(f"q{i}") for i in range(5)))
            assert [a.choices[0].message.content for a in answers] == [f"q{i}" for i in range(5)]
            text = [c.choices[0].delta.content or "" async for c in await ask("s t", stream=True)]
            assert "".join(text) == "s t"
        assert len(sent) == 6

    @pytest.mark.parametrize("encoding", ["float", "base64"])
    def test_embeddings(self, vllm_url, encoding):
        with openai.OpenAI(base_url=vllm_url, api_key="x") as client:
            found = client.embeddings.create(model="tiny", input=["a", "b"], encoding_format=encoding)
        assert len(found.data) == 2

    def test_errors(self, vllm_url):
        with openai.OpenAI(base_url=vllm_url, api_key="x") as client:
            with pytest.raises(openai.NotFoundError) as error:
                client.get("/nowhere", cast_to=dict[str, object])
        assert error.value.body == {"detail": "Not Found"}

    def test_upload(self, vllm_url):
        with openai.OpenAI(base_url=vllm_url, api_key="x") as client, pytest.raises(openai.NotFoundError):
            client.audio.transcriptions.create(model="tiny", file=("a.wav", b"\\xff\\x00RIFF"))
"""
    )
    project.record().assert_outcomes(passed=6)
    assert project.cassette("chat/test_one/TestAll.test_embeddings[float]").is_file()
    for _ in range(2):  # a multipart boundary is random in every run
        project.run().assert_outcomes(passed=6)


def test_another_body_fails_and_shows_the_difference(project):
    project.write(ONE)
    project.record().assert_outcomes(passed=1)
    project.write(ONE.replace("top_p=0.5", "top_k=1").replace("ask(vllm_url, top_k=1)", "ask(vllm_url, seed=1)"))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*POST /v1/chat/completions has no response in cassettes/chat/test_one/test_chat.yaml*",
            "*sent: {*",
            "*closest: #1 of 1, POST /v1/chat/completions, not played yet*",
            "*body.top_p: recorded 0.5, not sent*",
            "*body.seed: not recorded, sent 1*",
        ]
    )


def test_a_request_without_a_response_fails_the_test_even_if_caught(project):
    project.write(
        """
@pytest.mark.vllm
def test_catches(vllm_url):
    try:
        ask(vllm_url, "other" if os.environ.get("OTHER") else "hi")
    except BaseException:
        pass

@pytest.mark.xfail
@pytest.mark.vllm
def test_expects_to_fail(vllm_url):
    ask(vllm_url, "other" if os.environ.get("OTHER") else "hi")
    assert False

@pytest.mark.vllm
def test_in_a_thread(vllm_url):
    import threading
    text = "other" if os.environ.get("OTHER") else "hi"
    def work():
        try:
            ask(vllm_url, text)
        except BaseException:
            pass
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

@pytest.mark.vllm
def test_raises_another_error(vllm_url):
    try:
        ask(vllm_url, "other" if os.environ.get("OTHER") else "hi")
    except BaseException:
        raise ValueError("something else")
"""
    )
    project.record().assert_outcomes(passed=3, xfailed=1)
    project.run().assert_outcomes(passed=3, xfailed=1)
    project.monkeypatch.setenv("OTHER", "1")
    result = project.run()
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*the test then failed with ValueError: something else*"])


def test_each_response_is_played_exactly_once(project):
    body = "@pytest.mark.vllm\ndef test_n(vllm_url):\n    for _ in range({}): ask(vllm_url)\n"
    project.write(body.format(2))
    project.record().assert_outcomes(passed=1)
    project.run().assert_outcomes(passed=1)
    project.write(body.format(1))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*recorded in cassettes/*, but not sent:*", "*#2 POST /v1/chat/completions*"])
    project.write(body.format(3))
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*identical, but recorded fewer times than it was sent*"])


def test_a_missing_cassette_fails_the_test(project):
    project.write(ONE)
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*cassettes/chat/test_one/test_chat.yaml does not exist. Record it with pytest --live --record.*"]
    )


def test_tests_without_a_cassette_run_live_only(project):
    project.write(
        """
@pytest.mark.vllm("tiny", recorded=False)
def test_break(vllm_url):
    with openai.OpenAI(base_url=vllm_url, api_key="x") as client:
        for _ in client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "word " * 99}], stream=True
        ):
            break

@pytest.mark.vllm("tiny", recorded=False)
def test_sent(vllm_url, sent): pass
"""
    )
    result = project.run("-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*live only (recorded=False): run with --live*"])
    project.server.reply(faults.chat("word " * 99, pause=0.05))
    result = project.record()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*not recorded=False*"])
    assert project.server.posts()[0].wait_disconnected(1), "the client was not connected to the server directly"
    assert not list(project.pytester.path.rglob("*.yaml"))


def test_the_network_is_blocked_in_marked_tests(project):
    project.write(
        """
import socket

@pytest.fixture(scope="module")
def early():
    with pytest.raises(RuntimeError, match="Network is disabled"):
        socket.create_connection(("127.0.0.1", 9))

@pytest.mark.vllm
def test_marked(early, vllm_url):
    with pytest.raises(RuntimeError, match="Network is disabled"):
        socket.create_connection(("127.0.0.1", 9))

def test_unmarked(fault_server):
    assert ask(fault_server.url).choices
"""
    )
    project.run().assert_outcomes(passed=2)


def test_unmarked_tests_of_this_repository_reach_this_machine_only(fault_server):
    with socket.create_connection(("127.0.0.1", int(fault_server.root.rpartition(":")[2]))):
        pass
    with pytest.raises(RuntimeError, match="Network is disabled"):
        socket.create_connection(("192.0.2.1", 9), timeout=1)


def test_the_environment_holds_only_the_tests_server(project):
    project.write(
        """
@pytest.mark.vllm
def test_env(vllm_url):
    assert os.environ["VLLM_BASE_URL"] == vllm_url
    assert not [name for name in os.environ if name.startswith("OPENAI_")]
    assert os.environ.get("VLLM_API_KEY") == os.environ["EXPECTED"]  if "EXPECTED" in os.environ else True

def test_unmarked():
    assert os.environ["OPENAI_API_KEY"] == "another"
"""
    )
    project.monkeypatch.setenv("OPENAI_API_KEY", "another")
    project.monkeypatch.setenv("VLLM_API_KEY", "for-the-live-server")
    project.run().assert_outcomes(passed=2)
    project.monkeypatch.setenv("EXPECTED", "for-the-live-server")
    project.live().assert_outcomes(passed=2)


def test_cassettes_hold_no_key_address_or_path(project, tmp_path):
    lora = tmp_path / "loras" / "sql"
    project.write(
        f"""
@pytest.mark.vllm
def test_models(vllm_url):
    with openai.OpenAI(base_url=vllm_url, api_key="canary-key") as client:
        assert list(client.models.list())
        client.chat.completions.create(
            model="tiny", messages=[{{"role": "user", "content": "two\\nlines from {project.server.root}"}}],
            extra_body={{"lora_path": {str(lora)!r}}},
        )
"""
    )
    project.monkeypatch.setenv("VLLM_API_KEY", "canary-key")
    project.record().assert_outcomes(passed=1)
    text = project.cassette("chat/test_one/test_models").read_text(encoding="utf-8")
    assert audit(text, ["canary-key"]) == []
    assert "root: tiny" in text
    assert "lora_path: sql" in text
    assert "from http://localhost:8000" in text
    assert "vllm: 0.32.0" in text
    assert "uri: http://localhost:8000/v1/models" in text
    project.write(project.pytester.path.joinpath("tests/chat/test_one.py").read_text(encoding="utf-8"))
    project.monkeypatch.delenv("VLLM_API_KEY")


def test_a_failing_test_keeps_its_old_cassette(project):
    project.write(ONE)
    project.record().assert_outcomes(passed=1)
    before = project.cassette("chat/test_one/test_chat").read_bytes()
    project.write(ONE.replace('== "hi"', '== "never"'))
    project.record().assert_outcomes(failed=1)
    assert project.cassette("chat/test_one/test_chat").read_bytes() == before


def test_recording_replaces_a_cassette_and_removes_orphans(project):
    project.write(ONE + ONE.replace("test_chat", "test_other"))
    project.record().assert_outcomes(passed=2)
    project.write(
        ONE.replace("ask(vllm_url, top_p=0.5)", "(ask(vllm_url), ask(vllm_url, top_p=0.5))[1]").replace(
            "[0]", "[-1]", 1
        )
    )
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*cassettes/chat/test_one/test_other.yaml: remove it, or run pytest --live --record"])
    project.write(ONE)
    assert project.run().ret == 1  # the orphan fails the run ...
    assert project.run("tests/chat/test_one.py::test_chat").ret == 0  # ... only if its whole module was collected
    assert project.record().ret == 0
    assert not project.cassette("chat/test_one/test_other").exists()
    assert project.run().ret == 0
    project.write("@pytest.mark.vllm\ndef test_chat(vllm_url): pass\n")
    project.record().assert_outcomes(passed=1)
    assert not project.cassette("chat/test_one/test_chat").exists()


def test_only_vllm_is_recorded(project, make_fault_server):
    project.server = make_fault_server(version=None)
    project.write(
        """
@pytest.mark.vllm
def test_models(vllm_url):
    with openai.OpenAI(base_url=vllm_url, api_key="x") as client:
        client.models.list()
"""
    )
    result = project.record()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*Record from a real vLLM.*"])
    assert project.run("--record").ret == pytest.ExitCode.USAGE_ERROR


def test_other_servers_and_late_requests_fail_the_test(project):
    project.write(
        """
@pytest.mark.vllm
def test_elsewhere(vllm_url):
    ask("http://192.0.2.1:1/v1", "elsewhere")

@pytest.fixture
def late(vllm_url):
    yield
    ask(vllm_url, "late")

@pytest.mark.vllm
def test_late(late):
    pass
"""
    )
    for result in (project.live(), project.run()):
        result.assert_outcomes(failed=1, passed=1, errors=1)
        result.stdout.fnmatch_lines(["*was sent after the test had ended*"])


def test_requests_of_fixtures_are_recorded_with_the_test(project):
    project.write(
        """
@pytest.fixture
async def models(vllm_url):
    async with openai.AsyncOpenAI(base_url=vllm_url, api_key="x") as client:
        return (await client.models.list()).data

@pytest.mark.vllm
async def test_models(models, sent):
    assert sent[0].path == "/v1/models"
"""
    )
    project.record().assert_outcomes(passed=1)
    project.run().assert_outcomes(passed=1)


def test_the_marker_of_pytest_recording_adds_no_second_cassette(project):
    project.write(
        """
@pytest.mark.vcr
@pytest.mark.vllm
def test_chat(vllm_url):
    assert ask(vllm_url).choices
"""
    )
    project.record().assert_outcomes(passed=1)
    project.run().assert_outcomes(passed=1)
    assert [p.name for p in project.pytester.path.rglob("*.yaml")] == ["test_chat.yaml"]


def test_a_server_behind_a_path_is_recorded_at_the_root(project, make_fault_server):
    from vllm_adapters.testing import faults

    def mounted(exchange):
        exchange.request.path = exchange.request.path.removeprefix("/team")
        return faults.chat()(exchange)

    project.server.reply(mounted, "/team/v1/chat/completions")
    project.server.reply(faults.json_reply({"version": "0.32.0"}), "/team/version")
    project.write(ONE)
    project.monkeypatch.setenv("VLLM_BASE_URL", f"{project.server.root}/team")
    project.pytester.runpytest("--live", "--record").assert_outcomes(passed=1)
    project.run().assert_outcomes(passed=1)


def test_a_test_may_have_several_servers(project, make_fault_server):
    embed = make_fault_server(models=("minilm",))
    project.monkeypatch.setenv("VLLM_EMBED_BASE_URL", embed.url)
    project.write(
        """
@pytest.mark.vllm("tiny", "minilm")
def test_both(vllm_url, vllm_urls, sent):
    assert list(vllm_urls) == ["tiny", "minilm"]
    assert vllm_url == vllm_urls["tiny"] == os.environ["VLLM_BASE_URL"]
    assert ask(vllm_url, "hi").choices[0].message.content == "hi"
    with openai.OpenAI(base_url=vllm_urls["minilm"], api_key="x") as client:
        assert client.models.list().data[0].id == "minilm"
        assert len(client.embeddings.create(model="minilm", input=["a", "b"]).data) == 2
    assert ask(vllm_url, "bye").choices[0].message.content == "bye"
    assert len(sent.bodies("/v1/chat/completions")) == 2
    assert sent.bodies("/minilm/v1/embeddings")[0]["input"] == ["a", "b"]
"""
    )
    project.record().assert_outcomes(passed=1)
    text = project.cassette("chat/test_one/test_both").read_text(encoding="utf-8")
    assert "server: tiny, minilm" in text
    assert "http://localhost:8000/minilm/v1/embeddings" in text
    assert audit(text) == []
    requests = len(project.server.requests), len(embed.requests)
    project.run().assert_outcomes(passed=1)
    assert (len(project.server.requests), len(embed.requests)) == requests


def test_fixtures_need_the_marker(project):
    project.write("def test_a(vllm_url): pass\ndef test_b(sent): pass\n")
    result = project.run()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*vllm_url and vllm_urls need @pytest.mark.vllm*"])


def test_two_tests_with_one_cassette_are_a_usage_error(project):
    project.write(
        """
@pytest.mark.vllm
@pytest.mark.parametrize("text", ["a/b", "a-b"])
def test_chat(vllm_url, text):
    ask(vllm_url, text)
"""
    )
    for result in (project.record(), project.run()):
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*test_chat[[]a/b] and *test_chat[[]a-b] have the same cassette*id=...*"])


def test_an_unreachable_server_fails_the_test_in_one_line(project):
    project.write(ONE)
    project.monkeypatch.setenv("VLLM_BASE_URL", "http://127.0.0.1:9")
    result = project.pytester.runpytest("-p", "no:cacheprovider", "--live")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["The server did not respond: *refused* (server: http://127.0.0.1:9/version). Start it*"]
    )
    result.stdout.no_fnmatch_line("*urllib/request.py*")


def test_an_html_page_at_version_counts_as_no_version(project):
    project.write(ONE)
    project.server.reply(faults.html(200), "/version")
    project.live().assert_outcomes(passed=1)


def test_cassettes_may_be_outside_of_the_project(project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "cassettes"
    project.write(ONE)
    project.record("-o", f"vllm_cassettes={folder}").assert_outcomes(passed=1)
    project.run("-o", f"vllm_cassettes={folder}").assert_outcomes(passed=1)
    project.write("def test_nothing(): pass")
    result = project.run("-o", f"vllm_cassettes={folder}")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"{folder}/*test_chat.yaml: remove it*"])


def test_a_test_outside_of_the_project_is_a_usage_error(project, tmp_path_factory):
    project.write(ONE)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "test_two.py"
    elsewhere.write_bytes((project.pytester.path / "tests/chat/test_one.py").read_bytes())
    result = project.run("-p", "vllm_adapters.testing.plugin", "-c", "tox.ini", str(elsewhere))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_two.py is outside of *, so it has no folder for cassettes.*"])


BY_VERSION = """
from vllm_adapters import errors

def fail(error):
    if error is not None:
        raise error

@pytest.mark.vllm
class TestVersions:
    @pytest.mark.vllm_since("0.29", before=AssertionError, match="the old text")
    @pytest.mark.parametrize("error", {errors})
    def test_since(self, vllm_url, vllm_version, error):
        assert ask(vllm_url).model and str(vllm_version) == "{version}"
        fail(error)

    @pytest.mark.not_enforced_before("0.30", match="kept apart")
    @pytest.mark.parametrize("error", {errors})
    def test_enforced(self, vllm_url, error):
        assert ask(vllm_url).model
        fail(error)

    @pytest.mark.vllm_since("0.20", reason="has no such endpoint")
    async def test_skipped(self, vllm_url):
        assert ask(vllm_url).model
"""
ENDS = (
    '[None, AssertionError("the old text"), AssertionError("kept apart"), AssertionError("x"), '
    'errors.ConstraintNotEnforced("no"), errors.ServerFailed("no")]'
)


@pytest.mark.parametrize(
    ("version", "since", "enforced", "skipped"),
    [("0.14.1", [1], [0, 2, 4], 1), ("0.29.0", [0], [0, 2, 4], 0), ("0.30.0", [0], [0], 0)],
)
def test_older_version_ends_a_test_as_its_marker_says(project, make_fault_server, version, since, enforced, skipped):
    project.server = make_fault_server(version=version)
    project.write(BY_VERSION.replace("{errors}", ENDS).replace("{version}", version))
    result = project.record("-rp")
    passed = len(since) + len(enforced)
    result.assert_outcomes(passed=passed + 1 - skipped, failed=12 - passed, skipped=skipped)
    result.stdout.fnmatch_lines_random([f"PASSED *::test_since?error{i}?" for i in since if i])
    result.stdout.fnmatch_lines_random([f"PASSED *::test_enforced?error{i}?" for i in enforced if i])
    if skipped:
        text = result.stdout.str()
        assert "The test passed on vLLM 0.14.1, although before 0.29 it must end with AssertionError" in text
        assert "must end with ConstraintNotEnforced or InvalidResponse or TruncatedOutput" in text
    # The cassette tells the version when it is replayed.
    project.run("-k", "test_enforced and error4").assert_outcomes(**{"passed" if 4 in enforced else "failed": 1})


def test_marker_that_does_not_say_what_happens_before_is_refused(project, make_fault_server):
    project.server = make_fault_server(version="0.14.1")
    project.write(
        """
@pytest.mark.vllm
@pytest.mark.vllm_since("0.29")
def test_since(vllm_url):
    ask(vllm_url)
"""
    )
    result = project.live()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*must state what happens before. Pass before= or reason=.*"])
