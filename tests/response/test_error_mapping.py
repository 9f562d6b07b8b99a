import inspect
import pickle

import openai
import pytest

from vllm_adapters import errors as e
from vllm_adapters._compat import http

TREE = [cls for _, cls in inspect.getmembers(e, inspect.isclass) if issubclass(cls, e.VLLMError)]


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_every_error(cls):
    error = cls("it broke.", hint="mend it", address="http://h:8000/v1", model="m", body={"param": "top_k"})
    assert str(error) == "it broke. (server: http://h:8000/v1, model: m). mend it"
    assert isinstance(error, openai.OpenAIError)
    assert (error.param, error.response.status_code) == ("top_k", cls.STATUS)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.param, again.address) == (cls, str(error), "top_k", "http://h:8000/v1")
    assert cls.__name__ in e.__doc__


def test_a_request_kept_on_an_error_has_no_headers_of_its_user():
    request = http.Request("POST", "http://h/v1", headers={"Authorization": "Bearer sk-canary", "X-Token": "sk-canary"})
    error = e.ServerFailed("x", response=http.Response(500, request=request))
    assert "canary" not in str(error.request.headers)
    assert b"canary" not in pickle.dumps(error)


def test_recast_keeps_everything():
    class Both(e.ContextLengthExceeded, RuntimeError):
        pass

    cause = KeyError("x")
    error = e.ContextLengthExceeded("too long", max_model_len=4096)
    error.__cause__ = cause
    both = error.recast(Both)
    assert isinstance(both, RuntimeError)
    assert (str(both), both.max_model_len, both.__cause__) == ("too long", 4096, cause)
