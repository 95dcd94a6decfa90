"""Runs a split model: whole, as the model would run, or by a schedule over microbatches."""

from __future__ import annotations

from autopipe.runtime.engine import Engine, StepOutput

__all__ = ["Engine", "StepOutput"]
