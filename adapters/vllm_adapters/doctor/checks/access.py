"""Is an API key required, which routes work without it, and are development routes mounted?"""

from __future__ import annotations

from vllm_adapters._compat import http
from vllm_adapters.doctor.model import Check, Finding, broken, missing, skipped, unsupported, works
from vllm_adapters.doctor.probe import CONNECTION_ERRORS, Probe
from vllm_adapters.errors import AuthenticationFailed, PermissionDenied, VLLMError

__all__ = ["CHECKS"]

# Each rejects a body that contains only a model before it does any work. A validation error therefore proves access.
_POST_ROUTES = (
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
_GET_ROUTES = ("/metrics", "/tokenizer_info")
_DEVELOPMENT_ROUTES = (
    *("/sleep", "/wake_up", "/pause", "/resume", "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"),
    *("/collective_rpc", "/server_info", "/update_weights", "/abort_requests"),
)
_ALWAYS_MOUNTED = ("/pause", "/resume")  # by vLLM 0.13 to 0.17, also without development mode
_KEY_ADVICE = "VLLM_API_KEY in the server's environment is safer: other users can read a command line"


def _key(probe: Probe) -> Finding:
    if not _responds(probe, "GET", "/v1/models"):
        return works("required under /v1")
    if probe.api_key:
        return missing("requests without the key are accepted, too", "--api-key KEY", advice=_KEY_ADVICE)
    return missing("not required: anyone who can reach the server can use it", "--api-key KEY", advice=_KEY_ADVICE)


def _open_routes(probe: Probe) -> Finding:
    if not probe.api_key:
        return unsupported("no key is required")
    if not probe.routes:
        return skipped("the server does not list its routes")
    post = [path for path in _POST_ROUTES if path in probe.routes and _responds(probe, "POST", path)]
    get = [path for path in _GET_ROUTES if path in probe.routes and _responds(probe, "GET", path)]
    if not post and not get:
        return works("every route requires the key")
    return broken(
        f"accessible without the key: {', '.join([*post, *get])}",
        advice="No flag changes this. Use a proxy in front of the server that forwards only /v1",
    )


def _responds(probe: Probe, method: str, path: str) -> bool:
    """Return whether a route accepts requests without the key."""
    client, url = probe.anonymous.client, probe.anonymous.at_root(path)
    try:
        if method == "GET":
            client.get(url, cast_to=http.Response)
        else:
            client.post(url, cast_to=http.Response, body={"model": probe.model})
    except (AuthenticationFailed, PermissionDenied):
        return False
    except CONNECTION_ERRORS:
        raise
    except VLLMError as error:
        return error.status_code in (400, 415, 422)
    return True


def _development_routes(probe: Probe) -> Finding:
    if not probe.routes:
        return skipped("the server does not list its routes")
    always = _ALWAYS_MOUNTED if probe.older_than("0.18") else ()
    mounted = [path for path in _DEVELOPMENT_ROUTES if path in probe.routes and path not in always]
    if mounted:
        return broken(
            f"development routes are mounted: {', '.join(mounted)}",
            advice="Unset VLLM_SERVER_DEV_MODE. These routes need no key and change the server",
        )
    return works("none is mounted")


CHECKS = (
    Check("key", "access", "Is an API key required?", _key, counts=False),
    Check("open-routes", "access", "Which routes work without the key?", _open_routes),
    Check("developer-routes", "access", "Are development routes mounted?", _development_routes),
)
