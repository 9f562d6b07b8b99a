"""Who may do what: routes that answer without the key, routes for developers."""

from __future__ import annotations

from vllm_adapters._compat import http
from vllm_adapters.doctor.model import Check, Finding, absent, broken, lacks, untried, works
from vllm_adapters.doctor.probe import GONE, Visit
from vllm_adapters.errors import AuthenticationFailed, PermissionDenied, VLLMError

# A body with nothing but a model is refused by each of these before any work is done: who gets so far has passed the
# door.
_WORKING = (
    "/invocations",
    "/pooling",
    "/classify",
    "/score",
    "/rerank",
    "/v2/rerank",
    "/v2/embed",
    "/generative_scoring",
    "/inference/v1/generate",
    "/tokenize",
    "/detokenize",
)
_TELLING = ("/metrics", "/tokenizer_info")
_OF_DEVELOPERS = (
    *("/sleep", "/wake_up", "/pause", "/resume", "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"),
    *("/collective_rpc", "/server_info", "/update_weights", "/abort_requests"),
)


def _key(visit: Visit) -> Finding:
    if not _answers(visit, "GET", "/v1/models"):
        return works("under /v1 it does")
    if visit.key:
        return lacks("it takes requests without the key, too", "--api-key KEY", advice=_KEY_IN_ENVIRONMENT)
    return lacks("it asks for no key: who reaches it may use it", "--api-key KEY", advice=_KEY_IN_ENVIRONMENT)


_KEY_IN_ENVIRONMENT = "Better as VLLM_API_KEY in the server's environment: a command line can be read by others"


def _open_routes(visit: Visit) -> Finding:
    if not visit.key:
        return absent("no key is asked for")
    if not visit.paths:
        return untried("it does not list its routes")
    working = [path for path in _WORKING if path in visit.paths and _answers(visit, "POST", path)]
    telling = [path for path in _TELLING if path in visit.paths and _answers(visit, "GET", path)]
    if not working and not telling:
        return works("no route answers without the key")
    return broken(
        f"without the key answer: {', '.join([*working, *telling])}",
        advice="No flag changes this: put a proxy before it that lets only /v1 through",
    )


def _answers(visit: Visit, method: str, path: str) -> bool:
    client, url = visit.anonymous.client, visit.anonymous.at_root(path)
    try:
        if method == "GET":
            client.get(url, cast_to=http.Response)
        else:
            client.post(url, cast_to=http.Response, body={"model": visit.model})
    except (AuthenticationFailed, PermissionDenied):
        return False
    except GONE:
        raise
    except VLLMError as error:
        return error.status_code in (400, 415, 422)
    return True


def _developers(visit: Visit) -> Finding:
    if not visit.paths:
        return untried("it does not list its routes")
    found = [path for path in _OF_DEVELOPERS if path in visit.paths]
    if found:
        return broken(
            f"there are routes for developers: {', '.join(found)}",
            advice="Serve without VLLM_SERVER_DEV_MODE: they need no key, and change the server",
        )
    return works("none is mounted")


CHECKS = (
    Check("key", "access", "Does it ask for a key?", _key, counts=False),
    Check("open-routes", "access", "Which routes answer without the key?", _open_routes),
    Check("developer-routes", "access", "Are routes for developers mounted?", _developers),
)
