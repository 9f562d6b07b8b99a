"""Models with parameters bound to them, which later bindings and calls keep."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable, RunnableBinding
from langchain_core.runnables.utils import Output

from vllm_adapters._request.body import deep_merge
from vllm_adapters.langchain._secrets import hide, without_secrets

if TYPE_CHECKING:
    from vllm_adapters.langchain.chat_models import ChatVLLM

F = TypeVar("F", bound=Callable[..., Any])


def _merging(method: F) -> F:
    """Return a method of ``RunnableBinding`` that merges the call's dicts into the bound ones."""

    @wraps(method)
    def call(self: BoundModel[Any], *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **deep_merge(self.kwargs, kwargs))

    return cast(F, call)


class BoundModel(RunnableBinding[LanguageModelInput, Output]):
    """A model with parameters bound to it, of which dicts are merged and credentials are not shown.

    LangChain's own binding replaces bound dicts instead of merging into them.
    """

    @classmethod
    def lc_id(cls) -> list[str]:
        """Return the name of LangChain's own class, under which bindings are stored."""
        return RunnableBinding.lc_id()

    def bind(self, **kwargs: Any) -> Self:
        """Bind more parameters; those already bound stay, and dicts merge deeply."""
        return cast(Self, super().bind(**deep_merge(self.kwargs, hide(kwargs))))

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        fields = state["__dict__"]
        return {**state, "__dict__": {**fields, "kwargs": without_secrets(fields["kwargs"])}}

    invoke = _merging(RunnableBinding.invoke)
    ainvoke = _merging(RunnableBinding.ainvoke)
    batch = _merging(RunnableBinding.batch)
    abatch = _merging(RunnableBinding.abatch)
    batch_as_completed = _merging(RunnableBinding.batch_as_completed)
    abatch_as_completed = _merging(RunnableBinding.abatch_as_completed)
    stream = _merging(RunnableBinding.stream)
    astream = _merging(RunnableBinding.astream)
    stream_events = _merging(RunnableBinding.stream_events)
    astream_events = _merging(RunnableBinding.astream_events)
    transform = _merging(RunnableBinding.transform)  # used by chains that stream
    atransform = _merging(RunnableBinding.atransform)


class BoundChatVLLM(BoundModel[AIMessage]):
    """A ``ChatVLLM`` with parameters bound to it; ``ChatVLLM.bind`` returns it.

    >>> from vllm_adapters.langchain import ChatVLLM
    >>> llm = ChatVLLM(temperature=0).bind(stop=["."])  # vllm serve MODEL
    >>> llm.bind(top_k=1).invoke("What is the capital of France?").content
    'The capital of France is Paris'

    LangChain's own binding forwards ``bind_tools`` and ``with_structured_output`` to the model without what is bound.
    """

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools as ``ChatVLLM.bind_tools`` does, and keep what is bound."""
        return self._with_own_config(self._llm.bind_tools(tools, **deep_merge(self._kwargs_without("tools"), kwargs)))

    def with_structured_output(self, schema: Any = None, **kwargs: Any) -> Runnable[LanguageModelInput, Any]:
        """Return ``ChatVLLM.with_structured_output`` with what is bound."""
        bound = self._kwargs_without("response_format", "ls_structured_output_format")
        return self._with_own_config(self._llm.with_structured_output(schema, **deep_merge(bound, kwargs)))

    def generate(self, messages: Any, stop: list[str] | None = None, *args: Any, **kwargs: Any) -> LLMResult:
        """Return ``ChatVLLM.generate`` with what is bound."""
        merged = deep_merge(self.kwargs, {"stop": stop} if stop else None, kwargs)
        return self._llm.generate(messages, merged.pop("stop", None), *args, **merged)

    async def agenerate(self, messages: Any, stop: list[str] | None = None, *args: Any, **kwargs: Any) -> LLMResult:
        """Async version of ``generate``."""
        merged = deep_merge(self.kwargs, {"stop": stop} if stop else None, kwargs)
        return await self._llm.agenerate(messages, merged.pop("stop", None), *args, **merged)

    def get_num_tokens_from_messages(self, messages: Any, tools: Any = None, **parameters: Any) -> int:
        """Return ``ChatVLLM.get_num_tokens_from_messages`` with the tools and parameters that are bound."""
        bound = self._kwargs_without("tools", "tool_choice", "ls_structured_output_format")
        tools = self.kwargs.get("tools") if tools is None else tools
        return self._llm.get_num_tokens_from_messages(messages, tools, **deep_merge(bound, parameters))

    @property
    def _llm(self) -> ChatVLLM:
        return cast("ChatVLLM", self.bound)

    def _kwargs_without(self, *names: str) -> dict[str, Any]:
        return {name: value for name, value in self.kwargs.items() if name not in names}

    def _with_own_config(self, runnable: Runnable[Any, Any]) -> Runnable[Any, Any]:
        return runnable.with_config(self.config) if self.config else runnable
