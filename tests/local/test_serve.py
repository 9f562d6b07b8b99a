"""The command ``vllm-adapters serve``, with a fake server."""

import argparse
import os
import signal
import threading
import time

import pytest

from vllm_adapters._cli.serve import add_serve_parser, run_serve
from vllm_adapters.errors import LocalVLLMError
from vllm_adapters.local import server


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_serve_parser(parser.add_subparsers())
    return parser.parse_args(["serve", *arguments])


def test_defaults():
    args = parse()
    assert (args.model, args.port, args.api_key_env, args.vllm_flags) == ("tiny", None, None, [])


def test_arguments_after_two_dashes_are_for_vllm():
    args = parse("minilm", "--port", "8101", "--", "--max-num-seqs", "4")
    assert (args.model, args.port, args.vllm_flags) == ("minilm", 8101, ["--max-num-seqs", "4"])


def test_help_lists_the_models(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    output = capsys.readouterr().out
    assert all(name in output for name in ("tiny", "eye", "smollm2", "minilm", "cross-encoder", "classifier", "ear"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_a_signal(fake_environment, capsys, number):
    outputs = []

    def read_output():
        outputs.append(capsys.readouterr().out)
        return "".join(outputs)

    def stop():
        while "export VLLM_BASE_URL" not in read_output():
            time.sleep(0.1)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    assert run_serve(parse("tiny", "--quiet")) == 0
    thread.join()
    output = read_output()
    assert "base_url: http://127.0.0.1:" in output
    assert "export VLLM_BASE_URL=http://127.0.0.1:" in output
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_install_starts_no_server(fake_environment, monkeypatch):
    installed = []
    monkeypatch.setattr(server, "prepare_model", lambda model, *rest: installed.append(model.name))
    monkeypatch.setattr(server.LocalVLLM, "_launch", lambda *_: pytest.fail("a server was started"))
    assert run_serve(parse("minilm", "--install", "--quiet")) == 0
    assert installed == ["minilm"]


def test_unset_key_variable_is_a_usage_error(monkeypatch, capsys):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    assert run_serve(parse("--api-key-env", "NO_SUCH_KEY")) == 2
    assert "names a variable that is not set" in capsys.readouterr().err


def test_lora_with_another_model_is_a_usage_error(capsys):
    assert run_serve(parse("minilm", "--lora")) == 2
    assert "tiny" in capsys.readouterr().err


def test_unknown_model_is_a_usage_error(capsys):
    assert run_serve(parse("nope")) == 2
    printed = capsys.readouterr().err
    assert "'nope' is neither a bundled model (tiny, " in printed
    assert "Qwen/Qwen3-8B" in printed


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_invalid_port_is_a_usage_error(capsys, port):
    assert run_serve(parse("--port", port)) == 2
    assert "`port` must be 1 to 65535" in capsys.readouterr().err


def test_crash_of_the_server_raises(fake_environment):
    with pytest.raises(LocalVLLMError, match="engine core did not start"):
        run_serve(parse("--quiet", "--", "--die"))
