"""Embeddings, rerank, score, classify, pooling."""

from __future__ import annotations

from vllm_adapters.doctor.model import Check, Finding, works
from vllm_adapters.doctor.probe import Visit, counted

_QUERY = "Which city is the capital of Japan?"
_TEXTS = ("Bread is baked from flour.", "Tokyo is the capital city of Japan.")


def _embeddings(visit: Visit) -> Finding:
    count, dimensions = visit.server.embed(_TEXTS).shape
    return works(f"{count} vectors of {dimensions} dimensions", dimensions=dimensions)


def _rerank(visit: Visit) -> Finding:
    ranking = visit.server.rerank(_QUERY, _TEXTS)
    return works(f"first {visit.shown(ranking[0].text)}, {ranking[0].score:.3g}")


def _score(visit: Visit) -> Finding:
    return works(f"{visit.server.score(_QUERY, _TEXTS[1])[0]:.3g}")


def _classify(visit: Visit) -> Finding:
    found = visit.server.classify(_TEXTS[0])[0]
    return works(
        f"{counted(len(found.probs), 'class', 'classes')}, {visit.shown(found.label or 'without a name')}",
        classes=len(found.probs),
    )


def _pooling(visit: Visit) -> Finding:
    return works(f"an output of shape {visit.server.pooling(_TEXTS[0])[0].shape}")


CHECKS = (
    Check("embeddings", "pooling", "Does it embed texts?", _embeddings, "/v1/embeddings"),
    Check("rerank", "pooling", "Does it rank documents?", _rerank, "/v1/rerank"),
    Check("score", "pooling", "Does it score pairs of texts?", _score, "/v1/score"),
    Check("classify", "pooling", "Does it classify texts?", _classify, "/classify"),
    Check("pooling", "pooling", "Does it give the pooler's output?", _pooling, "/pooling"),
)
