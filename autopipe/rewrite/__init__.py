"""From a captured model and a partition to stages: one fx.GraphModule each, with explicit ports."""

from __future__ import annotations

from autopipe.rewrite.extract import rewrite
from autopipe.rewrite.readable import readable

__all__ = ["readable", "rewrite"]
