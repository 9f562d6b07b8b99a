"""Start the gateways as processes of their own, in front of given servers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vllm_adapters.local.ports import free_port

LIMIT = 4  # seconds of the gateway's own time limit, in front of the fault server
KEY = "sk-gateway"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Gateway:
    """A running gateway: its address in front of the chat model's replicas, the embedding model and the faults."""

    name: str
    chat: str
    embed: str
    faults: str


@contextmanager
def process(command: Sequence[object], url: str, log: Path, **environment: str) -> Iterator[None]:
    """Run a command until the block ends; wait until its ``url`` responds."""
    with log.open("wb") as out:
        running = subprocess.Popen(
            [str(part) for part in command], stdout=out, stderr=out, env={**os.environ, **environment}
        )
        try:
            end = time.monotonic() + 300
            while not responds(url):
                if running.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.3)
            yield
        finally:
            running.terminate()
            running.wait()


def responds(url: str) -> bool:
    """Return whether anything answers at ``url``."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextmanager
def router(replicas: Sequence[str], folder: Path, *flags: object, name: str = "router") -> Iterator[str]:
    """Run vllm-router in front of the replicas of one model; yield its address."""
    port = free_port()
    command = [
        BIN / "vllm-router",
        "--worker-urls",
        *replicas,
        "--port",
        port,
        "--prometheus-port",
        free_port(),
        *flags,
    ]
    url = f"http://127.0.0.1:{port}"
    with process(command, f"{url}/health", folder / f"{name}.log"):
        yield url


@contextmanager
def vllm_router(replicas: Sequence[str], embed: str, faults: str, folder: Path) -> Iterator[Gateway]:
    """Run three routers: each is for the replicas of one model."""
    with ExitStack() as stack:
        addresses = []
        for name, workers in (("chat", replicas), ("embed", [embed]), ("faults", [faults])):
            flags: list[object] = ["--policy", "consistent_hash"]
            if name == "faults":
                flags += ["--disable-circuit-breaker", "--disable-retries", "--request-timeout-secs", LIMIT]
            addresses.append(stack.enter_context(router(workers, folder, *flags, name=f"router-{name}")))
        yield Gateway("vllm-router", *addresses)


@contextmanager
def litellm(replicas: Sequence[str], embed: str, faults: str, folder: Path) -> Iterator[Gateway]:
    """Run LiteLLM's proxy, which has all models at one address."""
    deployments = [("tiny", url, None) for url in replicas] + [("minilm", embed, None), ("stub", faults, LIMIT)]
    models = [
        {
            "model_name": model,
            "litellm_params": {
                "model": f"hosted_vllm/{model}",
                "api_base": f"{url}/v1",
                "api_key": "none",
                **({"timeout": limit, "stream_timeout": limit} if limit else {}),
            },
        }
        for model, url, limit in deployments
    ]
    settings = {"num_retries": 0, "telemetry": False}
    router = {"disable_cooldowns": True, "num_retries": 0, "optional_pre_call_checks": ["session_affinity"]}
    config = {
        "model_list": models,
        "litellm_settings": settings,
        "router_settings": router,
        "general_settings": {"master_key": KEY},
    }
    file = folder / "litellm.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [BIN / "litellm", "--config", file, "--host", "127.0.0.1", "--port", port]
    local = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with process(command, f"{url}/health/liveliness", folder / "litellm.log", **local):
        yield Gateway("LiteLLM proxy", url, url, url)


@contextmanager
def nginx(replicas: Sequence[str], embed: str, faults: str, folder: Path) -> Iterator[Gateway]:
    """Run nginx with one address for the replicas of each model."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    ports = [free_port() for _ in range(3)]
    blocks = ""
    for name, port, servers in zip(("chat", "embed", "faults"), ports, (replicas, [embed], [faults]), strict=True):
        hosts = " ".join(f"server {url.removeprefix('http://')} max_fails=0;" for url in servers)
        limit = (
            f"proxy_read_timeout {LIMIT}s; proxy_next_upstream off;" if name == "faults" else "proxy_read_timeout 600s;"
        )
        blocks += f"""
        upstream {name} {{ hash $session consistent; {hosts} }}
        server {{
            listen 127.0.0.1:{port};
            location / {{ proxy_pass http://{name}; proxy_http_version 1.1; proxy_set_header Connection "";
                          proxy_buffering off; {limit} }}
        }}"""
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log; events {{}}\n"
        f"http {{ access_log off; client_max_body_size 64m; client_body_buffer_size 1m; {temporary}\n"
        f'map $http_x_session_id $session {{ default $http_x_session_id; "" $request_id; }}\n'
        f"{blocks} }}\n"
    )
    command = [binary, "-p", folder, "-e", folder / "nginx-error.log", "-c", file]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    with process(command, f"{urls[0]}/version", folder / "nginx.log"):
        yield Gateway("nginx", *urls)
