"""Any number of chat completions: bounded concurrency, one error for each item, and resuming after a crash."""

from vllm_adapters.bulk.chat import BulkChat
from vllm_adapters.bulk.types import BulkProgress, BulkResult

__all__ = ["BulkChat", "BulkProgress", "BulkResult"]
