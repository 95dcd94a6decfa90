"""Is the split equal to the model? Runs both and compares every number; names the first that differs."""

from __future__ import annotations

from autopipe.verify.comparison import verify
from autopipe.verify.report import Finding, Passed, Verification

__all__ = ["Finding", "Passed", "Verification", "verify"]
