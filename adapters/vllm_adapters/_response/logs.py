"""Log lines of requests: address, sizes, times, retries and request ids, no credentials and no texts."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from vllm_adapters._compat import http

log = logging.getLogger(__name__)

_SENT_AT = "vllm_adapters.sent_at"
"""The extension of a request with the time at which it was sent, if requests are logged."""
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO}


def set_up() -> None:
    """Print what ``VLLM_ADAPTERS_LOG`` asks for: ``debug`` or ``info``; the SDK's ``OPENAI_LOG`` does as well."""
    level = _LEVELS.get((os.environ.get("VLLM_ADAPTERS_LOG") or os.environ.get("OPENAI_LOG") or "").strip().lower())
    if level is not None:
        logging.basicConfig(format="[%(asctime)s - %(name)s - %(levelname)s] %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
        logging.getLogger("vllm_adapters").setLevel(level)


def _describe(request: http.Request, response: http.Response | None = None) -> str:
    """Return a request for a log line: method, address without its query, the time since it was sent, and its id."""
    text = f"{request.method} {request.url.copy_with(query=None)}"
    if (sent_at := request.extensions.get(_SENT_AT)) is not None:
        text += f" after {time.monotonic() - sent_at:.3f} s"
    if response is not None and (request_id := response.headers.get("x-request-id")):
        text += f" (request id {request_id})"
    return text


def log_sending(request: http.Request) -> None:
    """Log a request that is about to be sent."""
    log.debug("%s: sending %s bytes", _describe(request), request.headers.get("content-length", "0"))
    request.extensions[_SENT_AT] = time.monotonic()


def log_response(response: http.Response, *, stream: bool) -> None:
    """Log a response, or the beginning of one that is streamed."""
    received = "a stream begins" if stream else f"{response.num_bytes_downloaded} bytes"
    log.debug("%s: HTTP %d, %s", _describe(response.request, response), response.status_code, received)


def log_end(response: http.Response, ended: BaseException | None) -> None:
    """Log the end of a stream: complete, with an error, or left by the caller."""
    outcome = "complete" if ended is None else type(ended).__name__
    if isinstance(ended, GeneratorExit):
        outcome = "left by the caller"
    log.debug("%s: %d bytes, %s", _describe(response.request, response), response.num_bytes_downloaded, outcome)


def log_retry(url: str, reason: str, wait: float) -> None:
    """Log that a request is sent again."""
    log.info("%s: %s, retrying in %.2f s", url.split("?")[0], reason, wait)


def log_failure(url: str, error: Any) -> None:
    """Log an error that a caller gets; its text may quote the request, and is left out."""
    status = error.status_code if error._has_exchange else None
    details = [f"HTTP {status}"] if status else []
    details += [f"request id {error.request_id}"] if error.request_id else []
    log.debug("%s: %s", url.split("?")[0], " ".join([type(error).__name__, *details]))
