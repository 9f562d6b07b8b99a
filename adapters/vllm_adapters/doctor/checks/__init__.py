"""Checks by subject. ``CHECKS`` holds all of them in the order in which they run."""

from __future__ import annotations

from vllm_adapters.doctor.checks import (
    access,
    chat,
    identity,
    operations,
    pooling,
    schema,
    served,
    structured,
    template,
    tools,
)
from vllm_adapters.doctor.model import Check

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = (
    *identity.CHECKS,
    *served.CHECKS,
    *schema.CHECKS,
    *access.CHECKS,
    *chat.CHECKS,
    *template.CHECKS,
    *tools.CHECKS,
    *structured.CHECKS,
    *pooling.CHECKS,
    *operations.CHECKS,
)
