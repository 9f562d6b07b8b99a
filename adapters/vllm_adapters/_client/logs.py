"""Log lines of requests: address, sizes, times, retries and request ids, no credentials and no texts."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from vllm_adapters._compat import http
from vllm_adapters._response.stream import SENT_AT, describe

log = logging.getLogger(__name__)

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO}


def set_up() -> None:
    """Print what ``VLLM_ADAPTERS_LOG`` asks for: ``debug`` or ``info``; the SDK's ``OPENAI_LOG`` does as well."""
    level = _LEVELS.get((os.environ.get("VLLM_ADAPTERS_LOG") or os.environ.get("OPENAI_LOG") or "").strip().lower())
    if level is not None:
        logging.basicConfig(format="[%(asctime)s - %(name)s - %(levelname)s] %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
        logging.getLogger("vllm_adapters").setLevel(level)


def log_sending(request: http.Request) -> None:
    """Log a request that is about to be sent."""
    log.debug("%s: sending %s bytes", describe(request), request.headers.get("content-length", "0"))
    request.extensions[SENT_AT] = time.monotonic()


def log_response(response: http.Response, *, stream: bool) -> None:
    """Log a response, or the beginning of one that is streamed."""
    received = "a stream begins" if stream else f"{response.num_bytes_downloaded} bytes"
    log.debug("%s: HTTP %d, %s", describe(response.request, response), response.status_code, received)


def log_retry(url: str, reason: str, wait: float) -> None:
    """Log that a request is sent again."""
    log.info("%s: %s, retrying in %.2f s", url.split("?")[0], reason, wait)


def log_failure(url: str, error: Any) -> None:
    """Log an error that a caller gets; its text may quote the request, and is left out."""
    status = error.status_code if error._has_exchange else None
    details = [f"HTTP {status}"] if status else []
    details += [f"request id {error.request_id}"] if error.request_id else []
    log.debug("%s: %s", url.split("?")[0], " ".join([type(error).__name__, *details]))
