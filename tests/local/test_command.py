import argparse
import os
import signal
import threading
import time

import pytest

from vllm_adapters._cli.serve import add_serve_parser, run_serve
from vllm_adapters.errors import LocalVLLMError


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_serve_parser(parser.add_subparsers())
    return parser.parse_args(["serve", *arguments])


def test_defaults():
    args = parse()
    assert (args.model, args.port, args.api_key_env, args.vllm_flags) == ("tiny", None, None, [])


def test_what_follows_two_dashes_is_for_vllm():
    args = parse("minilm", "--port", "8101", "--", "--max-num-seqs", "4")
    assert (args.model, args.port, args.vllm_flags) == ("minilm", 8101, ["--max-num-seqs", "4"])


def test_help_lists_the_models(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("tiny", "eye", "smollm2", "minilm", "cross-encoder", "classifier"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_it_is_told_to_stop(fake_environment, capsys, number):
    def stop():
        while "export VLLM_BASE_URL" not in (shown := shown_so_far()):
            time.sleep(0.1)
        os.kill(os.getpid(), number)
        return shown

    seen = []

    def shown_so_far():
        seen.append(capsys.readouterr().out)
        return "".join(seen)

    thread = threading.Thread(target=stop)
    thread.start()
    assert run_serve(parse("tiny", "--quiet")) == 0
    thread.join()
    shown = "".join(seen)
    assert "base_url: http://127.0.0.1:" in shown
    assert "export VLLM_BASE_URL=http://127.0.0.1:" in shown
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_key_is_read_from_the_variable_that_was_named(monkeypatch, capsys):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    assert run_serve(parse("--api-key-env", "NO_SUCH_KEY")) == 2
    assert "names a variable that is not set" in capsys.readouterr().err


def test_lora_with_another_model_is_a_wrong_argument(capsys):
    assert run_serve(parse("minilm", "--lora")) == 2
    assert "tiny" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_a_port_that_cannot_be_is_a_wrong_argument(capsys, port):
    assert run_serve(parse("--port", port)) == 2
    assert "ports are 1 to 65535" in capsys.readouterr().err


def test_a_server_that_dies_is_an_error(fake_environment):
    with pytest.raises(LocalVLLMError, match="engine core did not start"):
        run_serve(parse("--quiet", "--", "--die"))
