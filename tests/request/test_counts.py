"""Arguments that are counts."""

import pytest

from vllm_adapters._request.counts import check_count


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_other_types_raise(value):
    with pytest.raises(TypeError, match=f"`size` must be an int, not {type(value).__name__}"):
        check_count("size", value)


def test_bounds():
    assert check_count("size", 1) == 1
    assert check_count("max_retries", 0, least=0) == 0
    with pytest.raises(ValueError, match="`size` must be at least 1, not 0"):
        check_count("size", 0)
    with pytest.raises(ValueError, match="`max_retries` must be at least 0, not -1"):
        check_count("max_retries", -1, least=0)
