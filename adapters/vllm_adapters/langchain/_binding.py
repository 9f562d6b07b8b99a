"""A bound ``ChatVLLM`` that forgets nothing: not on the next ``bind``, ``bind_tools`` or call.

LangChain's own binding forwards ``bind_tools`` and ``with_structured_output`` to the unbound model, which drops
what was bound, and replaces dicts instead of merging them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import _ChatModelBinding
from langchain_core.messages import AIMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable

from vllm_adapters._request.body import deep_merge

F = TypeVar("F", bound=Callable[..., Any])


def _merging(method: F) -> F:
    """A method that asks the model, with the dicts of the call merged into those that are bound."""

    @wraps(method)
    def ask(self: BoundChatVLLM, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **deep_merge(self.kwargs, kwargs))

    return cast(F, ask)


class BoundChatVLLM(_ChatModelBinding):
    """A ``ChatVLLM`` with parameters bound to it; made by ``ChatVLLM.bind``.

    >>> from vllm_adapters.langchain import ChatVLLM
    >>> llm = ChatVLLM(temperature=0).bind(stop=["."])  # vllm serve MODEL
    >>> llm.bind(top_k=1).invoke("What is the capital of France?").content
    'The capital of France is Paris'
    """

    def bind(self, **kwargs: Any) -> BoundChatVLLM:
        """Bind more; what is bound already stays, dicts merge deeply."""
        return cast(BoundChatVLLM, super().bind(**deep_merge(self.kwargs, kwargs)))

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """``ChatVLLM.bind_tools``, keeping what is bound."""
        return self._configured(self._model.bind_tools(tools, **deep_merge(_without(self.kwargs, "tools"), kwargs)))

    def with_structured_output(self, schema: Any = None, **kwargs: Any) -> Runnable[LanguageModelInput, Any]:
        """``ChatVLLM.with_structured_output``, keeping what is bound."""
        bound = _without(self.kwargs, "response_format", "ls_structured_output_format")
        return self._configured(self._model.with_structured_output(schema, **deep_merge(bound, kwargs)))

    def generate(self, messages: Any, stop: list[str] | None = None, *args: Any, **kwargs: Any) -> LLMResult:
        """``ChatVLLM.generate``, with what is bound."""
        given = deep_merge(self.kwargs, {"stop": stop} if stop else None, kwargs)
        return cast(LLMResult, self._model.generate(messages, given.pop("stop", None), *args, **given))

    async def agenerate(self, messages: Any, stop: list[str] | None = None, *args: Any, **kwargs: Any) -> LLMResult:
        """``generate``, to await."""
        given = deep_merge(self.kwargs, {"stop": stop} if stop else None, kwargs)
        return cast(LLMResult, await self._model.agenerate(messages, given.pop("stop", None), *args, **given))

    def get_num_tokens_from_messages(self, messages: Any, tools: Any = None, **parameters: Any) -> int:
        """``ChatVLLM.get_num_tokens_from_messages``, with the tools and parameters that are bound."""
        bound = _without(self.kwargs, "tools", "tool_choice", "ls_structured_output_format")
        offered = self.kwargs.get("tools") if tools is None else tools
        return int(self._model.get_num_tokens_from_messages(messages, offered, **deep_merge(bound, parameters)))

    @property
    def _model(self) -> Any:
        return self.bound

    def _configured(self, runnable: Runnable[Any, Any]) -> Runnable[Any, Any]:
        return runnable.with_config(self.config) if self.config else runnable

    invoke = _merging(_ChatModelBinding.invoke)
    ainvoke = _merging(_ChatModelBinding.ainvoke)
    batch = _merging(_ChatModelBinding.batch)
    abatch = _merging(_ChatModelBinding.abatch)
    batch_as_completed = _merging(_ChatModelBinding.batch_as_completed)
    abatch_as_completed = _merging(_ChatModelBinding.abatch_as_completed)
    stream = _merging(_ChatModelBinding.stream)
    astream = _merging(_ChatModelBinding.astream)
    stream_events = _merging(_ChatModelBinding.stream_events)
    astream_events = _merging(_ChatModelBinding.astream_events)
    transform = _merging(_ChatModelBinding.transform)  # what a chain's stream calls
    atransform = _merging(_ChatModelBinding.atransform)


def _without(kwargs: Any, *names: str) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in names}
