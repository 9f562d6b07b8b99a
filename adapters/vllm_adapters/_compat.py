"""The difference between openai 2, on httpx, and openai 3, on httpx2: the same API under a new name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
from packaging.version import Version

OPENAI_MAJOR = Version(openai.__version__).major

if TYPE_CHECKING:
    import httpcore
    import httpx as http
elif OPENAI_MAJOR >= 3:
    import httpcore2 as httpcore
    import httpx2 as http
else:
    import httpcore
    import httpx as http

__all__ = ["OPENAI_MAJOR", "http", "httpcore"]
