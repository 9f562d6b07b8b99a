"""Which vLLM version is it, and what does it serve?"""

from __future__ import annotations

from vllm_adapters import errors
from vllm_adapters._request import availability
from vllm_adapters.doctor.model import Check, Finding, skipped, unknown, unsupported, works
from vllm_adapters.doctor.probe import CHAT_ROUTE, CONNECTION_ERRORS, Probe, parse_json
from vllm_adapters.types import Capabilities

__all__ = ["CHECKS"]


def _version(probe: Probe) -> Finding:
    if probe.version is None:
        version = probe.reported_version
        problem = f"invalid version {probe.excerpt(version)}" if version else "no version on /version"
        return unknown(
            f"{problem}: there may be a gateway in front of it",
            "Pass server_version= to the clients. Without it they assume the newest version",
        )
    newest = availability.newest()
    if probe.version > newest:
        return works(f"{probe.version}, newer than {newest}, the newest version that this package knows")
    return works(str(probe.version))


def _models(probe: Probe) -> Finding:
    adapters = [card.id for card in probe.cards if card.parent]
    context = f", context length {probe.context_length} tokens" if probe.context_length else ""
    selected = f"; checked here: {probe.model}" if len(probe.cards) > 1 else ""
    return works(f"{_names(probe)}{context}{selected}", max_model_len=probe.context_length, adapters=adapters)


def _names(probe: Probe) -> str:
    return ", ".join(f"{card.id} (LoRA of {card.parent})" if card.parent else card.id for card in probe.cards)


def _endpoints(probe: Probe) -> Finding:
    try:
        answer = parse_json(probe.get("/openapi.json"))
    except CONNECTION_ERRORS:
        raise
    except errors.VLLMError as error:
        return skipped(f"no list of routes (HTTP {error.status_code}): --disable-fastapi-docs, or a gateway")
    valid = isinstance(answer, dict) and isinstance(answer.get("paths"), dict)
    probe.openapi = answer if valid else {}
    if not probe.routes:
        return skipped("/openapi.json lists no routes")
    tasks = sorted(
        Capabilities.from_responses(probe.reported_version or "", probe.cards, dict.fromkeys(probe.routes)).tasks
    )
    if probe.older_than("0.16.0"):
        return works(f"{len(probe.routes)} routes; before 0.16.0 all are mounted, whatever the model supports")
    return works(f"{', '.join(tasks) or 'no known task'} ({len(probe.routes)} routes)", tasks=tasks)


def _lora(probe: Probe) -> Finding:
    adapters = [card.id for card in probe.cards if card.parent]
    if not adapters and "/v1/load_lora_adapter" in probe.routes:
        return works("no adapter is served, but adapters can be loaded at run time")
    if not adapters:
        return unsupported("no adapter is served")
    probe.server.client.chat.completions.create(
        model=adapters[0], messages=[{"role": "user", "content": "Hello"}], max_tokens=1, temperature=0
    )
    return works(f"{adapters[0]} responds")


CHECKS = (
    Check("version", "server", "Which vLLM version is it?", _version),
    Check("models", "server", "Which models does it serve?", _models),
    Check("endpoints", "server", "Which tasks are mounted?", _endpoints),
    Check("lora", "server", "Do LoRA adapters respond under their own names?", _lora, CHAT_ROUTE),
)
