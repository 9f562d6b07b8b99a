"""Which vLLM is it, and what does it serve?"""

from __future__ import annotations

from vllm_adapters import errors
from vllm_adapters._request import availability
from vllm_adapters.doctor.model import Check, Finding, absent, unclear, untried, works
from vllm_adapters.doctor.probe import CHAT, GONE, Visit, json_of
from vllm_adapters.types import Capabilities


def _version(visit: Visit) -> Finding:
    if visit.version is None:
        told = f"it says {visit.shown(visit.told_version)}" if visit.told_version else "/version does not answer"
        return unclear(
            f"{told}: there may be a gateway before it",
            "Give server_version= to the clients: without it they take the server for the newest",
        )
    newest = availability.newest()
    if visit.version > newest:
        return works(f"{visit.version}, newer than {newest}, the newest this package knows")
    return works(str(visit.version))


def _models(visit: Visit) -> Finding:
    adapters = [card.id for card in visit.cards if card.parent]
    context = f", context of {visit.context} tokens" if visit.context else ""
    others = f"; asked here: {visit.model}" if len(visit.cards) > 1 else ""
    return works(f"{_names(visit)}{context}{others}", max_model_len=visit.context, adapters=adapters)


def _names(visit: Visit) -> str:
    return ", ".join(f"{card.id} (LoRA of {card.parent})" if card.parent else card.id for card in visit.cards)


def _endpoints(visit: Visit) -> Finding:
    try:
        answer = json_of(visit.get("/openapi.json"))
    except GONE:
        raise
    except errors.VLLMError as error:
        return untried(f"it does not list its routes (HTTP {error.status_code}): --disable-fastapi-docs, or a gateway")
    listed = isinstance(answer, dict) and isinstance(answer.get("paths"), dict)
    visit.document = answer if listed else {}
    if not visit.paths:
        return untried("what it says at /openapi.json lists no routes")
    tasks = sorted(Capabilities.of(visit.told_version or "", visit.cards, dict.fromkeys(visit.paths)).tasks)
    if visit.older_than("0.16.0"):
        return works(f"{len(visit.paths)} routes; before 0.16.0 they are mounted whatever the model can do")
    return works(f"{', '.join(tasks) or 'no known task'} ({len(visit.paths)} routes)", tasks=tasks)


def _lora(visit: Visit) -> Finding:
    adapters = [card.id for card in visit.cards if card.parent]
    if not adapters and "/v1/load_lora_adapter" in visit.paths:
        return works("no adapter is served, but they can be loaded while it runs")
    if not adapters:
        return absent("no adapter is served")
    visit.server.client.chat.completions.create(
        model=adapters[0], messages=[{"role": "user", "content": "Hello"}], max_tokens=1, temperature=0
    )
    return works(f"{adapters[0]} answers")


CHECKS = (
    Check("version", "server", "Which vLLM is it?", _version),
    Check("models", "server", "What does it serve?", _models),
    Check("endpoints", "server", "Which tasks has it mounted?", _endpoints),
    Check("lora", "server", "Do LoRA adapters answer under their own names?", _lora, CHAT),
)
