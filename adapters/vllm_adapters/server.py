"""``VLLMServer``: where a server is, what it serves, and vLLM's own endpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from vllm_adapters import params, replies
from vllm_adapters._optional import require
from vllm_adapters.asking import Ask, in_async, in_sync
from vllm_adapters.dialect import checked
from vllm_adapters.errors import InvalidRequest
from vllm_adapters.reachable import Reachable
from vllm_adapters.replies import Capabilities, Classified, ModelCard, Ranked, Tokens

if TYPE_CHECKING:
    import numpy as np
    from prometheus_client import Metric


Messages = Sequence[Mapping[str, Any]]


class VLLMServer(Reachable):
    """One vLLM server: what it serves, and the endpoints that OpenAI's API does not have.

    >>> from vllm_adapters import VLLMServer
    >>> server = VLLMServer("http://localhost:8000")  # vllm serve MODEL
    >>> server.version
    '0.32.0'
    >>> server.count_tokens("What is the capital of France?") > 0
    True

    Every method has a twin with ``a`` before its name, to ``await``. Parameters beyond those listed are vLLM's
    own, by their own names (``truncate_prompt_tokens``, ``use_activation``, ``priority``, ...).

    Args:
        base_url: As for ``VLLMClient``; default ``VLLM_BASE_URL``, else ``http://localhost:8000/v1``.
        api_key: As for ``VLLMClient``; default ``VLLM_API_KEY``.
        model: Served model name for every request; default: the one base model that is served.
        async_http_client: As ``http_client`` of ``VLLMClient``, for coroutines.
        options: Further arguments of ``VLLMClient``, such as ``timeout`` and ``max_retries``.

    Raises:
        VLLMError: Every method raises the errors of ``vllm_adapters.errors``; the constructor sends nothing.
    """

    def _body(
        self, endpoint: str, model: type[BaseModel], fields: Mapping[str, Any], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        named = {"model": self.model} if self.model else {}
        return {**named, **fields, **checked(model, given, endpoint=endpoint)}

    # What it serves

    def _models(self, /) -> Ask[list[ModelCard]]:
        """The served models: base models, their aliases and LoRA adapters."""
        return Ask("/models", replies.read_models)

    models, amodels = in_sync(_models), in_async(_models)

    def _read_version(self, /) -> Ask[str]:
        """The server's vLLM version, such as ``"0.32.0"``."""
        return Ask(self.at_root("/version"), lambda reply, call, response: str(reply["version"]))

    aversion = in_async(_read_version)

    @cached_property
    def version(self) -> str:
        """The server's vLLM version, such as ``"0.32.0"``; asked once."""
        return self._read_version().send(self.client)

    def _routes(self, /) -> Ask[dict[str, Any]]:
        return Ask(self.at_root("/openapi.json"), lambda reply, call, response: dict(reply.get("paths") or {}))

    def capabilities(self) -> Capabilities:
        """What the server can do: version, models, context length, tasks and routes.

        Tasks are read from the routes it has mounted, which tells the truth from 0.16.0 on; older servers
        mount every route, whatever their model can do.
        """
        return Capabilities.of(self.version, self.models(), self._routes().send(self.client))

    async def acapabilities(self) -> Capabilities:
        """``capabilities``, to await."""
        return Capabilities.of(
            await self.aversion(), await self.amodels(), await self._routes().asend(self.async_client)
        )

    # Tokens

    def _tokenize(
        self,
        /,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **parameters: Any,
    ) -> Ask[Tokens]:
        """The model's own tokens of a prompt, or of messages as its chat template renders them.

        Args:
            prompt: Text; either this or ``messages``.
            messages: Chat messages as for chat completions.
            tools: Tools whose descriptions the template renders with ``messages``.
            parameters: Such as ``add_special_tokens``, ``return_token_strs``, ``chat_template_kwargs``.
        """
        if (prompt is None) == (messages is None):
            raise InvalidRequest("Give either a prompt or messages", address=self.base_url, param="prompt")
        fields: dict[str, Any] = {"prompt": prompt} if messages is None else {"messages": list(messages)}
        if tools:
            fields["tools"] = list(tools)
        body = self._body("tokenize", params.TokenizeParams, fields, parameters)
        return Ask(self.at_root("/tokenize"), replies.read_tokens, body)

    tokenize, atokenize = in_sync(_tokenize), in_async(_tokenize)

    def _count_tokens(self, /, prompt: str | None = None, **given: Any) -> Ask[int]:
        """How many tokens a prompt or messages take; arguments are those of ``tokenize``."""
        ask = self._tokenize(prompt, **given)
        return Ask(ask.path, lambda *reply: ask.read(*reply).count, ask.body)

    count_tokens, acount_tokens = in_sync(_count_tokens), in_async(_count_tokens)

    def _detokenize(self, /, ids: Sequence[int]) -> Ask[str]:
        """The text of token ids. vLLM gives nothing for ids that are not in the vocabulary."""
        body = {**({"model": self.model} if self.model else {}), "tokens": list(ids)}
        return Ask(self.at_root("/detokenize"), lambda reply, call, response: str(reply["prompt"]), body)

    detokenize, adetokenize = in_sync(_detokenize), in_async(_detokenize)

    # Vectors and scores

    def _embed(
        self,
        /,
        texts: str | Sequence[str] | Sequence[Sequence[int]],
        *,
        dimensions: int | None = None,
        **parameters: Any,
    ) -> Ask[np.ndarray[Any, Any]]:
        """Embeddings of texts (or of lists of the model's own token ids), in one request.

        Args:
            texts: One text or many.
            dimensions: Dimensions of a Matryoshka model's shortened vectors.
            parameters: Such as ``truncate_prompt_tokens`` (-1: to what the model can take).

        Returns:
            float32 array of shape (number of texts, dimensions), in the order of ``texts``.

        Raises:
            InvalidResponse: Not one vector per text, different dimensions, NaN or infinity.
        """
        inputs = [texts] if isinstance(texts, str) else list(texts)
        for name in ("embed_dtype", "endianness", "encoding_format"):
            if parameters.get(name) is not None:
                raise InvalidRequest(
                    f"`{name}` is embed()'s own choice: base64 of float32",
                    hint="client.embeddings.create() takes it",
                    address=self.base_url,
                    param=name,
                )
        fields: dict[str, Any] = {"input": inputs, "encoding_format": "base64"}
        if dimensions is not None:
            fields["dimensions"] = dimensions
        body = self._body("embeddings", params.EmbeddingParams, fields, parameters)
        return Ask("/embeddings", replies.vectors_reader(len(inputs), dimensions), body)

    embed, aembed = in_sync(_embed), in_async(_embed)

    def _pooling(
        self, /, texts: str | Sequence[str], *, task: str | None = None, **parameters: Any
    ) -> Ask[list[np.ndarray[Any, Any]]]:
        """The pooler's output for each text: a vector, or for token tasks one vector per token.

        Args:
            texts: One text or many.
            task: Such as ``"embed"`` or ``"token_embed"``; what there is depends on the model.
            parameters: vLLM's own.

        Returns:
            One float array per text, of shape (dimensions,) or (tokens, dimensions).
        """
        inputs = [texts] if isinstance(texts, str) else list(texts)
        body = self._body("pooling", params.PoolingParams, {"input": inputs}, {"task": task, **parameters})
        return Ask(self.at_root("/pooling"), replies.pooled_reader(len(inputs)), body)

    pooling, apooling = in_sync(_pooling), in_async(_pooling)

    def _classify(self, /, texts: str | Sequence[str], **parameters: Any) -> Ask[list[Classified]]:
        """Label and probabilities of each text, from a classification model."""
        inputs = [texts] if isinstance(texts, str) else list(texts)
        body = self._body("classify", params.ClassifyParams, {"input": inputs}, parameters)
        return Ask(self.at_root("/classify"), replies.classes_reader(len(inputs)), body)

    classify, aclassify = in_sync(_classify), in_async(_classify)

    def _score(
        self, /, text_1: str | Sequence[str], text_2: str | Sequence[str], **parameters: Any
    ) -> Ask[list[float]]:
        """How well texts go together, from a cross-encoder, or as cosine from an embedding model.

        Args:
            text_1: One text, compared with each of ``text_2``; or as many texts as ``text_2`` has.
            text_2: One text or many.
            parameters: vLLM's own.

        Returns:
            One score per pair, in order.
        """
        left = 1 if isinstance(text_1, str) else len(text_1)
        right = 1 if isinstance(text_2, str) else len(text_2)
        fields = {
            # Of the four forms of this request, this is the one that every version has.
            "text_1": text_1 if isinstance(text_1, str) else list(text_1),
            "text_2": text_2 if isinstance(text_2, str) else list(text_2),
        }
        body = self._body("score", params.ScoreParams, fields, parameters)
        return Ask("/score", replies.scores_reader(max(left, right)), body)

    score, ascore = in_sync(_score), in_async(_score)

    def _rerank(
        self, /, query: str, documents: Sequence[str], *, top_n: int | None = None, **parameters: Any
    ) -> Ask[list[Ranked]]:
        """Documents by their relevance to a query, best first.

        Args:
            query: What is looked for.
            documents: At least one text.
            top_n: How many to return; default all.
            parameters: vLLM's own, such as ``truncate_prompt_tokens`` or ``instruction``.

        Raises:
            InvalidResponse: Too few results, an index twice or out of range, NaN or infinity.
        """
        fields: dict[str, Any] = {"query": query, "documents": list(documents)}
        if top_n is not None:
            fields["top_n"] = top_n
        body = self._body("rerank", params.RerankParams, fields, parameters)
        return Ask("/rerank", replies.ranking_reader(list(documents), top_n), body)

    rerank, arerank = in_sync(_rerank), in_async(_rerank)

    # LoRA adapters and metrics

    def _load_lora(self, /, name: str, path: str, *, load_inplace: bool | None = None) -> Ask[str]:
        """Load a LoRA adapter from a path on the server; it is then served as the model ``name``.

        Needs ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve ... --enable-lora``.

        Args:
            name: The model name to serve it as.
            path: Directory on the server's machine, or a hub name.
            load_inplace: Replace an adapter of that name (0.15.0 and newer).
        """
        body = {"lora_name": name, "lora_path": path}
        extra = {} if load_inplace is None else {"load_inplace": load_inplace}
        return Ask("/load_lora_adapter", replies.read_text, {**body, **extra}, str)

    load_lora, aload_lora = in_sync(_load_lora), in_async(_load_lora)

    def _unload_lora(self, /, name: str) -> Ask[str]:
        """Stop serving a LoRA adapter. Needs what ``load_lora`` needs."""
        return Ask("/unload_lora_adapter", replies.read_text, {"lora_name": name}, str)

    unload_lora, aunload_lora = in_sync(_unload_lora), in_async(_unload_lora)

    def _metrics(self, /) -> Ask[list[Metric]]:
        """The server's Prometheus metrics, parsed. Needs ``pip install 'vllm-adapters[metrics]'``."""
        parser = require("prometheus_client.parser", "metrics")
        return Ask(
            self.at_root("/metrics"),
            lambda reply, call, response: list(parser.text_string_to_metric_families(reply)),
            cast_to=str,
        )

    metrics, ametrics = in_sync(_metrics), in_async(_metrics)
