"""Every error this package raises."""

from __future__ import annotations


class VLLMError(Exception):
    """Base of every error raised by this package."""


class LocalVLLMError(VLLMError):
    """The local vLLM could not be set up, did not start, or died."""
