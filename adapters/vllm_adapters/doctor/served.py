"""Is it there, is it a vLLM, does it take our key, and what does it serve?"""

from __future__ import annotations

import json
from typing import Any

from vllm_adapters import errors, params_table
from vllm_adapters.doctor.findings import Check, Finding, Hopeless, Verdict, unclear, untried, works
from vllm_adapters.doctor.visit import Visit, shown
from vllm_adapters.replies import Capabilities, ModelCard


def _reachable(visit: Visit) -> Finding:
    try:
        answer = _json(visit.get("/version").text)
    except (errors.ServerUnreachable, errors.ServerTimeout) as error:
        raise Hopeless(f"nothing answers: {error}") from error
    except errors.ServerNotReady as error:
        raise Hopeless("it answers 503: it may still be loading the model", "Try again in a minute") from error
    except errors.VLLMError as error:
        return works(f"it answers (HTTP {error.status_code} on /version)")
    told = answer.get("version") if isinstance(answer, dict) else None
    visit.told_version = str(told) if told else None
    return works("it answers")


def _vllm(visit: Visit) -> Finding:
    try:
        body = visit.get("/v1/models").text
    except errors.AuthenticationFailed as error:
        what = f"vLLM {visit.told_version}" if visit.version else "the server"
        raise Hopeless(
            f"{what} refuses the API key" if visit.key else f"{what} asks for an API key, and none was given",
            "Set VLLM_API_KEY, or name the variable that holds the key with --api-key-env NAME",
        ) from error
    except errors.ServerNotReady as error:
        raise Hopeless("it answers 503: it may still be loading the model", "Try again in a minute") from error
    except errors.VLLMError as error:
        raise Hopeless(f"this is not a vLLM: /v1/models answers HTTP {error.status_code}") from error
    answer = _json(body)
    cards = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(cards, list) or not all(isinstance(card, dict) and "id" in card for card in cards):
        raise Hopeless(f"this is not a vLLM: /v1/models answers {shown(body)}")
    if not cards:
        raise Hopeless("it serves no model")
    if not any(card.get("owned_by") == "vllm" for card in cards):
        owners = ", ".join(sorted({str(card.get("owned_by")) for card in cards}))
        raise Hopeless(
            f"this speaks OpenAI's API, but nothing in it says vLLM (its models are owned by {owners})",
            "Give the address of the vLLM itself, not of a gateway before it",
        )
    visit.cards = [ModelCard(str(c["id"]), c.get("max_model_len"), c.get("root"), c.get("parent")) for c in cards]
    if visit.server.model and visit.server.model not in {card.id for card in visit.cards}:
        raise Hopeless(f"it does not serve {shown(visit.server.model)}", f"It serves {_names(visit)}")
    return works("its models are vLLM's")


def _version(visit: Visit) -> Finding:
    if visit.version is None:
        told = f"it says {shown(visit.told_version)}" if visit.told_version else "/version does not answer"
        return unclear(
            f"{told}: there may be a gateway before it",
            "Give server_version= to the clients: without it they take the server for the newest",
        )
    newest = params_table.newest()
    if visit.version > newest:
        return works(f"{visit.version}, newer than {newest}, the newest this package knows")
    return works(str(visit.version))


def _models(visit: Visit) -> Finding:
    length = next((card.max_model_len for card in visit.cards if card.id == visit.model), None)
    adapters = [card.id for card in visit.cards if card.parent]
    context = f", context of {length} tokens" if length else ""
    others = f"; asked here: {visit.model}" if len(visit.cards) > 1 else ""
    return works(f"{_names(visit)}{context}{others}", max_model_len=length, adapters=adapters)


def _names(visit: Visit) -> str:
    return ", ".join(f"{card.id} (LoRA of {card.parent})" if card.parent else card.id for card in visit.cards)


def _endpoints(visit: Visit) -> Finding:
    try:
        answer = _json(visit.get("/openapi.json").text)
    except errors.VLLMError as error:
        return untried(f"it does not list its routes (HTTP {error.status_code}): --disable-fastapi-docs, or a gateway")
    visit.document = answer if isinstance(answer, dict) else {}
    if not visit.paths:
        return untried("what it says at /openapi.json lists no routes")
    tasks = sorted(Capabilities.of(visit.told_version or "", visit.cards, dict.fromkeys(visit.paths)).tasks)
    if visit.older_than("0.16.0"):
        return works(f"{len(visit.paths)} routes; before 0.16.0 they are mounted whatever the model can do")
    return works(f"{', '.join(tasks) or 'no known task'} ({len(visit.paths)} routes)", tasks=tasks)


def _lora(visit: Visit) -> Finding:
    adapters = [card.id for card in visit.cards if card.parent]
    if not adapters:
        return Finding(Verdict.ABSENT, "no adapter is served")
    reply = visit.server.client.chat.completions.create(
        model=adapters[0], messages=[{"role": "user", "content": "Hello"}], max_tokens=1, temperature=0
    )
    return works(f"{adapters[0]} answers" if reply.choices else "")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


CHECKS = (
    Check("reachable", "server", "Does anything answer at this address?", _reachable),
    Check("vllm", "server", "Is it a vLLM, and does it take our key?", _vllm),
    Check("version", "server", "Which vLLM is it?", _version),
    Check("models", "server", "What does it serve?", _models),
    Check("endpoints", "server", "Which tasks has it mounted?", _endpoints),
    Check("lora", "server", "Do LoRA adapters answer under their own names?", _lora, "/v1/chat/completions"),
)
