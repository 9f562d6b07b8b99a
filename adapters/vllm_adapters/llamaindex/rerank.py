"""``VLLMRerank``: LlamaIndex's reranker for vLLM."""

from __future__ import annotations

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
        with self._events(nodes, query_bundle) as (query, best):
            if nodes:
                ranked = self._served.rerank(query, self._texts(nodes), **set_fields(self, RerankParams))
                best += self._sort(nodes, ranked)
        return best

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        with self._events(nodes, query_bundle) as (query, best):
            if nodes:
                ranked = await self._served.arerank(query, self._texts(nodes), **set_fields(self, RerankParams))
                best += self._sort(nodes, ranked)
        return best

    @contextmanager
    def _events(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None
    ) -> Iterator[tuple[str, list[NodeWithScore]]]:
        """Emit LlamaIndex's events around the block, which gets the query and a list to fill with the best nodes."""
        if query_bundle is None:
            raise ValueError("The query is missing. Pass query_bundle or query_str.")
        best: list[NodeWithScore] = []
        if not nodes:
            yield query_bundle.query_str, best
            return
        top_n, model = self.top_n or len(nodes), self._served.model_name
        dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=top_n, model_name=model))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: query_bundle.query_str,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield query_bundle.query_str, best
            event.on_end(payload={EventPayload.NODES: best})
        dispatcher.event(ReRankEndEvent(nodes=best))

    def _texts(self, nodes: Sequence[NodeWithScore]) -> list[str]:
        return [node.node.get_content(metadata_mode=self.metadata_mode) for node in nodes]

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
