"""``VLLMRerank``: LlamaIndex's reranker for vLLM."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher
from pydantic import Field

from vllm_adapters._request.body import set_fields
from vllm_adapters.llamaindex._connection import Connection
from vllm_adapters.params import RerankParams
from vllm_adapters.types import Ranked

dispatcher = get_dispatcher(__name__)

log = logging.getLogger(__name__)


class VLLMRerank(RerankParams, Connection, BaseNodePostprocessor):
    """Sorts retrieved nodes by their relevance to the query, as a reranker model scores it.

    >>> from llama_index.core.schema import NodeWithScore, TextNode
    >>> from vllm_adapters.llamaindex import VLLMRerank
    >>> rerank = VLLMRerank(api_base="http://localhost:8000", top_n=1)  # vllm serve an embedding model or a reranker
    >>> texts = ["The Eiffel Tower is in Paris.", "Sourdough bread needs flour, water and salt."]
    >>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
    >>> rerank.postprocess_nodes(nodes, query_str="How is bread baked?")[0].text
    'Sourdough bread needs flour, water and salt.'

    Pass any parameter of vLLM flat, under vLLM's own name, such as ``truncate_prompt_tokens=-1`` for nodes that are
    longer than the model's context, or ``instruction``. The nodes passed in are not changed.

    Nodes without text, such as images, have nothing to be ranked by and are left out, with a warning.

    Args:
        model: Served model name; default: the one base model that is served.
        api_base: The server, as for ``VLLMClient``; also as ``base_url``. ``OPENAI_*`` is never read.
        fields: The fields of the class: connection, ``top_n`` and vLLM's other parameters.

    Raises:
        UnknownParameter: A ``TypeError``: there is no such argument.
        ValueError: From calls: there is no query.
        VLLMError: From calls, on every failure; it is also the openai error that is usual for it.
    """

    _endpoint: ClassVar[str] = "rerank"

    model: str = Field(default="", description="Served model name; default: the one base model that is served.")
    top_n: int | None = Field(default=None, ge=1, description="How many nodes to return; default: all.")
    keep_retrieval_score: bool = Field(
        default=False, description='Keep the retriever\'s score as `metadata["retrieval_score"]`.'
    )
    extra_body: dict[str, Any] = Field(default_factory=dict, description="Further fields of every request.")
    metadata_mode: MetadataMode = Field(
        default=MetadataMode.EMBED, description="Which metadata of a node to send with its text."
    )

    if not TYPE_CHECKING:  # type checkers derive it from the fields

        def __init__(self, model: str = "", **fields: Any) -> None:
            self._reject_arguments(fields)
            super().__init__(model=model, **fields)
            self._connect()

    @classmethod
    def class_name(cls) -> str:
        """``"VLLMRerank"``, for serialization."""
        return "VLLMRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, nodes, texts = _query(query_bundle), *self._with_text(nodes)
        if not nodes:
            return []
        if not self._served.model_name:
            self._served.client.vllm.served_model()
        with self._events(nodes, query) as best:
            best += self._sort(nodes, self._served.rerank(query.query_str, texts, **self._parameters))
        return best

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, nodes, texts = _query(query_bundle), *self._with_text(nodes)
        if not nodes:
            return []
        if not self._served.model_name:
            await self._served.async_client.vllm.served_model()
        with self._events(nodes, query) as best:
            best += self._sort(nodes, await self._served.arerank(query.query_str, texts, **self._parameters))
        return best

    @property
    def _parameters(self) -> dict[str, Any]:
        return {**set_fields(self, RerankParams), **self.extra_body}

    @contextmanager
    def _events(self, nodes: list[NodeWithScore], query: QueryBundle) -> Iterator[list[NodeWithScore]]:
        """Emit LlamaIndex's events around the block, which gets a list to fill with the best nodes."""
        best: list[NodeWithScore] = []
        top_n, model = self.top_n or len(nodes), self._served.model_name
        dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=model))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield best
            event.on_end(payload={EventPayload.NODES: best})
        dispatcher.event(ReRankEndEvent(nodes=best))

    def _with_text(self, nodes: Sequence[NodeWithScore]) -> tuple[list[NodeWithScore], list[str]]:
        """Return the nodes that have text, and their texts. A model would rank an empty text anywhere."""
        found = [(node, node.node.get_content(metadata_mode=self.metadata_mode)) for node in nodes]
        ranked = [(node, text) for node, text in found if text.strip()]
        if len(ranked) < len(found):
            log.warning("%d of %d nodes have no text, and are left out", len(found) - len(ranked), len(found))
        return [node for node, _ in ranked], [text for _, text in ranked]

    def _sort(self, nodes: Sequence[NodeWithScore], ranked: Sequence[Ranked]) -> list[NodeWithScore]:
        """Return copies of the ranked nodes, best first, with their new scores."""
        best = []
        for rank in ranked:
            retrieved = nodes[rank.index]
            node = retrieved.node
            if self.keep_retrieval_score:
                node = node.model_copy(update={"metadata": {**node.metadata, "retrieval_score": retrieved.score}})
            best.append(NodeWithScore(node=node, score=rank.score))
        return best


def _query(query: QueryBundle | None) -> QueryBundle:
    if query is None:
        raise ValueError("The query is missing. Pass query_bundle or query_str.")
    return query
