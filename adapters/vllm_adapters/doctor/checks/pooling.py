"""Embeddings, rerank, score, classify, pooling."""

from __future__ import annotations

from vllm_adapters.doctor.model import Check, Finding, works
from vllm_adapters.doctor.probe import Probe, count_of

__all__ = ["CHECKS"]

_QUERY = "Which city is the capital of Japan?"
_TEXTS = ("Bread is baked from flour.", "Tokyo is the capital city of Japan.")


def _embeddings(probe: Probe) -> Finding:
    count, dimensions = probe.server.embed(_TEXTS).shape
    return works(f"{count} vectors of {dimensions} dimensions", dimensions=dimensions)


def _rerank(probe: Probe) -> Finding:
    ranking = probe.server.rerank(_QUERY, _TEXTS)
    return works(f"best match {probe.excerpt(ranking[0].text)}, score {ranking[0].score:.3g}")


def _score(probe: Probe) -> Finding:
    return works(f"score {probe.server.score(_QUERY, _TEXTS[1])[0]:.3g}")


def _classify(probe: Probe) -> Finding:
    result = probe.server.classify(_TEXTS[0])[0]
    label = f"label {probe.excerpt(result.label)}" if result.label else "no label"
    return works(f"{count_of(len(result.probs), 'class', 'classes')}, {label}", classes=len(result.probs))


def _pooling(probe: Probe) -> Finding:
    return works(f"output of shape {probe.server.pooling(_TEXTS[0])[0].shape}")


CHECKS = (
    Check("embeddings", "pooling", "Does it embed texts?", _embeddings, "/v1/embeddings"),
    Check("rerank", "pooling", "Does it rank documents?", _rerank, "/v1/rerank"),
    Check("score", "pooling", "Does it score pairs of texts?", _score, "/v1/score"),
    Check("classify", "pooling", "Does it classify texts?", _classify, "/classify"),
    Check("pooling", "pooling", "Does it return the pooler's output?", _pooling, "/pooling"),
)
